"""Every error that drkit shows to a person, in one tree.

DrkitError                   exit
├── UsageError                2    the command, a file or the set-up is wrong; nothing was touched
│   ├── UnknownName                no experiment, playbook, run, target or verb of that name
│   ├── BadDocument                a YAML, TOML or JSON file says something we do not understand
│   └── LabError                   the lab cannot be started or is not in a state to be used
├── Refused                   4    a guard said no; nothing was touched
│   ├── TargetBusy                 another run holds the target
│   └── PlanDrift                  the plan that was approved is not the plan of now
├── CannotTell                3    an instrument failed, so there is no verdict
│   ├── Unmeasurable               the history does not contain what a number needs
│   ├── TargetError                AWS, Kubernetes, the database or the service did not do what was asked
│   ├── TimedOut                   a condition did not come true in time
│   └── RunDirError                the run directory cannot be written or read
├── StepFailed                1    a step of a playbook did not succeed; the run can be resumed
├── Aborted                   3    a guard fired or a person stopped the run; all was put back
└── StillBroken               5    something that drkit changed could not be put back
"""

from __future__ import annotations

from typing import ClassVar


class DrkitError(Exception):
    """A problem a person can act on: one lower-case sentence, and a hint with the way out.

    The command line prints `error: <message>` and `hint: <hint>` and exits with `exit_code`.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[DrkitError], tuple[str, ...]]:
        return type(self), (self.message, self.hint)


class UsageError(DrkitError):
    exit_code = 2


class UnknownName(UsageError):
    pass


class BadDocument(UsageError):
    pass


class LabError(UsageError):
    pass


class Refused(DrkitError):
    exit_code = 4


class TargetBusy(Refused):
    pass


class PlanDrift(Refused):
    pass


class CannotTell(DrkitError):
    exit_code = 3


class Unmeasurable(CannotTell):
    pass


class TargetError(CannotTell):
    """A target did not do what was asked. `code` is the target's own error code (AccessDenied, 25006, …) or ""."""

    def __init__(self, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


class TimedOut(CannotTell):
    pass


class RunDirError(CannotTell):
    pass


class Aborted(DrkitError):
    exit_code = 3


class StillBroken(DrkitError):
    exit_code = 5


class StepFailed(DrkitError):
    """`step` is its name; the message is why."""

    exit_code = 1

    def __init__(self, step: str, why: str, hint: str = "") -> None:
        super().__init__(why, hint)
        self.step = step

    def __reduce__(self) -> tuple[type[DrkitError], tuple[str, ...]]:
        return type(self), (self.step, self.message, self.hint)
