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
    """Undo records as parameters /drkit/undo/<run>/<seq>; an `undo.CloudCopy`."""

    def __init__(self, target: Target) -> None:
        self._account = Account(target)
        self._ssm = self._account.client("ssm")

    def put(self, run_id: str, record: UndoRecord) -> None:
        """Store one record, again if need be; TargetError if it cannot be stored: then nothing may be broken."""
        value = json.dumps(
            {
                "target": self._account.target.name, "seq": record.seq, "verb": record.verb, "args": record.args,
                "region": record.region, "at_ns": record.at_ns,
            },
            separators=(",", ":"),
        )  # fmt: skip
        if len(value) > _LIMIT_CHARS:
            raise TargetError(
                f"the undo record of {record.verb} is too long to be kept in SSM: {len(value)} characters",
                "break less at once",
            )
        self._account.assert_account()
        self._ssm.put_parameter(
            Name=_name(run_id, record.seq), Value=value, Type="String", Overwrite=True, Tier="Intelligent-Tiering"
        )

    def delete(self, run_id: str, record: UndoRecord) -> None:
        """Forget one record that was carried out; one that is gone is fine."""
        self._account.assert_account()
        try:
            self._ssm.delete_parameter(Name=_name(run_id, record.seq))
        except TargetError as e:
            if e.code != "ParameterNotFound":
                raise

    def records(self, run_id: str) -> tuple[UndoRecord, ...]:
        """Return what a run has not put back, in the order written: for `drkit undo` when the local journal is lost."""
        found = [_record(value) for value in self._values(f"{ROOT}/{named(run_id, 'run')}")]
        return tuple(sorted(found, key=lambda r: r.seq))

    def runs(self) -> tuple[str, ...]:
        """Return the ids of all runs of this account and region that have something left to put back."""
        return tuple(sorted({name.split("/")[3] for name in self._names(ROOT)}))

    def _values(self, path: str) -> list[str]:
        pages = self._ssm.get_paginator("get_parameters_by_path").paginate(Path=path, Recursive=True)
        return [p["Value"] for page in pages for p in page["Parameters"]]

    def _names(self, path: str) -> list[str]:
        pages = self._ssm.get_paginator("get_parameters_by_path").paginate(Path=path, Recursive=True)
        return [p["Name"] for page in pages for p in page["Parameters"]]


def _name(run_id: str, seq: int) -> str:
    return f"{ROOT}/{named(run_id, 'run')}/{seq:06d}"


def _record(value: str) -> UndoRecord:
    entry = json.loads(value)
    return UndoRecord(entry["seq"], entry["verb"], entry["args"], entry["region"], entry["at_ns"])
