"""How long a restore to a point in time takes in the lab, against the plain way to do the same by hand.

    python benchmarks/restore.py [--sizes-mb 50,500] [--repeats 3]

For each size rows are inserted through the writer, a new base backup is made (backup replication is stopped and started
again, then RDS copies everything anew), and both ways take turns on the same backup of the same bucket:

  lab    RestoreDBInstanceToPointInTime with the latest restorable time, until the new instance takes a connection
  floor  the pg_basebackup tar fetched by boto3 straight into tar, its log fetched one by one, PostgreSQL started on it,
         until it has recovered

Prints times, their ratio (at most 1.3 wanted), bytes a second, and how the time grows with the size.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from drkit import clock
from drkit import lab as labs
from drkit.lab import LabOptions, binaries
from drkit.lab.calls import CLIENT
from drkit.lab.pgwire import ServerError
from drkit.lab.postgres import Node, make_directory
from drkit.targets import Target, postgres

LIMIT = 1.3
RECOVERY, BUCKET, WRITER = "eu-west-1", "orders-db-backups", "orders-db"
MB = 1_000_000
ROW_BYTES, ROWS_AT_ONCE = 1000, 20_000
LONG_S = 900.0


class Bench:
    """One lab of the benchmark's own, filled step by step."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.target: Target = labs.up(home=home, options=LabOptions(multi_az=False, instances=1))
        self.rds, self.s3 = self.client("rds"), self.client("s3")
        self.restored = 0

    def client(self, service: str) -> Any:
        return boto3.Session("lab", "lab", region_name=RECOVERY).client(  # type: ignore[call-overload]
            service,
            endpoint_url=self.target.aws.endpoint_url,
            config=Config(
                retries={"total_max_attempts": 3}, read_timeout=LONG_S, s3={"addressing_style": "path"},
                user_agent_extra=CLIENT, response_checksum_validation="when_required",
            ),
        )  # fmt: skip

    # --- data ---------------------------------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        with postgres.connect(self.target, timeout_s=60) as connection:
            row = connection.execute("select pg_database_size(current_database())").fetchone()
        assert row is not None
        return int(row[0])

    def fill(self, size_bytes: int) -> None:
        with postgres.connect(self.target, timeout_s=LONG_S) as connection:
            connection.execute("create table if not exists filler (id bigserial, text text)")
            connection.execute("alter table filler alter text set storage plain")
        while (left := size_bytes - self.size_bytes()) > ROW_BYTES:
            rows = min(ROWS_AT_ONCE, max(1, left // (ROW_BYTES + 50)))
            with postgres.connect(self.target, timeout_s=LONG_S) as connection:
                connection.execute(
                    "insert into filler (text) select repeat(md5(n::text || random()::text), %s)"
                    " from generate_series(1, %s) n",
                    [ROW_BYTES // 32, rows],
                )
        with postgres.connect(self.target, timeout_s=LONG_S) as connection:
            # Else hint bits are set by and by, each page of them in the log, which both ways would have to replay.
            connection.execute("vacuum (freeze) filler")

    def window(self) -> dict[str, Any]:
        kept = self.rds.describe_db_instance_automated_backups(DBInstanceIdentifier=WRITER)
        window: dict[str, Any] = kept["DBInstanceAutomatedBackups"][0].get("RestoreWindow", {})
        return window

    def back_up(self) -> None:
        """Have a base backup made of all that is there now, and wait until it and its log can be restored."""
        now = clock.wall_utc()
        found = self.rds.describe_db_instance_automated_backups(DBInstanceIdentifier=WRITER)
        arn = found["DBInstanceAutomatedBackups"][0]["DBInstanceArn"]
        self.rds.stop_db_instance_automated_backups_replication(SourceDBInstanceArn=arn)
        self.rds.start_db_instance_automated_backups_replication(SourceDBInstanceArn=arn)
        clock.wait_until(
            lambda: self.window().get("EarliestTime", now) > now, "a new base backup", timeout_s=LONG_S, every_s=0.2
        )

    def keys(self, prefix: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{WRITER}/{prefix}/")
        return sorted(o["Key"] for page in pages for o in page.get("Contents", ()))

    # --- the two ways -------------------------------------------------------------------------------------------------

    def lab_s(self) -> float:
        self.restored += 1
        name = f"restored-{self.restored}"
        kept = self.rds.describe_db_instance_automated_backups(DBInstanceIdentifier=WRITER)
        began_ns = clock.now_ns()
        self.rds.restore_db_instance_to_point_in_time(
            SourceDBInstanceAutomatedBackupsArn=kept["DBInstanceAutomatedBackups"][0]["DBInstanceAutomatedBackupsArn"],
            TargetDBInstanceIdentifier=name,
            DBSubnetGroupName="orders",
            UseLatestRestorableTime=True,
        )

        def answers() -> bool:
            found = self.rds.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"][0]
            assert found["DBInstanceStatus"] in ("creating", "available"), found["DBInstanceStatus"]
            if found["DBInstanceStatus"] != "available":
                return False
            socket.create_connection(("127.0.0.1", found["Endpoint"]["Port"]), timeout=5).close()
            return True

        clock.wait_until(answers, f"{name} is restored", timeout_s=LONG_S, every_s=0.02)  # as the floor
        taken_s = (clock.now_ns() - began_ns) / clock.NS_PER_S
        self.rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)
        clock.wait_until(
            lambda: name not in {i["DBInstanceIdentifier"] for i in self.rds.describe_db_instances()["DBInstances"]},
            f"{name} is gone", timeout_s=60, every_s=0.1,
        )  # fmt: skip
        return taken_s

    def floor_s(self) -> tuple[float, int]:
        """Return how long the plain way takes, and the size of the tar."""
        found = binaries.find()
        directory = make_directory(found)
        data, segments = directory / "data", directory / "wal"
        node = Node("floor", data, sockets=directory, log=directory / "log", binaries=found)
        try:
            began_ns = clock.now_ns()
            data.mkdir(mode=0o700)
            segments.mkdir()
            tar = self.s3.get_object(Bucket=BUCKET, Key=self.keys("base")[-1])
            with subprocess.Popen(
                ["tar", "-x", "--no-same-owner", "-f", "-", "-C", str(data)], stdin=subprocess.PIPE
            ) as unpack:
                assert unpack.stdin is not None
                shutil.copyfileobj(tar["Body"], unpack.stdin, 1 << 20)
            assert unpack.returncode == 0
            first = (data / "backup_label").read_text().split("file ")[1].split(")")[0]
            for key in self.keys("wal"):
                if (name := key.rpartition("/")[2]) >= first and "." not in name:
                    body = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                    (segments / name).write_bytes(body)
            (data / "recovery.signal").touch()
            node.configure(
                restore_command=f'cp {segments}/"%f" "%p"', archive_mode="off", synchronous_standby_names=None
            )
            found.give(directory)
            node.start(timeout_s=LONG_S)
            clock.wait_until(lambda: recovered(node), "it has recovered", timeout_s=LONG_S, every_s=0.02)
            return (clock.now_ns() - began_ns) / clock.NS_PER_S, int(tar["ContentLength"])
        finally:
            node.wipe()
            shutil.rmtree(directory, ignore_errors=True)


def recovered(node: Node) -> bool:
    try:
        return node.query("select pg_is_in_recovery()") == [("f",)]
    except (OSError, ServerError):
        return False


def told(name: str, values: list[float], unit: str = "s") -> str:
    return (
        f"  {name:6} median {statistics.median(values):.2f} {unit}  min {min(values):.2f}  max {max(values):.2f}"
        f"  n {len(values)}"
    )


def measured(bench: Bench, size_mb: int, repeats: int) -> tuple[int, list[float], list[float]]:
    """Return the size of the tar in bytes, and the times of both ways in s, which took turns."""
    bench.fill(size_mb * MB)
    bench.back_up()
    lab: list[float] = []
    floor: list[float] = []
    size = 0
    for n in range(repeats):
        if n % 2:
            lab.append(bench.lab_s())
        taken_s, size = bench.floor_s()
        floor.append(taken_s)
        if not n % 2:
            lab.append(bench.lab_s())
    return size, lab, floor


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes-mb", default="50,500", help="how large the database is to be, ascending")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    sizes = sorted(int(text) for text in args.sizes_mb.split(","))
    home = Path(tempfile.mkdtemp(prefix="drkit-bench-"))
    free = shutil.disk_usage(home).free
    if free < 8 * sizes[-1] * MB:
        print(f"error: {free / MB:.0f} MB are free in {home}, 8 times {sizes[-1]} MB are needed", file=sys.stderr)
        return 2
    found: dict[int, tuple[float, float]] = {}
    ratios: dict[int, float] = {}
    try:
        bench = Bench(home)
        for size_mb in sizes:
            size, lab, floor = measured(bench, size_mb, args.repeats)
            both = [one / other for one, other in zip(lab, floor, strict=True)]
            ratios[size_mb] = statistics.median(both)
            found[size] = statistics.median(lab), statistics.median(floor)
            print(f"{size_mb} MB of database, {size / MB:.0f} MB of base backup:")
            print(told("lab", lab))
            print(told("floor", floor))
            print(told("ratio", both, "×"))
            speed, floor_speed = (size / MB / seconds for seconds in found[size])
            print(f"  {speed:.0f} MB/s restored, floor {floor_speed:.0f} MB/s", flush=True)
    finally:
        labs.down(home=home)
        shutil.rmtree(home, ignore_errors=True)
    (small, (lab_small, _)), (large, (lab_large, _)) = min(found.items()), max(found.items())
    if large > small:
        each = (lab_large - lab_small) / (large - small)
        print(f"growth: {each * 100 * MB:.2f} s for each 100 MB, beside {lab_small - each * small:.2f} s always")
    met = all(ratio <= LIMIT for ratio in ratios.values())
    print(f"at most {LIMIT:g} times the floor wanted: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
