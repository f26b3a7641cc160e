"""What moto lacks, answered by the layer before it as AWS documents it: zonal shifts, backups, a replica let go."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from .conftest import ACCOUNT, REGION, Call, MockAws

JSON = "application/json"
RDS = "http://rds.amazonaws.com/doc/2014-10-31/"
EARLIEST, LATEST = datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 27, 12, tzinfo=UTC)


class ZonalShiftService:
    """ARC zonal shift: one shift at a time for a load balancer."""

    def __init__(self, aws: MockAws) -> None:
        self.shifts: list[dict[str, Any]] = []
        self.turned_on = True
        aws.answers |= {"ListZonalShifts": self._list, "StartZonalShift": self._start, "CancelZonalShift": self._cancel}

    def _list(self, _: Call) -> tuple[int, str, str]:
        return 200, JSON, json.dumps({"items": self.shifts})

    def _start(self, call: Call) -> tuple[int, str, str]:
        wanted = json.loads(call.body)
        if not self.turned_on:
            return _error(404, "ResourceNotFoundException", "The resource is not a managed resource")
        if any(s["status"] == "ACTIVE" for s in self.shifts):
            return _error(409, "ConflictException", "A zonal shift is already active")
        now = datetime.now(UTC)
        ends = timedelta(**{{"m": "minutes", "h": "hours"}[wanted["expiresIn"][-1]]: int(wanted["expiresIn"][:-1])})
        shift = {
            "zonalShiftId": f"shift-{len(self.shifts)}", "resourceIdentifier": wanted["resourceIdentifier"],
            "awayFrom": wanted["awayFrom"], "comment": wanted["comment"], "status": "ACTIVE",
            "startTime": now.timestamp(), "expiryTime": (now + ends).timestamp(),
        }  # fmt: skip
        self.shifts.append(shift)
        return 201, JSON, json.dumps(shift)

    def _cancel(self, call: Call) -> tuple[int, str, str]:
        for shift in self.shifts:
            if call.path.endswith(shift["zonalShiftId"]):
                if shift["status"] != "ACTIVE":
                    return _error(409, "ConflictException", "The zonal shift is not active")
                shift["status"] = "CANCELED"
                return 200, JSON, json.dumps(shift)
        return _error(404, "ResourceNotFoundException", "no such shift")


class BackupService:
    """Automated backups of `orders`, in its own region and replicated into the other; restores make what they say."""

    def __init__(self, aws: MockAws) -> None:
        self._aws = aws
        self.retained = False  # the instance is gone
        aws.answers |= {
            "DescribeDBInstanceAutomatedBackups": self._describe, "RestoreDBInstanceToPointInTime": self._restore,
        }  # fmt: skip

    @staticmethod
    def arn(region: str) -> str:
        return f"arn:aws:rds:{region}:{ACCOUNT}:auto-backup:ab-orders-{region}"

    def _describe(self, call: Call) -> tuple[int, str, str]:
        arn = self.arn(call.region)
        asked = call.parameters
        if asked.get("DBInstanceIdentifier", "orders") != "orders":
            return _xml_error(404, "DBInstanceAutomatedBackupNotFound")
        if asked.get("DBInstanceAutomatedBackupsArn", arn) != arn:
            return _xml_error(404, "DBInstanceAutomatedBackupNotFound")
        older = _backup(f"{arn}-older", LATEST - timedelta(days=9), LATEST - timedelta(days=8), "retained")
        now = _backup(arn, EARLIEST, LATEST, "retained" if self.retained else "active")
        return 200, "text/xml", (
            f'<DescribeDBInstanceAutomatedBackupsResponse xmlns="{RDS}"><DescribeDBInstanceAutomatedBackupsResult>'
            f"<DBInstanceAutomatedBackups>{older}{now}</DBInstanceAutomatedBackups>"
            "</DescribeDBInstanceAutomatedBackupsResult></DescribeDBInstanceAutomatedBackupsResponse>"
        )  # fmt: skip

    def _restore(self, call: Call) -> tuple[int, str, str]:
        asked, rds = call.parameters, self._aws.client("rds", call.region)
        name = asked["TargetDBInstanceIdentifier"]
        if any(d["DBInstanceIdentifier"] == name for d in rds.describe_db_instances()["DBInstances"]):
            return _xml_error(400, "DBInstanceAlreadyExists")
        numbers = range(1, 10)
        tags = [
            {"Key": asked[f"Tags.Tag.{n}.Key"], "Value": asked[f"Tags.Tag.{n}.Value"]}
            for n in numbers
            if f"Tags.Tag.{n}.Key" in asked
        ]
        rds.create_db_instance(
            DBInstanceIdentifier=name, Engine="postgres", DBInstanceClass=asked.get("DBInstanceClass", "db.m6g.large"),
            AllocatedStorage=20, MasterUsername="drkit", MasterUserPassword="not-a-secret", Tags=tags,
        )  # fmt: skip
        return 200, "text/xml", (
            f'<RestoreDBInstanceToPointInTimeResponse xmlns="{RDS}"><RestoreDBInstanceToPointInTimeResult>'
            f"<DBInstance><DBInstanceIdentifier>{name}</DBInstanceIdentifier></DBInstance>"
            "</RestoreDBInstanceToPointInTimeResult></RestoreDBInstanceToPointInTimeResponse>"
        )  # fmt: skip


def _backup(arn: str, earliest: datetime, latest: datetime, status: str) -> str:
    return (
        f"<DBInstanceAutomatedBackup><DBInstanceAutomatedBackupsArn>{arn}</DBInstanceAutomatedBackupsArn>"
        f"<DBInstanceIdentifier>orders</DBInstanceIdentifier><DbiResourceId>db-1</DbiResourceId><Region>{REGION}</Region>"
        f"<RestoreWindow><EarliestTime>{earliest:%Y-%m-%dT%H:%M:%SZ}</EarliestTime>"
        f"<LatestTime>{latest:%Y-%m-%dT%H:%M:%SZ}</LatestTime></RestoreWindow><Status>{status}</Status>"
        "<BackupRetentionPeriod>7</BackupRetentionPeriod><Encrypted>true</Encrypted></DBInstanceAutomatedBackup>"
    )


def _error(status: int, code: str, message: str) -> tuple[int, str, str]:
    return status, JSON, json.dumps({"__type": code, "message": message})


def _xml_error(status: int, code: str) -> tuple[int, str, str]:
    text = f"<ErrorResponse><Error><Code>{code}</Code><Message>{code}</Message></Error></ErrorResponse>"
    return status, "text/xml", text
