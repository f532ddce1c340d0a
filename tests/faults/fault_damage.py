"""Random damage to every kind of file: seen and refused by name, or harmless; never a crash, a hang, or other data.

Each damage is tried in a forked child with little memory to take and little time, so that an allocation or a loop that
a damaged number asks for is a finding.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fault_crashes import PATIENCE, wait
from picture_trees import jpeg, picture
from torch import nn

from hrfr_fast.engines.resident import ResidentCPU
from hrfr_fast.evaluation.embedding import embed
from hrfr_fast.evaluation.evaluate import load_backbone
from hrfr_fast.format import beton, manifest
from hrfr_fast.format.reader import Packed, open_packed
from hrfr_fast.format.verify import check_packed
from hrfr_fast.model import checkpoint
from hrfr_fast.model.row_files import read_rows, write_tensors
from hrfr_fast.packing import pack_shard, workers
from hrfr_fast.packing.pack import pack
from hrfr_fast.regimes import regime_named
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import HrfrError, Interrupted
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.sampling.sampler import Sampler
from hrfr_fast.sampling.stream import SingleViewStream
from hrfr_fast.settings import AugmentSettings, TrainSettings
from hrfr_fast.training.check_run import check_run
from hrfr_fast.training.resuming import refuse_mixture, resumed_settings
from hrfr_fast.training.trainer import train

PAGE = 1 << 16
MEMORY = 512 << 20  # bytes that a child may take beyond what it is forked with; the files are a few MB
EACH = 50  # damages a child tries: forking and loading compiled kernels takes longer than a damage
SECONDS = 120  # for one damage, on a busy machine; it takes a tenth

Probe = Callable[[], dict[str, Any]]
"""Reads what was damaged. Returns what it delivers, under "" whether a check would have seen the damage."""


@dataclass(frozen=True)
class Target:
    """A part of a file to damage, and what reads it.

    Attributes:
        kind: of figures.
        begin, end: bytes of ``path``.
        names: words of which a refusal has to hold one.
        record: whether a refusal has to name the record.
    """

    kind: str
    path: Path
    begin: int
    end: int
    probe: Probe
    names: tuple[str, ...]
    record: bool = False


@dataclass
class Damages:
    """What became of the damages: per kind, how many were refused and how many harmless, and what went wrong."""

    tried: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    harmless: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def damage(targets: list[Target], count: int, seed: int, say: Callable[[str], object] = lambda _: None) -> Damages:
    """Damage the ``targets`` one after the other, ``count`` times in all, and put each back."""
    found, expected = Damages(), undamaged(targets)
    number = 0
    while number < count:
        numbers = range(number, min(number + EACH, count))
        for number, what, outcome in in_child(targets, numbers, seed):
            if "same" in outcome:
                continue
            target = targets[number % len(targets)]
            found.tried[target.kind] = found.tried.get(target.kind, 0) + 1
            problem = judge(outcome, expected[target.probe], target)
            taken = found.refused if "refused" in outcome else found.harmless
            if problem:
                found.failures.append(f"{number}: {target.kind}: {what}: {problem}")
                say(found.failures[-1])
            else:
                taken[target.kind] = taken.get(target.kind, 0) + 1
        number += 1
        say(f"{number} of {count}: {len(found.failures)} failures")
    return found


def undamaged(targets: list[Target]) -> dict[Probe, dict[str, Any]]:
    """What the probes give before anything is damaged."""
    firsts = {target.probe: number for number, target in reversed(list(enumerate(targets)))}
    expected = {probe: next(in_child(targets, range(n, n + 1), None))[2] for probe, n in firsts.items()}
    assert all(one.get("delivered", {}).get("") is False for one in expected.values()), expected
    return expected


def damaged_content(content: bytes, target: Target, draw: random.Random) -> tuple[str, bytes]:
    """In words, and as bytes: one random damage within the target's part of a file."""
    at = draw.randrange(target.begin, target.end)
    length = min(draw.choice((1, 2, 8, 64, 4096)), target.end - at)
    kind = draw.choice(("bit", "bit", "bytes", "zeros", "ones", "cut", "extended", "removed", "moved"))
    damaged = bytearray(content)
    if kind == "bit":
        damaged[at] ^= 1 << draw.randrange(8)
    elif kind == "bytes":
        damaged[at : at + length] = draw.randbytes(length)
    elif kind in ("zeros", "ones"):
        damaged[at : at + length] = (b"\0" if kind == "zeros" else b"\xff") * length
    elif kind == "cut":
        del damaged[at:]
    elif kind == "extended":
        damaged += draw.randbytes(length)
    elif kind == "removed":
        del damaged[at : at + length]
    else:
        other = draw.randrange(target.begin, target.end - length + 1)
        damaged[at : at + length] = content[other : other + length]
    return f"{kind} at {at} of {target.path.name}, {length} bytes", bytes(damaged)


