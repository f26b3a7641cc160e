"""The stopped data directory that every server of a lab is a copy of: made once per version and settings, then cached.

Primary and standby are copies of the *same* stopped server plus `standby.signal`, so no base backup is needed to start.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drkit.errors import LabError
from drkit.lab.binaries import Binaries, environment

DBNAME = "postgres"
USER = "drkit"  # owns the database, is no superuser: anybody on this machine may connect as it
SERVICE, SERVICE_PASSWORD = "orders_service", "a-lab-has-no-secrets"
ADMIN = "postgres"  # superuser, through a socket in a directory that only we may enter
REPLICATOR = "replicator"

_SETTINGS = """
listen_addresses = '127.0.0.1'
fsync = {fsync}
wal_level = replica
archive_mode = on
archive_command = 'true'
max_connections = 120
shared_buffers = 16MB
dynamic_shared_memory_type = mmap
max_wal_senders = 10
max_replication_slots = 10
wal_keep_size = 256MB
max_wal_size = 1GB
hot_standby = on
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 100ms
wal_receiver_timeout = 10s
wal_sender_timeout = 10s
autovacuum_max_workers = 1
log_line_prefix = '%m [%p] '
timezone = 'UTC'
log_timezone = 'UTC'
"""
_ACCESS = f"""
local all         {ADMIN}                   trust
local replication {ADMIN}                   trust
host  all         {USER}       127.0.0.1/32 trust
host  all         {SERVICE}    127.0.0.1/32 scram-sha-256
host  replication {REPLICATOR} 127.0.0.1/32 trust
"""
_SCHEMA = f"""
create role {USER} login;
create role {REPLICATOR} login replication;
create role {SERVICE} login password '{SERVICE_PASSWORD}' in role {USER};
grant pg_monitor to {USER};
alter database {DBNAME} owner to {USER};
alter schema public owner to {USER};
set role {USER};
create table orders (
    id bigint generated always as identity primary key,
    zone text not null,
    instance text not null,
    placed_at timestamptz not null default clock_timestamp()
);
reset role;
update pg_database set datistemplate = false;
drop database template0;
drop database template1;
checkpoint;
"""  # noqa: S608
_COMPLETE = "drkit-template.json"  # beside the data directory, written last


def default_cache() -> Path:
    """Return where templates are kept: $DRKIT_HOME/cache, else the XDG cache directory."""
    home = os.environ.get("DRKIT_HOME")
    if home:
        return Path(home).absolute() / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "drkit"


def copy(binaries: Binaries, destination: Path, *, fsync: bool, cache: Path | None = None) -> None:
    """Make `destination` a stopped data directory, from the cache if it holds a sound one; raises LabError."""
    cache = cache or default_cache()
    settings = _SETTINGS.format(fsync="on" if fsync else "off")
    digest = hashlib.sha256("\0".join((str(binaries.directory), settings, _ACCESS, _SCHEMA)).encode()).hexdigest()
    key = f"pg-{binaries.version}-{digest[:12]}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{key}.lock", fcntl.LOCK_SH):
            if _sound(cache / key):
                _copy_tree(binaries, cache / key / "data", destination)
                return
        with _locked(cache / f"{key}.lock", fcntl.LOCK_EX):
            if not _sound(cache / key):  # nobody made it while we waited
                _make(binaries, cache, key, settings)
            _copy_tree(binaries, cache / key / "data", destination)
    except OSError as error:
        raise LabError(
            f"cannot make a data directory for PostgreSQL: {error}",
            hint=f"see whether {cache} is writable and has 100 MB free",
        ) from error


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, how)
        yield


def _make(binaries: Binaries, cache: Path, key: str, settings: str) -> None:
    building = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=cache))
    data = building / "data"
    data.mkdir(mode=0o700)
    try:
        if "user" in binaries.popen:
            building.chmod(0o755)
        binaries.give(data)
        binaries.run(
            "initdb", "-D", data, "-U", ADMIN, "-A", "trust", "-E", "UTF8",
            "--locale=C", "--no-sync", "--wal-segsize=1",
        )  # fmt: skip
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(settings)
        (data / "pg_hba.conf").write_text(_ACCESS)
        _first_start(binaries, data)
        (building / _COMPLETE).write_text(json.dumps(_inventory(data)))
        if (cache / key).is_dir():  # torn or foreign, else we would not be here
            shutil.rmtree(cache / key)
        else:
            (cache / key).unlink(missing_ok=True)
        building.rename(cache / key)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _first_start(binaries: Binaries, data: Path) -> None:
    """Run once with the final settings, so that pg_control carries them, and add the schema."""
    statements = [" ".join(s.split()) for s in _SCHEMA.split(";\n") if s.strip()]
    done = subprocess.run(
        binaries.command("postgres", "--single", "-D", data, "-c", "exit_on_error=on", DBNAME),
        input="".join(f"{s}\n" for s in statements),  # single-user mode: a line is a statement
        capture_output=True, text=True, env=environment(), cwd="/", timeout=60, check=False, **binaries.popen,
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"PostgreSQL does not run: {done.stderr.strip()[-600:]}")


def _inventory(data: Path) -> dict[str, int]:
    files = [path.lstat().st_size for path in data.rglob("*") if path.is_file()]
    return {"files": len(files), "bytes": sum(files)}


def _sound(entry: Path) -> bool:
    """Return whether the cached template is whole: what is there is what its maker counted."""
    try:
        return bool(json.loads((entry / _COMPLETE).read_text()) == _inventory(entry / "data"))
    except (OSError, ValueError):
        return False


def _copy_tree(binaries: Binaries, source: Path, destination: Path) -> None:
    shutil.rmtree(destination, ignore_errors=True)
    done = subprocess.run(
        ["cp", "-R", "-p", str(source), str(destination)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(done.stderr.strip()[-300:])
    destination.chmod(0o700)
    binaries.give(destination)
