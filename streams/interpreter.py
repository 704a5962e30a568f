"""How CPython shares its time in a worker, where its defaults cost a fifth of everything."""

from __future__ import annotations

import gc
import sys

#: The scoring thread gives the interpreter up many times a batch, and then waits for the event loop to let go of it:
#: 5 ms each time by default, as long as some twenty users take to be scored.
SWITCH_S = 0.0005
#: Collections of cycles: after so many containers more than were freed, after so many of the first generation, of the
#: second. The defaults (700, 10, 10) go over all users' states again and again, whose lists are new with each event
#: and hold no cycle: an eighth of a busy worker's time.
THRESHOLDS = 20_000, 10, 10


def tune() -> None:
    """For the whole process: fewer collections, quicker turns."""
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(*THRESHOLDS)


def collect() -> None:
    """All cycles at once, where something large was let go of: they are looked for seldom by now."""
    gc.collect()
