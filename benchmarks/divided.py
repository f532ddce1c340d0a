"""A split in several files beside the same split in one: time and memory of packing, speed of batches, both in turns.

    python benchmarks/divided.py --scratch /tmp/divided --records 200000 --shard-samples 10000

The source is a .beton of noise at 36 px, so that packing costs little but the packer itself. A pack is a process of its
own, of one worker; its CPU seconds and the peak of its resident set are what the system says when it ends. Batches are
those of the resident engine on a CPU, 36 to 32 px, of 256 images, with checksums, from pages that are in memory.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import record  # noqa: E402
from benchmarks.command import run  # noqa: E402
from benchmarks.made_shards import noise, write_shards  # noqa: E402

BATCH, BATCHES, PICTURES = 256, 100, 20
# A small process in between: what is spawned begins with the memory of its parent, and the peak would be of that.
MEASURED = """
import json, resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def pack(source: Path, out: Path, shard_samples: int) -> dict[str, float]:
    """CPU and wall seconds of one pack in a process of its own, and its peak memory in MiB."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "hrfr_fast", "pack", str(source), "--out", str(out), "--workers", "1"]
    command += ["--shard-samples", str(shard_samples)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command], check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    cpu, peak = json.loads(done.stdout.splitlines()[-1])
    return {"cpu_seconds": cpu, "wall_seconds": time.perf_counter() - start, "peak_mib": peak}


def batches(packed: Path) -> dict[str, float]:
    """CPU seconds of BATCHES batches, and of opening the split with its tables."""
    from hrfr_fast.engines.resident import ResidentCPU
    from hrfr_fast.format.reader import open_packed
    from hrfr_fast.sampling.sampler import Sampler
    from hrfr_fast.sampling.stream import SingleViewStream
    from hrfr_fast.settings import AugmentSettings

    start = time.process_time()
    split = open_packed(packed).splits["faces"]
    _ = split.labels
    opened = time.process_time() - start
    stream = SingleViewStream((split,), Sampler(0, split.samples, 0), AugmentSettings(), 32, BATCH)
    with ResidentCPU(stream, torch.float32) as engine:
        for _ in engine.batches(0, BATCH * BATCHES):  # reads the pages and compares the checksums
            pass
        start = time.process_time()
        for _ in engine.batches(0, BATCH * BATCHES):
            pass
        return {"open_cpu_seconds": opened, "batches_cpu_seconds": time.process_time() - start}


def main(
    scratch: Annotated[Path, typer.Option(help="an absent or empty directory, removed afterwards")],
    records: Annotated[int, typer.Option()] = 200_000,
    shard_samples: Annotated[int, typer.Option()] = 10_000,
    rounds: Annotated[int, typer.Option(help="turns of each")] = 3,
) -> None:
    """Measure, and print one JSON object."""
    from hrfr_fast.synthetic.scales import LOW, SplitSpec

    write_shards(scratch / "source", {"lowres": SplitSpec(0, records // PICTURES, PICTURES, LOW)}, noise)
    found: dict[str, list[dict[str, Any]]] = {"one": [], "several": []}
    for _ in range(rounds):
        for name, most in (("one", 0), ("several", shard_samples)):
            packed = scratch / name
            found[name].append(pack(scratch / "source/lowres.beton", packed, most) | batches(packed))
    shutil.rmtree(scratch)
    typer.echo(
        json.dumps(
            {"machine": record.machine(), "records": records, "records_a_file": shard_samples, **found}, indent=1
        )
    )


if __name__ == "__main__":
    run(main)
