"""The TCP probe: a connection is made and closed."""

from __future__ import annotations

from drkit.model import Outcome
from drkit.probes.attempt import OK, Expired, Result, Steps, connect, failure
from drkit.probes.spec import ProbeSpec


class Tcp:
    """Attempts of one TCP probe."""

    def __init__(self, spec: ProbeSpec) -> None:
        self._spec = spec

    def attempt(self, seq: int, sent_ns: int) -> Steps:  # noqa: ARG002  (the loop calls every kind alike)
        """Connect; OK once the handshake is done."""
        try:
            sock = yield from connect(self._spec.host, self._spec.port)
        except (OSError, Expired) as error:
            return Result(Outcome.FAILED, *failure(error))
        sock.close()
        return OK
