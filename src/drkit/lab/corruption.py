"""Data that is lost though nothing failed: what a wrong statement by a client does, and when exactly it did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drkit import clock
from drkit.errors import Refused, TargetError, UnknownName
from drkit.targets import Target

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was deleted, and when. The commit's time stamp is between the two times (UTC), of the server's clock."""

    rows: int
    not_before_utc: datetime
    not_after_utc: datetime
    lsn: str  # where the log was just after the commit


def delete_rows(target: Target, table: str) -> Deleted:
    """Delete all rows of a table of a lab through the writer endpoint, in one transaction.

    Raises Refused if the target is no lab, UnknownName if it has no such table, TargetError if the writer does not
    answer or does not commit.
    """
    if target.kind != "lab":
        raise Refused(f"not deleting the rows of {table}: {target.name} is no lab")
    from psycopg import sql

    from drkit.targets import postgres

    with postgres.connect(target, timeout_s=TIMEOUT_S) as connection:
        tables = connection.execute(
            "select table_schema, table_name from information_schema.tables"
            " where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        found = [(schema, name) for schema, name in tables if table in (name, f"{schema}.{name}")]
        if len(found) != 1:
            known = ", ".join(sorted(f"{schema}.{name}" for schema, name in tables))
            raise UnknownName(f"there is no one table {table!r} in {target.name}", f"there are {known or 'none'}")
        connection.execute("begin")
        rows = connection.execute(sql.SQL("delete from {}").format(sql.Identifier(*found[0]))).rowcount
        not_before = clock.wall_utc()
        connection.execute("commit")
        not_after = clock.wall_utc()
        row = connection.execute("select pg_current_wal_lsn()::text").fetchone()
        if row is None:
            raise TargetError(f"{target.name} does not say where its log is")
        return Deleted(rows, not_before, not_after, row[0])
