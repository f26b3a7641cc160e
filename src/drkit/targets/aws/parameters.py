"""A second copy of the undo journal in SSM Parameter Store, beside the resources: for when this machine is lost."""

from __future__ import annotations

import json

from drkit.errors import TargetError
from drkit.model import UndoRecord
from drkit.targets import Target
from drkit.targets.aws.account import Account, named

ROOT = "/drkit/undo"
IAM_CLOUD_COPY = ("ssm:DeleteParameter", "ssm:GetParametersByPath", "ssm:PutParameter")
_LIMIT_CHARS = 8192  # of an advanced parameter; a standard one may have 4096


class Parameters:
    """Undo records as parameters /drkit/undo/<run>/<seq> in one region; an `undo.CloudCopy`."""

    def __init__(self, target: Target, region: str = "") -> None:
        self._account = Account(target, region)
        self._ssm = self._account.client("ssm")

    def put(self, run_id: str, record: UndoRecord) -> None:
        """Store one record, again if need be; TargetError if it cannot be stored: then nothing may be broken."""
        value = json.dumps(
            {
                "target": self._account.target.name, "parts": _parts(self._account.target), "seq": record.seq,
                "verb": record.verb, "args": record.args, "region": record.region, "at_ns": record.at_ns,
            },
            separators=(",", ":"),
        )  # fmt: skip
        if len(value) > _LIMIT_CHARS:
            raise TargetError(
                f"the undo record of {record.verb} is too long to be kept in SSM: {len(value)} characters",
                "break less at once",
            )
        self._ssm.put_parameter(
            Name=_name(run_id, record.seq), Value=value, Type="String", Overwrite=True, Tier="Intelligent-Tiering"
        )

    def delete(self, run_id: str, record: UndoRecord) -> None:
        """Forget one record that was carried out; one that is gone is fine."""
        try:
            self._ssm.delete_parameter(Name=_name(run_id, record.seq))
        except TargetError as e:
            if e.code != "ParameterNotFound":
                raise

    def records(self, run_id: str) -> tuple[UndoRecord, ...]:
        """Return what a run has not put back, in the order written: for `drkit undo` when the local journal is lost."""
        found = [_record(value) for _, value in self._described(f"{ROOT}/{named(run_id, 'run')}")]
        return tuple(sorted(found, key=lambda r: r.seq))

    def runs(self) -> tuple[str, ...]:
        """Return the ids of all runs of this account and region that have something left to put back."""
        return tuple(sorted({_run_of(name) for name, _ in self._described(ROOT)}))

    def unfinished(self) -> tuple[str, ...]:
        """Return the ids of all runs, of whatever machine, that have something of this very target left to put back.

        Names of targets are personal: a run counts also if its target had another name and a part in common.
        """
        ours = {self._account.target.name, *_parts(self._account.target)}
        entries = [(name, json.loads(value)) for name, value in self._described(ROOT)]
        return tuple(sorted({_run_of(name) for name, e in entries if ours & {e["target"], *e.get("parts", ())}}))

    def _described(self, path: str) -> list[tuple[str, str]]:
        """Return name and value of each parameter under a path."""
        pages = self._ssm.get_paginator("get_parameters_by_path").paginate(Path=path, Recursive=True)
        return [(p["Name"], p["Value"]) for page in pages for p in page["Parameters"]]


def _parts(target: Target) -> list[str]:
    """Return what names the parts of a target in AWS, whatever the target file calls itself."""
    network, database, compute = target.network, target.database, target.compute
    parts = {
        "vpc": network and network.vpc_id,
        "database": database and database.instance_id,
        "group": compute and compute.asg_name,
    }
    return [f"{kind} {name}" for kind, name in parts.items() if name]


def _run_of(name: str) -> str:
    return name.split("/")[3]


def _name(run_id: str, seq: int) -> str:
    return f"{ROOT}/{named(run_id, 'run')}/{seq:06d}"


def _record(value: str) -> UndoRecord:
    entry = json.loads(value)
    return UndoRecord(entry["seq"], entry["verb"], entry["args"], entry["region"], entry["at_ns"])
