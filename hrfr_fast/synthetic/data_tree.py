"""The synthetic data tree: identity folders of JPEG files and verification pairs, the layout real data comes in.

Work is cut by identity. An identity's folder is written aside and renamed, so what exists is whole, and a stopped
run continues with the identities that are missing. The pixels depend on integers alone (see ``synthetic_faces``),
never on which process drew them.
"""

import json
import os
import shutil
import signal
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.writer import SplitWriter
from hrfr_fast.runtime.errors import HrfrError, Interrupted, UsageError
from hrfr_fast.runtime.files import write_array, write_json, writing
from hrfr_fast.runtime.lock import NAME as LOCK
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.optional import require_bcolz
from hrfr_fast.runtime.philox import SYNTHESIS, philox
from hrfr_fast.runtime.processes import worker_pool
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.system import cores
from hrfr_fast.synthetic.faces import DEFAULT, Strengths, render

LOW, HIGH = 36, 144  # pixels a side
MARKER = "synth.json"
PARTIAL = ".partial"
LAYOUT = 1  # part of the marker: a change of the faces or of the tree must not continue an older one
PAIR_STREAM = 3  # Philox view; the splits are 0, 1 and 2
CHUNK_PICTURES = {LOW: 400, HIGH: 60}
INLINE_PICTURES = 1500  # below this, starting processes costs more than it saves
T = TypeVar("T")


class SplitPlan(NamedTuple):
    """How many people, pictures of each, and pixels a side."""

    number: int
    identities: int
    pictures: int
    size: int


@dataclass(frozen=True)
class Scale:
    """The size of one tree; ``pairs`` is even, half of them genuine."""

    lowres: tuple[int, int]
    highres: tuple[int, int]
    highres_eval: tuple[int, int]
    pairs: int

    def splits(self) -> dict[str, SplitPlan]:
        return {
            "lowres": SplitPlan(0, *self.lowres, LOW),
            "highres": SplitPlan(1, *self.highres, HIGH),
            "highres_eval": SplitPlan(2, *self.highres_eval, HIGH),
        }


SCALES = {
    "tiny": Scale((24, 6), (12, 4), (12, 3), 40),
    "small": Scale((300, 12), (75, 4), (150, 3), 600),
    "bench": Scale((500, 20), (125, 4), (10, 3), 20),
    "paper": Scale((50_000, 20), (2_500, 4), (2_000, 3), 6_000),
}


@dataclass(frozen=True)
class IdentityChunk:
    """Consecutive identities of one split, as a worker gets them."""

    seed: int
    split: str
    plan: SplitPlan
    identities: tuple[int, ...]
    strengths: Strengths


def identity_name(split: str, identity: int) -> str:
    """``l00012``, ``h00012`` or ``e00012``: no two splits share a name."""
    return f"{split[0] if split != 'highres_eval' else 'e'}{identity:05d}"


def find_scale(scale: str) -> Scale:
    """The scale of that name. Raises UsageError."""
    if scale not in SCALES:
        raise UsageError(f"scale is {scale!r}; it must be one of {', '.join(SCALES)}")
    return SCALES[scale]


def jpegs(job: IdentityChunk, identity: int) -> list[bytes]:
    """The files of one person."""
    import simplejpeg

    images, qualities = render(
        job.seed, job.plan.number, identity, np.arange(job.plan.pictures), job.plan.size, job.strengths
    )
    return [
        simplejpeg.encode_jpeg(image, quality=quality, colorsubsampling="420")
        for image, quality in zip(images, qualities.tolist(), strict=True)
    ]


def _write_job(root: Path, job: IdentityChunk) -> int:
    """Write the folders of a job; returns the number of pictures."""
    for identity in job.identities:
        name = identity_name(job.split, identity)
        aside = root / PARTIAL / f"{job.split}-{name}"
        shutil.rmtree(aside, ignore_errors=True)  # left by a killed run
        aside.mkdir()
        for picture, content in enumerate(jpegs(job, identity)):
            (aside / f"{picture:03d}.jpg").write_bytes(content)
        os.replace(aside, root / job.split / name)
    return len(job.identities) * job.plan.pictures


