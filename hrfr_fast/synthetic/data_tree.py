"""The synthetic data tree: identity folders of JPEG files and verification pairs, the layout real data comes in.

An identity's folder is written aside and renamed, so what exists is whole, and a stopped run continues with the
identities that are missing. The pixels depend on integers alone (see ``faces.py``), never on which process drew them.
"""

import os
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.optional import require_bcolz
from hrfr_fast.runtime.output_directory import raise_if_stopped, writing_in
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.synthetic.chunks import IdentityChunk, identity_chunks, jpegs, map_chunks, worker_count
from hrfr_fast.synthetic.directory import PARTIAL, check_seed, claim
from hrfr_fast.synthetic.pairs import write_pairs
from hrfr_fast.synthetic.scales import SplitSpec, find_scale, identity_name, summary
from hrfr_fast.synthetic.traits import DEFAULT, Strengths


def synthesize(
    root: str | Path,
    scale: str = "small",
    *,
    seed: int = 0,
    workers: int = 0,
    show_progress: bool = True,
    stop: StopFlag | None = None,
    strengths: Strengths = DEFAULT,
) -> dict[str, Any]:
    """Make a data tree of parametric faces under ``root``, or complete one that was interrupted.

    ``lowres`` (36 px), ``highres`` and ``highres_eval`` (144 px) hold ``<identity>/<picture>.jpg``;
    ``hres_eval_pairs/hres`` is a bcolz carray [2P, 3, 144, 144] float32 BGR in [-1, 1] whose pictures 2i and 2i + 1
    are pair i, and ``hres_list.npy`` its P booleans (True: one person). Pair pictures are files of ``highres_eval``.

    Args:
        scale: a key of ``scales.SCALES``.
        workers: processes; 0 for one a core.
        stop: checked between chunks of work; by default SIGINT and SIGTERM set one.

    Returns:
        Contents of the tree: scale, seed, pairs, and for each split its identities, pictures and size.

    Raises:
        UsageError: ``root`` holds something else than a tree of these settings, or another process writes there;
            bcolz is missing.
        CannotWrite: a full disk; what is finished is kept.
        Interrupted: stopped; calling again continues.
    """
    chosen = find_scale(scale)
    check_seed(seed)
    root = Path(root)
    require_bcolz(f"{root}: writing its pairs")  # An error is raised before the faces are made, not after.
    with (
        writing_in(root, "what is finished is kept, and the same `hrfr-fast synth` continues it"),
        StopFlag() if stop is None else nullcontext(stop) as flag,
        progress_bar(show_progress) as bars,
    ):
        claim(root, {"scale": scale, "seed": seed, "strengths": asdict(strengths)})
        for split, spec in chosen.splits().items():
            missing = _missing(root, split, spec)
            task = bars.add_task(split, total=spec.identities * spec.pictures, note="")
            bars.advance(task, (spec.identities - len(missing)) * spec.pictures)
            count = worker_count(workers, len(missing) * spec.pictures)
            chunks = identity_chunks(seed, split, spec, missing, strengths)
            for done in map_chunks(partial(_write_chunk, root), chunks, count, flag):
                bars.advance(task, done)
            raise_if_stopped(flag, f"{root} is incomplete; the same `hrfr-fast synth` continues it")
        task = bars.add_task("pairs", total=chosen.pairs, note="")
        write_pairs(root, chosen, seed, flag, lambda n: bars.advance(task, n))
        shutil.rmtree(root / PARTIAL, ignore_errors=True)
    return summary(chosen, scale, seed)


def _write_chunk(root: Path, chunk: IdentityChunk) -> int:
    """Write the folders of a chunk's identities; returns the number of pictures."""
    for identity in chunk.identities:
        name = identity_name(chunk.split, identity)
        aside = root / PARTIAL / f"{chunk.split}-{name}"
        shutil.rmtree(aside, ignore_errors=True)  # left by a killed run
        aside.mkdir()
        for picture, content in enumerate(jpegs(chunk, identity)):
            (aside / f"{picture:03d}.jpg").write_bytes(content)
        os.replace(aside, root / chunk.split / name)
    return len(chunk.identities) * chunk.spec.pictures


def _missing(root: Path, split: str, spec: SplitSpec) -> list[int]:
    """Numbers of the identities of ``split`` that have no folder yet."""
    (root / split).mkdir(exist_ok=True)
    present = set(os.listdir(root / split))
    return [i for i in range(spec.identities) if identity_name(split, i) not in present]
