"""A database that takes no more writes, while replicas still follow it: for a switch that is to lose nothing.

It is a setting of the database (`default_transaction_read_only`), so it works wherever one may own a database, RDS
included; replicas inherit it. A client that sets its own transactions read-write is not stopped: this is no fence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, LiteralString

from drkit import undo as undo_journal
from drkit.errors import TargetError
from drkit.guard import Permit
from drkit.targets import Target
from drkit.targets.postgres import Endpoint, connect
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

_ASK = (
    "select exists (select from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase"
    " where d.datname = current_database() and s.setrole = 0"
    " and 'default_transaction_read_only=on' = any (s.setconfig))"
)
# One session that may not be ended would let the whole statement fail, and none would be. Those of superusers are left
# to superusers; the rest to members of its role, or of pg_signal_backend (rds_superuser is one).
_END_OTHERS = (
    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
    " and backend_type = 'client backend' and pid <> pg_backend_pid()"
    " and exists (select from pg_roles me, pg_roles its where me.rolname = current_user and its.oid = usesysid"
    " and (me.rolsuper or not its.rolsuper and (its.oid = me.oid or pg_has_role(its.oid, 'usage')"
    " or pg_has_role('pg_signal_backend', 'usage'))))"
)


def is_read_only(target: Target, at: Endpoint) -> bool:
    """Return whether new sessions of the database take no writes, and a transaction of ours is refused.

    Raises TargetError if the server does not answer.
    """
    with connect(target, at=at) as connection:
        row = connection.execute(_ASK).fetchone()
        mine = connection.execute("show transaction_read_only").fetchone()
    return bool(row and row[0]) and mine is not None and mine[0] == "on"


def stop_writes(target: Target, region: str, instance_id: str, at: Endpoint, permit: Permit, undo: UndoJournal) -> None:
    """Make the database read-only by default, and end every session that began before and that we may end.

    Raises Refused without consent or in another account, TargetError if the server does not answer.
    """
    _may_break(target, region, instance_id, permit)
    with connect(target, at=at, insist=True) as connection:
        row = connection.execute(_ASK).fetchone()
        if not (row and row[0]):
            undo.will("take_writes_again", region=region, aws_region=region, instance_id=instance_id)
            permit.check()
            connection.execute(_alter(connection, "set default_transaction_read_only = on"))
        permit.check()
        connection.execute(_END_OTHERS)


def allow_writes(target: Target, region: str, instance_id: str, at: Endpoint, permit: Permit) -> None:
    """Let the database take writes again; sessions that began meanwhile are ended, for they keep what they found.

    Raises as `stop_writes` does.
    """
    _may_break(target, region, instance_id, permit)
    _allow(target, at)


def _may_break(target: Target, region: str, instance_id: str, permit: Permit) -> None:
    from drkit.targets.aws import Account, Database

    account = Account(target, region)
    account.may_break(permit)
    account.must_consent(instance_id, Database(target, region).instance(instance_id).tags, permit)


def _allow(target: Target, at: Endpoint) -> None:
    with connect(target, at=at, insist=True) as connection:
        connection.execute(_alter(connection, "reset default_transaction_read_only"))
        connection.execute(_END_OTHERS)


def _alter(connection: Connection, what: LiteralString) -> Composed:
    from psycopg import sql

    row = connection.execute("select current_database()").fetchone()
    assert row is not None
    return sql.SQL("alter database {} ").format(sql.Identifier(row[0])) + sql.SQL(what)


@undo_journal.verb("take_writes_again")
def take_writes_again(target: Target, *, aws_region: str, instance_id: str) -> str:
    """Let an instance take writes again that was stopped for a switch; one that has been fenced since stays silent."""
    from drkit.targets.aws import Account, Database

    Account(target, aws_region).assert_account()
    now = Database(target, aws_region).instance(instance_id)
    at = (now.host, now.port)
    try:
        if not is_read_only(target, at):
            return f"{instance_id} takes writes"
        _allow(target, at)
    except TargetError as e:
        raise TargetError(f"{instance_id} could not be asked to take writes: {e.message}", e.hint, e.code) from e
    return f"let {instance_id} take writes again"