def jobs(seed: int, split: str, plan: SplitPlan, missing: list[int], strengths: Strengths) -> Iterator[IdentityChunk]:
    """Cut the missing identities into pieces of a fraction of a second."""
    step = max(1, CHUNK_PICTURES[plan.size] // plan.pictures)
    for start in range(0, len(missing), step):
        yield IdentityChunk(seed, split, plan, tuple(missing[start : start + step]), strengths)


def _prepare_worker() -> None:
    """One process is one thread."""
    import cv2

    cv2.setNumThreads(1)


def in_order(
    function: Callable[[IdentityChunk], T], work: Iterator[IdentityChunk], workers: int, stop: StopFlag
) -> Iterator[T]:
    """``map`` over ``workers`` processes (1: in this one), with few jobs in flight, ending early on ``stop``."""
    if workers == 1:
        for job in work:
            if stop:
                return
            yield function(job)
        return
    pool = worker_pool(workers, _prepare_worker)
    waiting: deque[Future[T]] = deque()
    try:
        for job in work:
            if stop:
                break
            waiting.append(pool.submit(function, job))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting and not stop:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise HrfrError(
            "a worker process died (out of memory?); run the same command again to continue, with fewer --workers if"
            " it happens again"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def worker_count(workers: int, pictures: int) -> int:
    """0 means every core this process may use, or none but this process for a small piece of work."""
    if workers < 0:
        raise UsageError(f"workers is {workers}; it must be at least 0 (0: as many as there are cores)")
    return workers or (1 if pictures <= INLINE_PICTURES else cores())


def check_seed(seed: int) -> None:
    """Raises UsageError for a seed that is no 64-bit key."""
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed is {seed}; it must be within 0..2**64 - 1")


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
        scale: a key of :data:`SCALES`.
        workers: processes; 0 for one a core.
        stop: looked at between pieces of work; by default SIGINT and SIGTERM set one.

    Returns:
        What the tree holds: scale, seed, and per split its identities, pictures and size; pairs.

    Raises:
        UsageError: ``root`` holds something else than a tree of these settings, or another process writes there;
            bcolz is missing.
        CannotWrite: a full disk; what is finished is kept.
        Interrupted: stopped; calling again continues.
    """
    table = find_scale(scale)
    check_seed(seed)
    root = Path(root)
    require_bcolz(f"{root}: writing its pairs")  # said before the faces are made, not after
    with (
        _writing_in(root, "what is finished is kept, and the same `hrfr-fast synth` continues it"),
        StopFlag() if stop is None else nullcontext(stop) as flag,
        progress_bar(show_progress) as bars,
    ):
        _claim(root, {"layout": LAYOUT, "scale": scale, "seed": seed, "strengths": asdict(strengths)})
        for split, plan in table.splits().items():
            missing = _missing(root, split, plan)
            task = bars.add_task(split, total=plan.identities * plan.pictures, note="")
            bars.advance(task, (plan.identities - len(missing)) * plan.pictures)
            count = worker_count(workers, len(missing) * plan.pictures)
            work = jobs(seed, split, plan, missing, strengths)
            for done in in_order(partial(_write_job, root), work, count, flag):
                bars.advance(task, done)
            raise_if_stopped(flag, f"{root} is incomplete; the same `hrfr-fast synth` continues it")
        task = bars.add_task("pairs", total=table.pairs, note="")
        _write_pairs(root, table, seed, flag, lambda n: bars.advance(task, n))
        shutil.rmtree(root / PARTIAL, ignore_errors=True)
    return summary(table, scale, seed)


def summary(table: Scale, scale: str, seed: int) -> dict[str, Any]:
    """What a finished tree holds."""
    splits = {
        name: {"identities": plan.identities, "pictures": plan.identities * plan.pictures, "size": plan.size}
        for name, plan in table.splits().items()
    }
    return {"scale": scale, "seed": seed, "splits": splits, "pairs": table.pairs}


def raise_if_stopped(stop: StopFlag, what_now: str) -> None:
    """Raises Interrupted with ``what_now`` when a signal has arrived."""
    if stop:
        raise Interrupted(f"stopped; {what_now}", stop.signal_number or signal.SIGINT)


@contextmanager
def _writing_in(root: Path, then: str) -> Iterator[None]:
    """Hold ``root`` alone; what the system refuses to write there is told with how to go on."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is not a directory")
    with directory_lock(root), writing(root, lambda: f"{root} is incomplete; {then}"):
        yield


def _claim(root: Path, settings: dict[str, Any]) -> None:
    """Mark ``root`` as a tree of these settings, or find it marked so."""
    marker = root / MARKER
    settings = json.loads(json.dumps(settings))
    if marker.exists():
        try:
            found = json.loads(marker.read_bytes())
        except ValueError:
            found = None
        if found != settings:
            raise UsageError(f"{root} holds synthetic faces of other settings ({MARKER}); choose an empty directory")
    elif any(path.name != LOCK for path in root.iterdir()):
        raise UsageError(f"{root} is not empty and not a tree of synthetic faces; choose an empty directory")
    write_json(marker, settings)
    (root / PARTIAL).mkdir(exist_ok=True)


def _missing(root: Path, split: str, plan: SplitPlan) -> list[int]:
    (root / split).mkdir(exist_ok=True)
    present = set(os.listdir(root / split))
    return [i for i in range(plan.identities) if identity_name(split, i) not in present]


class ChosenPairs(NamedTuple):
    """P pairs of ``highres_eval`` pictures: identity and picture number of both, [P, 2] each, and [P] same."""

    identities: NDArray[np.int64]
    pictures: NDArray[np.int64]
    same: NDArray[np.bool_]


def choose_pairs(table: Scale, seed: int) -> ChosenPairs:
    """Half genuine, half impostor, no pair twice, in random order."""
    people, each = table.highres_eval
    half = table.pairs // 2
    inside = np.array(list(combinations(range(each), 2)))
    order = np.argsort(_random(seed, 0, people * len(inside)), kind="stable")[:half]
    genuine_people = np.repeat((order // len(inside))[:, None], 2, axis=1)
    genuine_pictures = inside[order % len(inside)]
    # Each candidate is a picture and one of another person; more than enough of them, duplicates dropped.
    candidates = 4 * half + 64
    first = _random(seed, 1, candidates) % (people * each)
    other = _random(seed, 2, candidates) % ((people - 1) * each)
    second = (first // each * each + each + other) % (people * each)
    low, high = np.minimum(first, second), np.maximum(first, second)
    _, where = np.unique(low * people * each + high, return_index=True)
    where = np.sort(where)[:half]
    impostors = np.stack([first, second], 1)[where]
    identities = np.concatenate([genuine_people, impostors // each])
    pictures = np.concatenate([genuine_pictures, impostors % each])
    shuffle = np.argsort(_random(seed, 3, table.pairs), kind="stable")
    return ChosenPairs(identities[shuffle], pictures[shuffle], (np.arange(table.pairs) < half)[shuffle])


def _random(seed: int, stream: int, count: int) -> NDArray[np.int64]:
    return philox(seed, stream, np.arange(count), purpose=SYNTHESIS, view=PAIR_STREAM)[:, 0].astype(np.int64)


def _write_pairs(root: Path, table: Scale, seed: int, stop: StopFlag, advance: Callable[[int], None]) -> None:
    """Decode the chosen files into the carray, some at a time; the list is written last and makes the set complete."""
    import simplejpeg

    bcolz = require_bcolz(f"{root}: writing its pairs")
    folder = root / "hres_eval_pairs"
    folder.mkdir(exist_ok=True)
    if (folder / "hres_list.npy").exists():
        advance(table.pairs)
        return
    pairs, aside = choose_pairs(table, seed), root / PARTIAL / "hres"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(folder / "hres", ignore_errors=True)
    bcolz.blosc_set_nthreads(1)  # the bytes must not depend on the number of cores
    empty = np.empty((0, 3, HIGH, HIGH), np.float32)
    array = bcolz.carray(empty, rootdir=str(aside), mode="w", expectedlen=2 * table.pairs)
    for start in range(0, table.pairs, 32):
        raise_if_stopped(stop, f"{root} is incomplete; the same `hrfr-fast synth` continues it")
        people, numbers = pairs.identities[start : start + 32].ravel(), pairs.pictures[start : start + 32].ravel()
        files = [
            root / "highres_eval" / identity_name("highres_eval", person) / f"{number:03d}.jpg"
            for person, number in zip(people.tolist(), numbers.tolist(), strict=True)
        ]
        pixels = np.stack([simplejpeg.decode_jpeg(file.read_bytes(), colorspace="BGR") for file in files])
        array.append(((pixels.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2))
        advance(len(files) // 2)
    array.flush()
    os.replace(aside, folder / "hres")
    write_array(folder / "hres_list.npy", pairs.same)


def synthesize_packed(
    out: str | Path,
    scale: str = "small",
    *,
    seed: int = 0,
    workers: int = 0,
    show_progress: bool = True,
    stop: StopFlag | None = None,
    strengths: Strengths = DEFAULT,
) -> dict[str, Any]:
    """The same faces straight as raw shards: the pixels of :func:`synthesize`, packed, and no picture files.

    An interrupted run leaves no manifest and starts anew when called again.

    Args:
        out: the packed directory, absent or empty (or left by an interrupted run of this function).
        scale, workers, stop: as for :func:`synthesize`.

    Returns:
        As :func:`synthesize`.

    Raises:
        UsageError: ``out`` holds something else.
        Interrupted: stopped.
    """
    table = find_scale(scale)
    check_seed(seed)
    out = Path(out)
    pairs = choose_pairs(table, seed)
    pictures = np.empty(0, np.uint8)
    entries: dict[str, Any] = {}
    with (
        _writing_in(out, "the same `hrfr-fast synth --packed` makes it anew"),
        StopFlag() if stop is None else nullcontext(stop) as flag,
        progress_bar(show_progress) as bars,
    ):
        _claim(out, {"layout": LAYOUT, "packed": True, "scale": scale, "seed": seed, "strengths": asdict(strengths)})
        (out / PARTIAL).rmdir()
        (out / manifest.NAME).unlink(missing_ok=True)
        for split, plan in table.splits().items():
            task = bars.add_task(split, total=plan.identities * plan.pictures, note="")
            writer = SplitWriter(out / f"{split}.beton", plan.identities * plan.pictures, plan.size)
            kept = []
            count = worker_count(workers, plan.identities * plan.pictures)
            work = jobs(seed, split, plan, list(range(plan.identities)), strengths)
            try:
                for blob, labels, checksums in in_order(_pixels_of_job, work, count, flag):
                    lengths = np.full(len(labels), 3 * plan.size**2)
                    writer.extend(blob, lengths, labels, np.full(len(labels), beton.RAW), checksums)
                    if split == "highres_eval":
                        kept.append(np.frombuffer(blob, np.uint8).reshape(-1, plan.size, plan.size, 3))
                    bars.advance(task, len(labels))
                raise_if_stopped(flag, f"{out} is incomplete; the same `hrfr-fast synth --packed` makes it anew")
            except BaseException:
                writer.close()
                raise
            names = [identity_name(split, i) for i in range(plan.identities)]
            entries[split] = manifest.split_entry(split, writer.finish(), size=plan.size, identity_names=names)
            if kept:
                pictures = np.concatenate(kept)
        pair_set = _pack_pairs(out, table, pairs, pictures)
        provenance = {"synthetic": {"scale": scale, "seed": seed, "strengths": asdict(strengths)}}
        manifest.write(out, manifest.build(entries, {"hres": pair_set}, provenance))
    return summary(table, scale, seed)


def _pixels_of_job(job: IdentityChunk) -> tuple[bytes, list[int], list[int]]:
    """What a job's files decode to, one after the other, with label and CRC-32 of each."""
    import simplejpeg

    payloads = [
        simplejpeg.decode_jpeg(content, colorspace="RGB").tobytes()
        for identity in job.identities
        for content in jpegs(job, identity)
    ]
    labels = np.repeat(job.identities, job.plan.pictures).tolist()
    return b"".join(payloads), labels, [zlib.crc32(payload) for payload in payloads]


def _pack_pairs(out: Path, table: Scale, pairs: ChosenPairs, pictures: NDArray[np.uint8]) -> dict[str, Any]:
    """Write the pair shard and the identity of each of its pictures; returns the manifest's entry."""
    writer = SplitWriter(out / "pairs-hres.beton", 2 * table.pairs, HIGH)
    records = (pairs.identities * table.highres_eval[1] + pairs.pictures).ravel()
    for record, same in zip(records.tolist(), np.repeat(pairs.same, 2).tolist(), strict=True):
        writer.append(pictures[record], int(same), beton.RAW)
    path = out / "pairs-hres.identities.npy"
    write_array(path, pairs.identities.ravel().astype(np.int32))
    digest = beton.file_digest(path)
    return manifest.pair_entry("hres", writer.finish(), size=HIGH, identities_digest=digest, identity_coverage=1.0)
