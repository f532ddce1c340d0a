#!/usr/bin/env python3
"""All checks that need a GPU, in three calls of at most eight and a half minutes, the most important first.

    python tools/gpu_check.py --part A --out gpu_check     # correctness
    python tools/gpu_check.py --part B --out gpu_check     # rates
    python tools/gpu_check.py --part C --out gpu_check     # an epoch of lowres32 and highlow144 at the study's scale
    python tools/gpu_check.py --part A --dry-run           # the same stages on a CPU, with little data

Results go to a folder of --out (or of $OUT) for each part. Each stage is a process with its own time limit. One that
fails, hangs or cannot run never stops the next; ``summary.json`` is written anew after each, its results are lines of
JSON written as it goes, and ``logs/`` holds its output, so a call that is cut short leaves its results up to then. In a
quarter of an hour: part A with ``--seconds 260``, then part B with ``--seconds 460``.

Needed: torch, triton, numpy, opencv-python-headless, numba, typer, rich, pytest. Nothing is downloaded and no picture
is read: the data are noise. Used where they are installed, and named in the summary where they are not: safetensors
(regimes that start from another one's weights), simplejpeg (tests of JPEG shards), nvidia-dali (its tests and rates),
compute-sanitizer.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tools.gpu_stages.parts import PARTS, stages  # noqa: E402
from tools.gpu_stages.runner import check, missing  # noqa: E402

TIME_LIMIT = 500.0  # seconds for the stages of a part
AT_ONCE = max(1, (os.cpu_count() or 1) // 3)  # stages of part A, which compile on a core or two each
NEEDED = ("torch", "triton", "numpy", "cv2", "numba", "typer", "rich", "pytest")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True, help="; ".join(f"{k}: {v}" for k, v in PARTS.items()))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_check")), help="where results go")
    parser.add_argument("--only", action="append", default=[], help="only stages whose name contains this, and data")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with little data: do the stages work?")
    parser.add_argument("--seconds", type=float, default=TIME_LIMIT, help="for all stages of the part (default 500)")
    given = parser.parse_args()
    if absent := missing(NEEDED):
        print(f"error: not installed: {', '.join(absent)}; pip install {' '.join(absent)}", file=sys.stderr)
        return 2
    if given.dry_run:  # with so little work more threads are slower
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ.setdefault(name, "1")
    out = given.out.resolve() / given.part
    with tempfile.TemporaryDirectory() as folder:
        chosen = [
            stage for stage in stages(given.part, Path(folder), out, given.dry_run)
            if not given.only or stage.name == "data" or any(part in stage.name for part in given.only)
        ]  # fmt: skip
        results = check(chosen, out, given.seconds, at_once=AT_ONCE, part=given.part, about=PARTS[given.part])
    print()
    for result in results:
        why = f"  {result.tail}" if result.state == "left out" else ""
        print(f"{result.name:46} {result.state:22} {result.seconds:6.0f} s{why}")
    print(f"results: {out}/summary.json, logs/")
    return 0 if all(result.state in ("done", "left out") for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
