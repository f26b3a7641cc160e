"""The SQL marker writer: each attempt commits one numbered row; afterwards the rows that survived are read back.

Speaks through libpq's non-blocking calls (`psycopg.pq`), so that connecting, too, ends when its time is over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
from collections import deque
from collections.abc import Generator

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

from drkit import clock, errors
from drkit.model import Connection, ErrorClass, Outcome, ProbeKind, SurvivingRow, Survivors
from drkit.probes.attempt import (
    OK,
    READ,
    WRITE,
    Addresses,
    Expired,
    Lookup,
    Ready,
    Result,
    Steps,
    Wait,
    brief,
    failure,
    resolve,
)
from drkit.probes.names import look_up
from drkit.probes.spec import ProbeSpec

POOL_CONNECTIONS = 4  # kept open by a pooled probe; more are opened while all are busy, and closed afterwards

_LEDGER = (
    "CREATE TABLE IF NOT EXISTS drkit_marker"
    " (run_id uuid, seq bigint, sent_ns bigint, sha256 text, PRIMARY KEY (run_id, seq))"
)

Query = Generator[Wait, Addresses | None, list[tuple[str, ...]]]


class SqlError(Exception):
    """The database, or the way to it, said no. `certain`: what was asked was certainly not done."""

    def __init__(self, kind: ErrorClass, detail: str, *, certain: bool, reusable: bool = False, code: str = "") -> None:
        super().__init__(detail)
        self.kind = kind
        self.certain = certain
        self.reusable = reusable  # the connection still works
        self.code = code


class Sql:
    """Attempts of one marker writer, with a fresh connection each or with a pool as applications keep one."""

    def __init__(self, spec: ProbeSpec) -> None:
        self._spec = spec
        self._pooled = spec.connection is Connection.POOLED
        self._idle: deque[PGconn] = deque()
        self._warming = self._pooled  # open connections until the pool is full once; then only what errors cost it

    def attempt(self, seq: int, sent_ns: int) -> Steps:
        asked = False
        keep = False
        conn: PGconn | None = None
        try:
            if self._idle and not self._warming:
                conn = self._idle.popleft()
            else:
                conn = yield from _connect(self._spec)
            notices: list[str] = []
            conn.notice_handler = lambda result: notices.append(_code(result))
            asked = True
            yield from _query(conn, _insert(self._spec.ledger_id, seq, sent_ns))
            keep = True
            if "01000" in notices:  # the wait for the standby was cancelled: committed here, perhaps nowhere else
                return Result(Outcome.UNKNOWN, ErrorClass.NOT_REPLICATED)
            return OK
        except SqlError as error:
            keep = error.reusable
            return Result(Outcome.FAILED if error.certain else Outcome.UNKNOWN, error.kind, brief(str(error)))
        except (OSError, Expired) as error:
            return Result(Outcome.UNKNOWN if asked else Outcome.FAILED, *failure(error))
        finally:
            if conn is not None:
                self._give_back(conn, keep)

    def _give_back(self, conn: PGconn, keep: bool) -> None:
        if not keep:
            hang_up(conn)
        elif self._pooled and len(self._idle) < POOL_CONNECTIONS:
            self._idle.append(conn)
            self._warming = self._warming and len(self._idle) < POOL_CONNECTIONS
        else:
            conn.finish()


def checksum(ledger_id: str, seq: int, sent_ns: int) -> str:
    """Return what a marker row's sha256 must be, as hex."""
    return hashlib.sha256(f"{ledger_id}:{seq}:{sent_ns}".encode()).hexdigest()


def _insert(ledger_id: str, seq: int, sent_ns: int) -> str:
    # a simple query: its answer comes after the commit, whereas Execute of the extended protocol answers before it
    return (
        f"INSERT INTO drkit_marker (run_id, seq, sent_ns, sha256)"  # noqa: S608  (a UUID, two integers, hex)
        f" VALUES ('{ledger_id}', {seq}, {sent_ns}, '{checksum(ledger_id, seq, sent_ns)}')"
    )


# --- talking to PostgreSQL without ever blocking ----------------------------------------------------------------------


def _connect(spec: ProbeSpec) -> Generator[Wait, Addresses | None, PGconn]:
    """Return a connection. Raises SqlError (certain), OSError or Expired; leaves nothing open then."""
    addresses = yield from resolve(spec.host, spec.port)
    conn = pq.PGconn.connect_start(_conninfo(spec, addresses))
    try:
        while True:
            if conn.status == pq.ConnStatus.BAD:
                raise _connect_error(conn)
            match conn.connect_poll():
                case pq.PollingStatus.READING:
                    yield Ready(conn.socket, READ)
                case pq.PollingStatus.WRITING:
                    yield Ready(conn.socket, WRITE)
                case pq.PollingStatus.OK:
                    conn.nonblocking = 1
                    return conn
                case _:
                    raise _connect_error(conn)
    except BaseException:
        hang_up(conn)
        raise


