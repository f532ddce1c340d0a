"""Memory freed by one step is not fetched from the kernel again by the next."""

import subprocess
import sys

MEASURE = """
import resource, sys, torch
from hrfr_fast.runtime.device import choose_compute
if sys.argv[1] == "kept":
    choose_compute("cpu")
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.zeros(1 << 26, dtype=torch.uint8)  # 64 MB: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(16)  # aligned blocks leave a splinter each; glibc caches seven of a size before it joins any to its neighbours
print(faults(4))
"""


def test_freed_memory_is_used_again():
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", MEASURE, how], capture_output=True, text=True, check=True).stdout)
        for how in ("as it is", "kept")
    )
    assert kept < given_back / 10, (kept, given_back)
