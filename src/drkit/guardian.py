"""The guardian: a process that outlives a killed drkit, puts everything back, and finishes the run's record.

Started by drkit.lease for each run; it holds the target's lock too, so nobody else begins before it is done.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import psutil

from drkit import clock, lease
from drkit.errors import DrkitError, TimedOut
from drkit.model import MarkKind
from drkit.rundir import RunDir

EVERY_S = 0.25


def main(argv: list[str]) -> int:
    """Watch the run in directory argv[1] until its lease is released or lapses; 5 if something is still broken."""
    run = RunDir(Path(argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a shutdown ends drkit first; then is when we are needed
    # Imported before anything is broken: afterwards the disk may be full or the virtual environment gone.
    import drkit.engine.finish
    import drkit.engine.restore
    import drkit.targets.postgres  # noqa: F401  (as said above)

    sys.stdout.write("watching\n")  # the lease waits for this word
    sys.stdout.flush()
    why = _watch(run)
    return take_over(run, why) if why else 0


def _watch(run: RunDir) -> str:
    """Return why the run needs a guardian now; "" once its lease was released."""
    unreadable_since_ns: int | None = None
    while True:
        now = lease.holder(run)
        if now is None:  # half written; but not for long
            unreadable_since_ns = unreadable_since_ns or clock.now_ns()
            if clock.now_ns() - unreadable_since_ns > lease.TTL_S * clock.NS_PER_S:
                return "the lease of the run can't be read any more"
        else:
            unreadable_since_ns = None
            if now.get("released"):
                return ""
            if now.get("abandoned"):
                return "drkit left the run before its end"
            if lease.lapsed(now):
                alive = lease.alive(now["pid"])
                return "drkit has stopped renewing its lease" if alive else "drkit is gone: it was killed or it crashed"
        clock.sleep_s(EVERY_S)


def take_over(run: RunDir, why: str) -> int:
    """Put everything back and finish the run; return 0, or 5 if something is still broken.

    A drkit that only stood still (stopped, swapped out) may go on later, and then puts back again whatever a call that
    was under way has done. If it dies instead, that is done here.
    """
    if not lease.take(run):
        return 0
    noted = run.try_mark(MarkKind.GUARDIAN, "guardian", why=why)
    broken = _put_back_and_finish(run)
    now = lease.holder(run)
    if now is not None and not (now.get("released") or now.get("abandoned")) and lease.alive(now["pid"]):
        while lease.alive(now["pid"]) and not now.get("released"):
            clock.sleep_s(EVERY_S)
            now = lease.holder(run) or now
        noted = noted or run.try_mark(MarkKind.GUARDIAN, "guardian", why=why)  # it stood still with the history open
        if now.get("released"):
            _finish(run)
        else:
            broken = _put_back_and_finish(run)
    return 5 if broken else 0


def _put_back_and_finish(run: RunDir) -> bool:
    """Return whether something is still broken. Raises nothing: what fails is written to guardian.log."""
    from drkit.engine.restore import put_back

    broken = True
    try:
        broken = bool(put_back(run))
    except Exception as e:  # noqa: BLE001  (the record is made whatever happened)
        run.try_mark(MarkKind.RESIDUE, "guardian", why=f"nothing could be put back: {_words(e)}")
        _log(f"nothing could be put back: {_words(e)}")
    run.try_mark(MarkKind.RUN_ENDED, "guardian")
    _finish(run)
    return broken


def _finish(run: RunDir) -> None:
    from drkit.engine.finish import finish

    try:
        _wait_for_probes(run)
        finish(run)
    except Exception as e:  # noqa: BLE001  (things are put back by now; what is left to do is to say so)
        _log(f"the run's record could not be made: {_words(e)}")


def _wait_for_probes(run: RunDir) -> None:
    """Wait until the run's probes, which end when their parent is gone, have written their last."""

    def ended() -> bool:
        return not any(
            str(run.path) in part and "drkit.probes" in (p.info["cmdline"] or ())
            for p in psutil.process_iter(["cmdline"])
            for part in p.info["cmdline"] or ()
        )

    now = lease.holder(run)
    if now is None or not lease.alive(now["pid"]):
        try:
            clock.wait_until(ended, "the probes have ended", timeout_s=10)
        except TimedOut as e:
            run.try_mark(MarkKind.INSTRUMENT, "guardian", why=e.message)


def _words(e: Exception) -> str:
    return e.message if isinstance(e, DrkitError) else f"{type(e).__name__}: {e}"


def _log(text: str) -> None:
    sys.stderr.write(f"{clock.wall_utc():%H:%M:%S} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
