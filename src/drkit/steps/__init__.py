"""What playbooks name: steps, one small module a family. A step is `done?` + `act`; see drkit.playbook."""
