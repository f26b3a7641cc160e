"""What a database server holds, compared with another one: settings, extensions, roles, rows with checksums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drkit.targets import Target
from drkit.targets.postgres import Endpoint, connect

if TYPE_CHECKING:
    from psycopg import Connection

LONG_S = 120.0  # counting the rows of a large database
# Settings that are each server's own: where it listens, whom it follows, where it keeps and sends things.
_OWN = (
    "archive_command", "archive_mode", "archive_timeout", "cluster_name", "config_file", "data_directory",
    "external_pid_file",
    "hba_file", "ident_file", "listen_addresses", "port", "primary_conninfo", "primary_slot_name",
    "recovery_end_command", "recovery_target", "recovery_target_action", "recovery_target_inclusive",
    "recovery_target_time", "recovery_target_timeline", "restore_command", "synchronous_standby_names",
    "unix_socket_directories",
)  # fmt: skip


def size_bytes(target: Target, at: Endpoint) -> int:
    """Return how many bytes the databases of a server hold. Raises TargetError."""
    with connect(target, at=at, timeout_s=LONG_S) as connection:
        return int(_one(connection, "select sum(pg_database_size(oid))::bigint from pg_database"))


def configuration(target: Target, at: Endpoint) -> dict[str, dict[str, str]]:
    """Return a server's settings that differ from PostgreSQL's defaults, its extensions and its roles, by name."""
    with connect(target, at=at) as connection:
        settings = connection.execute(
            "select name, setting from pg_settings where source not in ('default', 'client', 'session', 'override')"
            " and not (name = any (%s))",
            [list(_OWN)],
        ).fetchall()
        extensions = connection.execute("select extname, extversion from pg_extension").fetchall()
        roles = connection.execute("select rolname, rolcanlogin::text from pg_roles").fetchall()
    return {"setting": dict(settings), "extension": dict(extensions), "role": dict(roles)}


def differences(wanted: Mapping[str, Mapping[str, str]], found: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """Return one sentence for each thing of a `configuration` that is not as wanted. Pure."""
    sentences = []
    for kind, values in wanted.items():
        for name in sorted({*values, *found[kind]}):
            was, now = values.get(name), found[kind].get(name)
            if was != now:
                sentences.append(f"{kind} {name} is {now or 'not there'} instead of {was or 'not there'}")
    return tuple(sentences)


def markers(target: Target, at: Endpoint) -> Iterator[tuple[str, int, int, str]]:
    """Yield every marker row of a server: writer (a UUID), number, when it was sent in ns, its checksum as stored."""
    with connect(target, at=at, timeout_s=LONG_S) as connection:
        if _one(connection, "select to_regclass('drkit_marker') is null"):
            return
        yield from connection.execute("select run_id::text, seq, sent_ns, sha256 from drkit_marker").fetchall()


@dataclass(frozen=True, slots=True)
class Compared:
    """A restored server beside production."""

    rows: int  # marker rows of the restored one
    newer: int  # marker rows of production that came after the restored ones
    tables: int  # tables of users that it has
    wrong: str  # "" or what is not as production had it


_MARKERS = "select run_id::text, seq, sha256 from drkit_marker order by run_id, seq"
_TABLES = "select count(*) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"


def compare_markers(target: Target, restored: Endpoint) -> Compared:
    """Compare the marker rows of a restored server with production's, by number and checksum.

    Of each writer the restored one must have the oldest rows without a gap, but for what was in flight.
    """
    with connect(target, at=restored, timeout_s=LONG_S) as connection:
        there = _rows(connection)
        tables = int(_one(connection, _TABLES))
    with connect(target, timeout_s=LONG_S) as connection:
        here = _rows(connection)
    wrong, newer, rows = "", 0, 0
    for writer, kept in there.items():
        rows += len(kept)
        ours = here.get(writer, {})
        last = max(kept)
        altered = [seq for seq, sha256 in kept.items() if ours.get(seq) != sha256]
        # Commits in flight at that moment may be in either order: the pool of a writer holds a few.
        missing = [seq for seq in ours if seq < last - IN_FLIGHT and seq not in kept]
        newer += sum(seq not in kept for seq in ours)
        if altered or missing:
            wrong = wrong or f"{len(altered)} altered or unknown, {len(missing)} missing of writer {writer}"
    newer += sum(len(rows_) for writer, rows_ in here.items() if writer not in there)
    return Compared(rows, newer, tables, wrong)


IN_FLIGHT = 50


def _rows(connection: Connection) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    if _one(connection, "select to_regclass('drkit_marker') is null"):
        return found
    for writer, seq, sha256 in connection.execute(_MARKERS).fetchall():
        found.setdefault(writer, {})[seq] = sha256
    return found


def _one(connection: Connection, question: str) -> Any:
    row = connection.execute(question).fetchone()
    assert row is not None
    return row[0]
