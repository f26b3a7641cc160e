"""What may be wrong with a lab's AWS APIs for a while: S3 that is too busy, a region that does not answer."""

from __future__ import annotations

import contextlib
import select
import socket
from typing import Any

from drkit import clock
from drkit.errors import LabError
from drkit.lab.bootstrap import BUCKET, REGION
from drkit.lab.calls import AwsError, Call

KINDS = ("s3-503", "silent-region-1")
LONGEST_S = 3600.0
_LOOK_EVERY_S = 0.1


class Disturbances:
    """Which ones last, and until when. They end by themselves."""

    def __init__(self) -> None:
        self._until_ns: dict[str, int] = {}

    def begin(self, what: str, for_s: float) -> None:
        """Begin a disturbance, or set how long one lasts from now on (0: it is over). Raises LabError."""
        if what not in KINDS:
            raise LabError(f"no disturbance {what!r}", f"there are {', '.join(KINDS)}")
        if not 0 <= for_s <= LONGEST_S:
            raise LabError(f"a disturbance lasts 0 to {LONGEST_S:g} s, not {for_s:g}")
        self._until_ns[what] = clock.now_ns() + int(for_s * clock.NS_PER_S)

    def lasts(self, what: str) -> bool:
        return clock.now_ns() < self._until_ns.get(what, 0)

    def strike(self, call: Call, environ: dict[str, Any]) -> None:
        """Return if a call is to be answered. Raises AwsError, or ConnectionError where it gets no answer at all."""
        if call.service == "s3" and call.action == "GET" and self.lasts("s3-503"):
            if call.text("Path").split("/")[1] == BUCKET:
                raise AwsError("SlowDown", "Please reduce your request rate.", 503)
        elif call.region == REGION and self.lasts("silent-region-1"):
            client: socket.socket | None = environ.get("werkzeug.socket")
            while self.lasts("silent-region-1") and not _hung_up(client):
                clock.sleep_s(_LOOK_EVERY_S)
            if client is not None:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError(f"{REGION} is silent")


def _hung_up(client: socket.socket | None) -> bool:
    if client is None:
        return False
    try:
        ready, _, _ = select.select([client], [], [], 0)
        return bool(ready) and client.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True
