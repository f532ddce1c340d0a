"""Commands to be killed: how each is run and continued, and what of its result has to be as if nothing had happened."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hrfr_fast.deployment.embed import embed
from hrfr_fast.evaluation.evaluate import evaluate
from hrfr_fast.format.verify import check_packed
from hrfr_fast.packing.pack import pack
from hrfr_fast.settings import TrainSettings
from hrfr_fast.study.run import run_study
from hrfr_fast.training.metrics import read_metrics
from hrfr_fast.training.state import STATE_FILE
from hrfr_fast.training.trainer import train

PRESET = """
base = "cpu-small"
batch = {32 = 16, 144 = 4}
steps = {lowres = 2, highres = 2, finetune = 2, fused = 2, own = 2}
looks = 0
sides = [0]
analysed = []
settings = {width = 8, embedding_size = 16, log_every = 1, save_minutes = 0.0001, precision = "fp32"}
"""


IMPORTED_LATE = (
    "hrfr_fast.training.run_figures",
    "hrfr_fast.training.run_report",
    "hrfr_fast.engines.resident",
    "hrfr_fast.resampling.cpu",
    "hrfr_fast.study.report",
    "hrfr_fast.study.collect",
    "hrfr_fast.model.kernels.cpu_network",
    "tensorboard",
    "matplotlib.pyplot",
    "scipy.stats",
    "sklearn.linear_model",
    "safetensors.torch",
    "torch._dynamo",
    "simplejpeg",
    "cv2",
    "hrfr_fast.evaluation.gallery",
    "hrfr_fast.analysis.run",
)
"""What commands import when they need it: imported before children are forked, it costs none of them its seconds."""


@dataclass(frozen=True)
class Case:
    """A command that writes to a directory.

    Attributes:
        run: begins it, or goes on with what is there, as its messages and documentation say.
        result: what an undisturbed and a killed and continued one have in common, as JSON values.
    """

    name: str
    run: Callable[[Path], object]
    result: Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Inputs:
    """What the commands work on; made once, in a process of its own."""

    tree: Path
    packed: Path
    model: Path
    preset: Path

    @classmethod
    def below(cls, root: Path) -> "Inputs":
        return cls(root / "tree", root / "packed", root / "model", root / "preset.toml")


def make_inputs(inputs: Inputs) -> None:
    """A tiny data tree, the same packed, and a trained model."""
    from hrfr_fast.synthetic.data_tree import synthesize

    synthesize(inputs.tree, "tiny", workers=1, show_progress=False)
    pack(inputs.tree, inputs.packed, workers=1, dev_identities=4, show_progress=False)
    train(settings_of(inputs, inputs.model).replaced(steps=2), show_progress=False)
    inputs.preset.write_text(PRESET, encoding="utf-8")


def settings_of(inputs: Inputs, run: Path) -> TrainSettings:
    """A short training that saves after every step and verifies twice."""
    return TrainSettings(
        regime="lowres32", data=str(inputs.packed), out=str(run), steps=8, batch_size=16, width=8, embedding_size=16,
        dropout=0.2, device="cpu", precision="fp32", log_every=1, eval_every=0.5, save_minutes=1e-6,
    )  # fmt: skip


def cases(inputs: Inputs) -> dict[str, Case]:
    """All of them by name."""
    return {
        case.name: case
        for case in (
            Case("pack", lambda out: _pack(inputs, out), _packed_result),
            Case("train", lambda out: _train(inputs, out), _trained_result),
            Case("embed", lambda out: _embed(inputs, out), _embedded_result),
            Case("evaluate", lambda out: _evaluate(inputs, out), _evaluated_result),
            Case("study", lambda out: _study(inputs, out), _studied_result),
        )
    }


def _pack(inputs: Inputs, out: Path) -> None:
    from hrfr_fast.packing import pack_shard, workers

    pack_shard.SYNC_SECONDS = 0.0  # an entry in the journal after every chunk, and small chunks: many states to die in
    workers.CHUNK_BYTES = 1 << 15
    pack(inputs.tree, out, workers=1, dev_identities=4, show_progress=False, page_size=1 << 16)


def _packed_result(out: Path) -> dict[str, Any]:
    return {"damage": list(map(str, check_packed(out)))} | {path.name: _digest(path) for path in _files(out)}


def _train(inputs: Inputs, run: Path) -> None:
    begun = (run / "checkpoints" / STATE_FILE).exists()
    train(settings_of(inputs, run), resume=begun, show_progress=False)


def _trained_result(run: Path) -> dict[str, Any]:
    checkpoints = run / "checkpoints"
    state = torch.load(checkpoints / STATE_FILE, weights_only=True)
    lines = read_metrics(run / "metrics.jsonl")
    return {
        "files": sorted(str(path.relative_to(run)) for path in _files(run) if "tfevents" not in path.name),
        "state": _digest_of(state),
        **{name: _digest(checkpoints / f"{name}.safetensors") for name in ("last", "best")},
        "results": json.loads((run / "results.json").read_text(encoding="utf-8")),
        "losses": [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"],
        "looks": [(line["step"], line["pairs"], line["auc"]) for line in lines if line["kind"] == "verification"],
    }


def _embed(inputs: Inputs, out: Path) -> None:
    from hrfr_fast.deployment import embed as module

    module.SAVE_SECONDS = 0.0
    out.mkdir(exist_ok=True)
    embed(inputs.model, [inputs.tree / "highres"], out / "e.npz", device="cpu", batch_size=8, show_progress=False)


def _embedded_result(out: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(out / "e.npz") as file:
        digests = {name: hashlib.sha256(file[name].tobytes()).hexdigest() for name in file.files}
    return {"files": sorted(path.name for path in _files(out)), **digests}


def _evaluate(inputs: Inputs, out: Path) -> None:
    out.mkdir(exist_ok=True)
    results = evaluate(inputs.model, device="cpu")
    numbers = {name: result.to_json() for name, result in results.items()}
    (out / "results.json").write_text(json.dumps(numbers), encoding="utf-8")


def _evaluated_result(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results.json").read_text(encoding="utf-8")))


def _study(inputs: Inputs, out: Path) -> None:
    regimes = ["lowres32", "highres32"]
    run_study(regimes, inputs.packed, out, preset=str(inputs.preset), seeds=1, device="cpu", show_progress=False)


def _studied_result(out: Path) -> dict[str, Any]:
    results = (out / "results.json").read_text(encoding="utf-8")
    weights = {str(p.relative_to(out)): _digest(p) for p in _files(out) if p.name == "last.safetensors"}
    tables = {path.name: path.read_text(encoding="utf-8") for path in _files(out) if path.suffix == ".csv"}
    return {"results": re.sub(re.escape(str(out)), "OUT", results), **weights, "tables": tables}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest_of(value: Any) -> Any:
    """Plain values as they are, tensors as digests."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest() + str(value.dtype)
    if isinstance(value, dict):
        return {str(key): _digest_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_digest_of(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
