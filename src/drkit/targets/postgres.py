"""The database as a client sees it, through the target's endpoints: who answers, what follows it, does it take writes.

Each question is one fresh connection with an end to its patience, because the interesting moments are those in which
nobody answers. Nothing of the environment (PGHOSTADDR, PGSERVICE, …) can lead it elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drkit.errors import TargetError, UsageError
from drkit.targets import DatabaseTarget, Target

if TYPE_CHECKING:
    from psycopg import Connection

SECRET_S = 5.0  # for a region to give a secret, before the other one is asked
TIMEOUT_S = 3.0  # for connecting (libpq: whole seconds, at least 2), and again for each answer
_SECRETS: dict[str, str] = {}  # ARN → password, until the database refuses it


@dataclass(frozen=True, slots=True)
class Identity:
    """Which server answered."""

    address: str  # of the server itself, not of the endpoint in front of it
    port: int
    in_recovery: bool  # True: a standby or replica, read-only
    timeline: int | None  # one more after each promotion; None where the user may not ask
    system_identifier: str  # the same for a server and everything that was ever copied from it; "" as above


@dataclass(frozen=True, slots=True)
class Standby:
    """One server that streams from the writer, as the writer sees it (pg_stat_replication).

    A standby whose network is gone stays listed until the writer's wal_sender_timeout: look at its lag. RDS does not
    show the Multi-AZ standby here (it copies blocks), so there these are read replicas only.
    """

    name: str  # application_name
    state: str  # startup, catchup, streaming, backup
    sync_state: str  # sync, quorum, potential, async
    lag_bytes: int | None  # written by the writer and not yet safe on the standby; None where the user may not ask
    replay_lag_bytes: int | None
    flush_lsn: str = ""  # up to where it is safe on the standby
    writer_lsn: str = ""  # up to where the writer has written

    @property
    def is_replica(self) -> bool:
        """Return whether it follows asynchronously: what it lacks is lost when it is promoted."""
        return self.sync_state == "async"

    @property
    def in_sync(self) -> bool:
        return self.state == "streaming" and self.sync_state in {"sync", "quorum"}


Endpoint = tuple[str, int]  # host and port of one server, as RDS names them


def identity(
    target: Target, *, replica: bool = False, at: Endpoint | None = None, timeout_s: float = TIMEOUT_S
) -> Identity:
    """Return who answers at the writer endpoint (or the replica's, or `at` one). Raises TargetError if nobody does."""
    with connect(target, replica=replica, at=at, timeout_s=timeout_s) as connection:
        row = connection.execute(
            "select coalesce(host(inet_server_addr()), 'local'), coalesce(inet_server_port(), 0), pg_is_in_recovery()"
        ).fetchone()
        assert row is not None  # a select without from has one row
        control = _if_allowed(
            connection,
            # A writer's control file lags behind: after a promotion it names the old timeline until a checkpoint.
            "select case when pg_is_in_recovery() then timeline_id"
            " else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int end, system_identifier::text"
            " from pg_control_checkpoint(), pg_control_system()",
        )
        timeline, system_identifier = control or (None, "")
        return Identity(row[0], row[1], row[2], timeline, system_identifier)


def server(target: Target, *, replica: bool = False) -> str:
    """Return the address and port of the server behind the writer endpoint (or the replica's): "10.0.1.7:5432"."""
    who = identity(target, replica=replica)
    return f"{who.address}:{who.port}"


def is_in_recovery(target: Target, *, replica: bool = False) -> bool:
    """Return whether the server that answers is a standby. Raises TargetError if nobody answers."""
    return identity(target, replica=replica).in_recovery


def standbys(target: Target, *, at: Endpoint | None = None, timeout_s: float = TIMEOUT_S) -> tuple[Standby, ...]:
    """Return what streams from the writer (or `at` one), by name; () too if a standby answers."""
    with connect(target, at=at, timeout_s=timeout_s) as connection:
        rows = connection.execute(
            "select coalesce(application_name, ''), coalesce(state, ''), coalesce(sync_state, ''),"
            " pg_wal_lsn_diff(now.lsn, flush_lsn)::bigint, pg_wal_lsn_diff(now.lsn, replay_lsn)::bigint,"
            " coalesce(flush_lsn::text, ''), coalesce(now.lsn::text, '')"
            " from pg_stat_replication,"
            " lateral (select case when pg_is_in_recovery() then pg_last_wal_receive_lsn()"
            " else pg_current_wal_lsn() end as lsn) as now"
            " where state is distinct from 'backup' order by 1"
        ).fetchall()
    return tuple(Standby(*row) for row in rows)


def must_be_askable(target: Target, at: Endpoint | None = None) -> None:
    """Raise TargetError or UsageError if what a question needs can't be had: a password, an address of the name.

    Else silence could be this machine's own.
    """
    database = _database(target)
    password_of(target, database)
    host, port = (target.address(at[0]), at[1]) if at is not None else (database.host, database.port)
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as e:
        raise TargetError(f"{host} has no address here: {e}", "can this machine resolve it? see `hosts`") from e


def accepts_writes(
    target: Target, *, at: Endpoint | None = None, timeout_s: float = TIMEOUT_S, insist: bool = False
) -> bool:
    """Return whether a transaction commits through the writer endpoint (or `at` one), and is replicated as promised.

    It writes one message into the WAL and touches no table. insist: as of `connect`.
    Raises TargetError only for what is wrong with the target file: no such user, password or database.
    """
    from psycopg import Error

    warnings: list[str] = []
    try:
        with connect(target, at=at, timeout_s=timeout_s, insist=insist) as connection:
            # A wait for the synchronous standby that was cancelled is a success with this warning.
            connection.add_notice_handler(lambda notice: warnings.append(notice.sqlstate or ""))
            row = connection.execute("show transaction_read_only").fetchone()
            if row is None or row[0] != "off":
                return False
            connection.execute("select pg_logical_emit_message(true, 'drkit', '')")
    except TargetError as e:
        if e.code.startswith(("28", "3D")):
            raise
        return False
    except Error:
        return False
    return "01000" not in warnings


def positions(target: Target, writer: Endpoint, follower: Endpoint) -> tuple[int, int]:
    """Return up to which byte of its log a writer has written and a follower has received. Raises TargetError."""
    with connect(target, at=writer) as connection:
        written = connection.execute("select (pg_current_wal_lsn() - '0/0')::bigint").fetchone()
    with connect(target, at=follower) as connection:
        received = connection.execute(
            "select (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::bigint"
        ).fetchone()
    assert written is not None
    assert received is not None
    return int(written[0]), int(received[0] or 0)


def last_replayed(target: Target, at: Endpoint) -> str:
    """Return when the last commit was made that a replica has replayed, by the writer's clock (ISO 8601), or ""."""
    with connect(target, at=at) as connection:
        row = connection.execute("select pg_last_xact_replay_timestamp()").fetchone()
    return "" if row is None or row[0] is None else str(row[0].isoformat())


def lsn_text(position: int) -> str:
    """Return a position in the log as PostgreSQL writes it: "0/1A2B3C4"."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def log_in(target: Target, at: Endpoint, *, user: str, password: str, dbname: str) -> None:
    """Log in to a server with this. Raises TargetError, with the SQLSTATE as its code, if that is not possible."""
    with connect(target, at=at, login={"user": user, "password": password, "dbname": dbname}):
        pass


@contextmanager
def connect(
    target: Target,
    *,
    replica: bool = False,
    at: Endpoint | None = None,
    timeout_s: float = TIMEOUT_S,
    insist: bool = False,
    login: Mapping[str, str] | None = None,
) -> Iterator[Connection]:
    """Give a fresh autocommit connection to the writer endpoint (or the replica's, or `at` one) for short questions.

    insist: transactions may write even where the database says read-only by default. login: another "user", "password"
    and "dbname" than the target's.
    Raises TargetError, with the SQLSTATE as its code where there is one, for anything that goes wrong in it; all of the
    questions together may take timeout_s, then the socket is shut, whatever the server does.
    """
    import psycopg

    database = _database(target)
    host, port = (database.replica_host, database.replica_port) if replica else (database.host, database.port)
    if at is not None:
        host, port = target.address(at[0]), at[1]
    if not (host and port):
        raise UsageError(
            f"target {target.name} names no replica endpoint", "add database.replica_host and database.replica_port"
        )
    where = f"{(login or {}).get('dbname', database.dbname)} at {host}:{port}"
    watchdog: threading.Timer | None = None
    try:
        parameters = _parameters(target, database, host, port, timeout_s, login)
        if insist:
            parameters["options"] += " -c default_transaction_read_only=off"
        connection = psycopg.connect(**parameters, autocommit=True)
        watchdog = threading.Timer(timeout_s, _shut, [connection])
        watchdog.daemon = True
        watchdog.start()
        with connection:
            yield connection
    except psycopg.Error as e:
        said = str(e).strip().partition("\n")[0] or type(e).__name__
        code = e.sqlstate or _code_of(str(e))
        if code.startswith("28") and login is None:
            _SECRETS.pop(database.password_secret_arn or "", None)
        raise TargetError(f"{where}: {said}", _hint(code), code) from e
    except OSError as e:  # the name does not resolve
        raise TargetError(f"{where}: {e}", "is database.host right, and can this machine resolve it?") from e
    finally:
        if watchdog is not None:
            watchdog.cancel()


def _parameters(
    target: Target,
    database: DatabaseTarget,
    host: str,
    port: int,
    timeout_s: float,
    login: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    limit_ms = max(1, int(timeout_s * 1000))
    parameters = {
        "host": host,
        # Resolved here, each time: else PGHOSTADDR in the environment would decide where this goes.
        "hostaddr": str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]),
        "port": port,
        "dbname": database.dbname,
        "user": database.user,
        "sslmode": database.sslmode,
        "gssencmode": "disable",
        "target_session_attrs": "any",
        "application_name": "drkit",
        "connect_timeout": max(2, round(timeout_s)),
        "tcp_user_timeout": limit_ms,
        "options": f"-c statement_timeout={limit_ms} -c lock_timeout={limit_ms}",
    }
    if login is not None:
        return {**parameters, **login}
    password = password_of(target, database)
    return parameters if password is None else {**parameters, "password": password}


def password_of(target: Target, database: DatabaseTarget) -> str | None:
    if database.password_env:
        try:
            return os.environ[database.password_env]
        except KeyError:
            raise UsageError(
                f"the environment variable {database.password_env} is not set",
                f"it holds the password of {database.user} on {target.name}",
            ) from None
    arn = database.password_secret_arn
    if not arn:
        return None
    if arn not in _SECRETS:
        text = _secret_text(target, arn)
        try:
            _SECRETS[arn] = str(json.loads(text)["password"])  # as RDS keeps it: {"username": …, "password": …}
        except (ValueError, TypeError, KeyError):
            _SECRETS[arn] = str(text)
    return _SECRETS[arn]


def _secret_text(target: Target, arn: str) -> str:
    """Return what a secret holds; of one in a region that does not answer in time, what its replica holds.

    A dead region costs minutes (connections that time out, tried again), so the other one is asked after SECRET_S. It
    is not asked first: a replica that a recovery has made a secret of its own hears of no rotation any more, and would
    give an old password for good. Raises TargetError, the first region's, if none has an answer.
    """
    region = arn.split(":")[3] if arn.startswith("arn:") else target.region
    other = target.recovery_region if region == target.region else target.region
    if not other:
        return _secret_in(target, region, arn)
    answers: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_secret_in(target, region, arn))
        except Exception as e:  # noqa: BLE001  (it is raised below, in the thread that asked)
            answers.put(e)

    threading.Thread(target=ask, name="secret", daemon=True).start()  # nobody waits for one that hangs
    answer: str | Exception | None = None
    with contextlib.suppress(queue.Empty):
        answer = answers.get(timeout=SECRET_S)
    if answer is None or isinstance(answer, TargetError):
        try:
            return _secret_in(target, other, arn.replace(f":{region}:", f":{other}:", 1))
        except TargetError:
            answer = answer or answers.get()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _secret_in(target: Target, region: str, arn: str) -> str:
    from drkit.targets.aws.account import Account

    return str(Account(target, region).client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])


def _database(target: Target) -> DatabaseTarget:
    if target.database is None:
        raise UsageError(f"target {target.name} names no database", "add `database` to the target file")
    return target.database


def _if_allowed(connection: Connection, question: str) -> tuple[Any, ...] | None:
    import psycopg

    try:
        return connection.execute(question).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None


def _shut(connection: Connection) -> None:
    """Shut the socket of a connection that does not answer: psycopg's own cancel would wait for the server, too."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as its_socket:
            its_socket.shutdown(socket.SHUT_RDWR)
    except Exception:  # noqa: BLE001, S110  (closed meanwhile: nothing to do)
        pass


# libpq keeps the SQLSTATE of a refused connection to itself, and only its words come out.
_REFUSALS = {
    r'database ".*" does not exist': "3D000",
    r"password authentication failed|no password supplied": "28P01",
    r'role ".*" (does not exist|is not permitted to log in)|no pg_hba\.conf entry': "28000",
    r"the database system is |terminating connection": "57P03",
    r"too many clients|remaining connection slots": "53300",
}


def _code_of(message: str) -> str:
    return next((code for words, code in _REFUSALS.items() if re.search(words, message)), "")


def _hint(sqlstate: str) -> str:
    if sqlstate.startswith("28"):
        return "check database.user and where its password comes from (password_env, password_secret_arn)"
    if sqlstate == "3D000":
        return "check database.dbname"
    return ""