def _conninfo(spec: ProbeSpec, addresses: Addresses) -> bytes:
    """Return libpq's connection string: names are already resolved, or connecting would block on them."""
    settings = {
        "host": ",".join(spec.host for _ in addresses),
        "hostaddr": ",".join(str(address.sockaddr[0]) for address in addresses),
        "port": str(spec.port),
        "dbname": spec.dbname,
        "user": spec.user,
        "password": spec.password or (os.environ.get(spec.password_env, "") if spec.password_env else ""),
        "sslmode": spec.sslmode,
        "gssencmode": "disable",
        "application_name": "drkit",
    }
    quoted = (f"{key}='{_escape(value)}'" for key, value in settings.items() if value)
    return " ".join(quoted).encode()


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _query(conn: PGconn, statement: str) -> Query:
    """Run one statement and return its rows as text; when it returns, the server has committed.

    Raises SqlError, OSError or Expired.
    """
    try:
        conn.send_query(statement.encode())
        while conn.flush():
            yield Ready(conn.socket, WRITE)
        result: PGresult | None = None
        while True:
            while conn.is_busy():
                yield Ready(conn.socket, READ)
                conn.consume_input()
            more = conn.get_result()
            if more is None:
                break
            if result is None or more.status == pq.ExecStatus.FATAL_ERROR:
                result = more
    except psycopg.Error as error:  # libpq says so: the connection is gone
        raise _lost() from error
    if result is None:
        raise _lost()
    if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
        raise _statement_error(result)
    if conn.status != pq.ConnStatus.OK or conn.transaction_status != pq.TransactionStatus.IDLE:
        raise _lost("closed after the statement")
    return [
        tuple((result.get_value(row, column) or b"").decode() for column in range(result.nfields))
        for row in range(result.ntuples)
    ]


def _lost(detail: str = "") -> SqlError:
    return SqlError(ErrorClass.RESET, detail, certain=False)


def hang_up(conn: PGconn) -> None:
    """Close a connection at once, whatever state it is in: no cancel request, no waiting."""
    with contextlib.suppress(Exception):
        if conn.socket >= 0:
            with socket.socket(fileno=os.dup(conn.socket)) as sock:
                sock.shutdown(socket.SHUT_RDWR)
    conn.finish()


# --- what errors mean -------------------------------------------------------------------------------------------------


def _statement_error(result: PGresult) -> SqlError:
    """An ERROR means rolled back. A FATAL, a shutdown or a broken connection leaves the commit in doubt."""
    code = _code(result)
    severity = (result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) or b"").decode()
    detail = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
    if not code:
        return _lost(detail or (result.error_message or b"").decode(errors="replace"))
    certain = severity == "ERROR" and (code == "57014" or code[:2] not in ("08", "57", "XX"))
    return SqlError(_class_of(code), f"{code} {detail}", certain=certain, reusable=severity == "ERROR", code=code)


def _class_of(code: str) -> ErrorClass:
    match code:
        case "25006":
            return ErrorClass.READ_ONLY
        case "57P01" | "57P02" | "57P03":
            return ErrorClass.SHUTTING_DOWN
        case _ if code.startswith("28"):
            return ErrorClass.AUTH
        case _ if code.startswith("08"):
            return ErrorClass.RESET
        case _:
            return ErrorClass.OTHER