def judge(outcome: dict[str, Any], expected: dict[str, Any], target: Target) -> str:
    """What was wrong with how a damage was taken, "" for nothing."""
    if "refused" in outcome:
        said = outcome["refused"]
        if not any(name in said for name in target.names):
            return f"refused without the file's name: {said}"
        return f"refused without a record: {said}" if target.record and "record" not in said else ""
    if "delivered" not in outcome:
        return str(outcome)
    delivered = {name: value for name, value in outcome["delivered"].items() if name}
    undamaged = {name: value for name, value in expected["delivered"].items() if name}
    if delivered != undamaged:
        return f"other {[name for name in undamaged if delivered.get(name) != undamaged[name]]}, without a word"
    return ""


def in_child(targets: list[Target], numbers: range, seed: int | None) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, words and outcome of the damages ``numbers``, done in a forked child; without ``seed`` none is done.

    An outcome is "delivered", "refused", "error" for what no user should see, or "ended": then it is the last one.
    """
    originals = {targets[number % len(targets)].path: b"" for number in numbers}
    originals = {path: path.read_bytes() for path in originals}
    sys.stdout.flush()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            _limit_child()
            with open(write, "w", encoding="utf-8") as pipe:
                for number in numbers:
                    for line in _tried(targets[number % len(targets)], number, seed):
                        pipe.write(json.dumps([number, *line]) + "\n")
                        pipe.flush()
        finally:
            os._exit(0)
    os.close(write)
    begun: tuple[int, str] | None = None
    with open(read, encoding="utf-8") as pipe:
        for line in pipe:
            number, what, outcome = json.loads(line)
            begun = None if outcome else (number, what)
            if outcome:
                yield number, what, outcome
    status = wait(child, PATIENCE)
    for path, content in originals.items():
        if path.read_bytes() != content:
            path.write_bytes(content)
    if begun or status:
        yield *(begun or (numbers[0], "")), {"ended": f"status {status}"}


def _tried(target: Target, number: int, seed: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """In words what is damaged, with nothing, and again with the outcome."""
    content = target.path.read_bytes()
    what, damaged = "nothing", content
    if seed is not None:
        what, damaged = damaged_content(content, target, random.Random(f"{seed} {number}"))
    yield what, {}
    if seed is not None and damaged == content:
        yield what, {"same": True}
        return
    signal.alarm(SECONDS)
    target.path.write_bytes(damaged)
    outcome = outcome_of(target.probe)
    target.path.write_bytes(content)
    signal.alarm(0)
    yield what, outcome


def _limit_child() -> None:
    """Silence, little memory, and an end by a signal that nothing handles where something takes too long."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def outcome_of(probe: Probe) -> dict[str, Any]:
    try:
        return {"delivered": probe()}
    except HrfrError as error:
        return {"refused": str(error)}
    except BaseException:
        return {"error": traceback.format_exc()[-1500:]}


# ---- packed data ----------------------------------------------------------------------------------------------------


def make_packed(root: Path) -> tuple[Path, Path]:
    """A small data tree, and the same packed, with development pairs, raw and JPEG."""
    tree, seed = root / "tree", 0
    for split, identities, each, size in (("lowres", 6, 4, 36), ("highres", 4, 3, 144)):
        for identity in range(identities):
            folder = tree / split / f"{split[0]}{identity:03d}"
            folder.mkdir(parents=True)
            for n in range(each):
                (folder / f"{n}.jpg").write_bytes(jpeg(picture(seed, size)))
                seed += 1
    for encoding in ("raw", "jpeg"):
        pack(tree, root / encoding, workers=1, dev_identities=2, encoding=encoding, page_size=PAGE, show_progress=False)
    return tree, root


