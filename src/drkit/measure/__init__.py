"""How long, how much, and was the promise kept: pure functions from a recorded history to intervals and a verdict.

Nothing here reads a clock, a file or a network, so a stored run can be judged again at any time (`drkit measure RUN`).
Definitions, with the reasons for them: docs/measurement.md.
"""

from drkit.measure._judge import judge
from drkit.measure._loss import account
from drkit.measure._mttr import Mttr, mttr
from drkit.measure._outage import outage, outages
from drkit.measure._run import measure, recovery_time
from drkit.measure._settings import Settings

__all__ = ["Mttr", "Settings", "account", "judge", "measure", "mttr", "outage", "outages", "recovery_time"]