def _code(result: PGresult) -> str:
    return (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()


_CONNECT_ERRORS = (  # libpq gives no SQLSTATE while connecting; its own texts are English here, a server's usually are
    (ErrorClass.REFUSED, ("connection refused",)),
    (
        ErrorClass.SHUTTING_DOWN,
        ("the database system is", "terminating connection due to administrator command", "canceling statement"),
    ),
    (ErrorClass.RESET, ("reset by peer", "closed the connection unexpectedly", "broken pipe", "connection aborted")),
    (ErrorClass.TLS, ("ssl", "certificate")),
    (
        ErrorClass.AUTH,
        ("authentication failed", "no password supplied", "pg_hba.conf", "does not exist", "fe_sendauth"),
    ),
    (ErrorClass.TIMEOUT, ("timed out", "timeout expired")),
)


def _connect_error(conn: PGconn) -> SqlError:
    # 'connection to server at "db" (10.0.0.1), port 5432 failed: FATAL:  the database system is starting up' + advice
    detail = conn.get_error_message().rpartition(" failed: ")[2].partition("\n")[0]
    text = detail.lower()
    for kind, phrases in _CONNECT_ERRORS:
        if any(phrase in text for phrase in phrases):
            return SqlError(kind, "" if kind in (ErrorClass.REFUSED, ErrorClass.RESET) else detail, certain=True)
    return SqlError(ErrorClass.OTHER, detail, certain=True)


# --- outside the loop: the ledger before, the survivors after ---------------------------------------------------------


def create_ledger(spec: ProbeSpec, *, timeout_s: float = 10.0) -> None:
    """Make the table drkit_marker where the probe will write, if it is not there. Raises TargetError."""
    _ask(spec, (_LEDGER,), timeout_s)


def read_survivors(spec: ProbeSpec, *, gap_s: float, timeout_s: float) -> Survivors:
    """Return the writer's rows as they are now, read through its own endpoint until two reads, gap_s apart, agree.

    They agree if they hold the same rows of those sent before the first read: the writer may go on meanwhile. A read
    from a server that is in recovery does not count: it is not the writer. If no two reads agree in timeout_s the last
    one is returned, not `settled`. Raises TargetError if none succeeded.
    """
    deadline_ns = clock.now_ns() + round(timeout_s * clock.NS_PER_S)
    previous: list[Row] | None = None
    problem: errors.TargetError | None = None
    first_asked_ns = read_lo_ns = read_hi_ns = clock.now_ns()
    while True:
        left_s = (deadline_ns - clock.now_ns()) / clock.NS_PER_S
        asked_ns = clock.now_ns()
        try:
            rows = _read(spec, max(left_s, 0.001))
        except errors.TargetError as e:
            # The last question has little time; what the earlier ones were told says more.
            problem = problem or e
            if left_s <= gap_s and previous is None:
                raise problem from None
            rows = None
        if rows is not None:
            settled = previous is not None and _sent_before(first_asked_ns, rows) == _sent_before(
                first_asked_ns, previous
            )
            read_lo_ns, read_hi_ns, previous = asked_ns, clock.now_ns(), rows
            if settled:
                break
        if left_s <= gap_s and previous is not None:
            settled = False
            break
        clock.sleep_s(gap_s)
    survivors = tuple(
        SurvivingRow(seq, intact=sha256 == checksum(spec.ledger_id, seq, sent)) for seq, sent, sha256 in previous
    )
    return Survivors(series=spec.name, read_lo_ns=read_lo_ns, read_hi_ns=read_hi_ns, rows=survivors, settled=settled)


Row = tuple[int, int, str]  # seq, sent_ns, sha256


def _sent_before(moment_ns: int, rows: list[Row]) -> list[Row]:
    return [row for row in rows if row[1] < moment_ns]


def _read(spec: ProbeSpec, timeout_s: float) -> list[Row]:
    in_recovery, rows = _ask(
        spec,
        (
            "SELECT pg_is_in_recovery()",
            f"SELECT seq, sent_ns, sha256 FROM drkit_marker WHERE run_id = '{spec.ledger_id}' ORDER BY seq, sent_ns",  # noqa: S608  (a UUID)
        ),
        timeout_s,
    )
    if in_recovery == [("t",)]:
        raise errors.TargetError(f"{spec.host}:{spec.port} is not the writer: it is in recovery", code="25006")
    return [(int(seq), int(sent_ns), sha256) for seq, sent_ns, sha256 in rows]


def _ask(spec: ProbeSpec, statements: tuple[str, ...], timeout_s: float) -> list[list[tuple[str, ...]]]:
    """Run statements over one fresh connection and return the rows of each. Raises TargetError."""
    if spec.kind is not ProbeKind.SQL:
        raise errors.UsageError(f"probe {spec.name!r} is not an SQL probe")
    try:
        return _drive(_script(spec, statements), timeout_s)
    except Expired:
        raise errors.TargetError(f"no answer from {spec.host}:{spec.port} in {timeout_s:g} s") from None
    except SqlError as error:
        raise errors.TargetError(f"{spec.host}:{spec.port}: {str(error) or error.kind}", code=error.code) from error
    except OSError as error:
        raise errors.TargetError(f"{spec.host}:{spec.port}: {error.strerror or error}") from error


def _script(
    spec: ProbeSpec, statements: tuple[str, ...]
) -> Generator[Wait, Addresses | None, list[list[tuple[str, ...]]]]:
    conn = yield from _connect(spec)
    conn.notice_handler = None
    try:
        answers: list[list[tuple[str, ...]]] = []
        for statement in statements:
            answers += [(yield from _query(conn, statement))]
        return answers
    finally:
        hang_up(conn)


def _drive(
    steps: Generator[Wait, Addresses | None, list[list[tuple[str, ...]]]], timeout_s: float
) -> list[list[tuple[str, ...]]]:
    """Carry one generator through to its end in the caller's thread. Raises what it raises; Expired after timeout_s."""
    deadline_ns = clock.now_ns() + round(timeout_s * clock.NS_PER_S)
    news: Addresses | None = None
    try:
        while True:
            wait = steps.send(news)
            news = None
            if isinstance(wait, Lookup):
                news = look_up(wait)
                continue
            left_s = (deadline_ns - clock.now_ns()) / clock.NS_PER_S
            if left_s <= 0 or not _wait(wait, left_s):
                steps.throw(Expired())
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]  # StopIteration is not generic


def _wait(wait: Ready, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(wait.fd, select.POLLIN if wait.events == READ else select.POLLOUT)
    return bool(poll.poll(timeout_s * 1000))