class MeanColours(nn.Module):
    """An embedder that tells pictures apart and costs nothing."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) + torch.linspace(1, 2, 48)


def deliver(packed: Packed) -> dict[str, Any]:
    """Digests of what training and evaluation get of a pack: pixels, labels, identities."""
    found: dict[str, Any] = {}
    for name, split in packed.splits.items():
        stream = SingleViewStream((split,), Sampler(0, split.samples), AugmentSettings(), 32, 2)
        with ResidentCPU(stream, torch.uint8) as engine:
            parts = [(b.images.numpy().tobytes(), b.labels.numpy().tobytes()) for b in engine.batches(0, split.samples)]
        found[name] = hashlib.sha256(b"".join(map(b"".join, parts))).hexdigest()
    compute = choose_compute("cpu", "fp32")
    for name, pairs in packed.pairs.items():
        embeddings = embed(MeanColours(), pairs.split, 32, compute)
        people = b"" if pairs.identities is None else pairs.identities.tobytes()
        found[name] = hashlib.sha256(embeddings.tobytes() + pairs.same.tobytes() + people).hexdigest()
    return found


def probe_packed(out: Path) -> dict[str, Any]:
    """What a pack delivers. Raises AssertionError where ``check`` finds nothing in what is refused."""
    try:
        damages = list(map(str, check_packed(out)))
    except HrfrError as error:
        damages = [str(error)]
    try:
        return deliver(open_packed(out)) | {"": bool(damages)}
    except HrfrError as error:
        assert damages, f"check saw nothing, but: {error}"
        raise


def packed_targets(out: Path) -> list[Target]:
    """Every region of every file of a pack."""
    targets = []

    def probe() -> dict[str, Any]:
        return probe_packed(out)

    for path in sorted(out.iterdir()):
        names = (path.name, f"{path.stem}.beton", manifest.NAME)
        if path.suffix != ".beton":
            targets.append(Target(path.suffix.removeprefix("."), path, 0, path.stat().st_size, probe, names))
            continue
        header = beton.read_header(path)
        first = beton.data_start(header.samples, header.page_size)
        rows = beton.METADATA_START + header.samples * beton.METADATA.itemsize
        size = path.stat().st_size
        regions = {
            "header": (0, beton.HEADER.itemsize),
            "fields": (beton.HEADER.itemsize, beton.METADATA_START),
            "metadata rows": (beton.METADATA_START, rows),
            "zeros": (rows, first),
            "pages": (first, header.alloc_table_ptr),
            "allocation table": (header.alloc_table_ptr, size),
        }
        targets += [Target(f"beton {name}", path, *places, probe, names) for name, places in regions.items()]
    return [target for target in targets if target.begin < target.end]


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def make_run(root: Path, packed: Path) -> Path:
    """A trained run, whose rows file is what a sharded head leaves, in blocks of a few rows."""
    run = root / "run"
    settings = TrainSettings(
        regime="lowres32", data=str(packed), out=str(run), steps=2, batch_size=8, width=8, embedding_size=16,
        device="cpu", precision="fp32", log_every=1,
    )  # fmt: skip
    train(settings, show_progress=False)
    weights = torch.arange(400 * 16, dtype=torch.float32).reshape(400, 16)
    write_tensors(run / "checkpoints" / "last.rows-2.safetensors", {"head.weight": weights}, {})
    return run


def digest(tensors: dict[str, torch.Tensor]) -> str:
    joined = b"".join(name.encode() + tensor.contiguous().numpy().tobytes() for name, tensor in sorted(tensors.items()))
    return hashlib.sha256(joined).hexdigest()


def seen_by_check(run: Path, probe: Probe) -> Probe:
    """``probe`` that raises AssertionError where ``check`` finds nothing in what is refused."""

    def both() -> dict[str, Any]:
        damages = list(map(str, check_run(run)))
        try:
            return probe() | {"": bool(damages)}
        except HrfrError as error:
            assert damages, f"check saw nothing, but: {error}"
            raise

    return both


def run_targets(run: Path) -> list[Target]:
    """Every file of a run that a later command reads."""
    checkpoints = run / "checkpoints"
    state_file = checkpoints / "last.state.pt"

    def weights(name: str) -> Probe:
        def probe() -> dict[str, Any]:
            backbone, metadata = load_backbone(checkpoints / name, choose_compute("cpu", "fp32"))
            return {"": False, "weights": digest(dict(backbone.state_dict())), "metadata": metadata}

        return probe

    def state() -> dict[str, Any]:
        loaded = checkpoint.load_state(state_file, torch.device("cpu"))
        tensors = {"backbone": digest(loaded["backbone"]), "head": digest(loaded["head"])}
        momenta = [digest(one) for one in loaded["optimizer"]["state"].values()]
        return {"": False, **tensors, "momenta": momenta, "step": loaded["step"], "settings": str(loaded["settings"])}

    def rows() -> dict[str, Any]:
        path = checkpoints / "last.rows-2.safetensors"
        parts = [read_rows(path, "head.weight", range(first, first + 100)) for first in range(0, 400, 100)]
        return {"": False, "rows": digest({str(number): part for number, part in enumerate(parts)})}

    def settings() -> dict[str, Any]:
        resumed = resumed_settings(TrainSettings(out=str(run)))
        loaded = checkpoint.load_state(state_file, torch.device("cpu"))
        refuse_mixture(run, loaded, resumed, regime_named(resumed.regime), 2)
        return {"": False, "settings": str(loaded["settings"])}

    probes = {
        "last.safetensors": weights("last.safetensors"),
        "best.safetensors": weights("best.safetensors"),
        "last.state.pt": state,
        "last.rows-2.safetensors": rows,
        "../settings.toml": settings,
    }
    targets = []
    for name, one in probes.items():
        probe = seen_by_check(run, one)
        path = (checkpoints / name).resolve()
        size = path.stat().st_size
        if path.suffix == ".safetensors":
            begin = 8 + int.from_bytes(path.read_bytes()[:8], "little")
            regions = {"length": (0, 8), "header": (8, begin), "tensors": (begin, size)}
        elif path.suffix == ".pt":
            regions = {"zip": (0, size), "zip directory": (max(0, size - 6000), size)}
        else:
            regions = {"": (0, size)}
        names = (path.name, str(run))
        targets += [
            Target(f"{path.name} {region}".strip(), path, *places, probe, names) for region, places in regions.items()
        ]
    return targets


# ---- unfinished work -------------------------------------------------------------------------------------------------


@contextmanager
def small_steps() -> Iterator[None]:
    """A journal entry after every few pictures."""
    before = pack_shard.SYNC_SECONDS, workers.CHUNK_BYTES
    pack_shard.SYNC_SECONDS, workers.CHUNK_BYTES = 0.0, 1 << 15
    try:
        yield
    finally:
        pack_shard.SYNC_SECONDS, workers.CHUNK_BYTES = before


def make_unfinished(tree: Path, out: Path) -> None:
    """A pack stopped in its second split."""
    stop, begun = StopFlag(), [0]
    fill = pack_shard.fill_shard

    def stopping(*arguments: Any) -> None:
        begun[0] += 1
        stop.signal_number = 15 if begun[0] == 2 else None
        fill(*arguments)

    pack_shard.fill_shard = stopping
    try:
        with small_steps():
            pack(tree, out, workers=1, page_size=PAGE, show_progress=False, stop=stop)
    except Interrupted:
        pass
    finally:
        pack_shard.fill_shard = fill


def unfinished_targets(tree: Path, out: Path) -> list[Target]:
    """Every file of unfinished work; the probe continues it, in a copy, and gives what is packed then."""

    def probe() -> dict[str, Any]:
        copy = out.with_name(f"{out.name}-continued-{os.getpid()}")
        try:
            shutil.copytree(out, copy)
            with small_steps():
                pack(tree, copy, workers=1, page_size=PAGE, show_progress=False)
            return {"": False} | {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(copy.iterdir())}
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    return [
        Target(f"unfinished {path.name.partition('.')[2]}", path, 0, path.stat().st_size, probe, (str(out),))
        for path in sorted((out / manifest.WORK).iterdir())
        if path.stat().st_size
    ]


def make_all(root: Path) -> None:
    """Everything that is damaged: takes a few seconds."""
    tree, _ = make_packed(root)
    make_unfinished(tree, root / "unfinished")
    make_run(root, root / "raw")
