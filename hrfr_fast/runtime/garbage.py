"""Python's collection of reference cycles, for processes of the command line: seldom."""

import gc

THRESHOLDS = (100_000, 50, 50)


def collect_seldom() -> None:
    """Look for unreachable cycles once per 100,000 new containers, where Python's default is 700.

    Importing torch, numba and their like makes some half a million containers that all stay: looking through them a
    thousand times costs 0.2 to 0.3 s of a command's start. A training step leaves no cycle behind, so nothing waits.
    """
    gc.set_threshold(*THRESHOLDS)
