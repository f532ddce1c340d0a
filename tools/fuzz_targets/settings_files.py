"""Targets: settings, regimes and presets in TOML, and the JSON files of runs."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrfr_fast.deployment.run_thresholds import recorded_thresholds
from hrfr_fast.regimes import REGIMES, load_regime
from hrfr_fast.settings import TrainSettings, load_settings
from hrfr_fast.study.presets import load_preset
from hrfr_fast.study.score import read_run_scores
from hrfr_fast.training.metrics import read_metrics
from tools.fuzz_targets.target import Target, written


def _settings_seeds(folder: Path) -> Sequence[bytes]:
    TrainSettings().save(folder / "seed.toml")
    few = b'data = "packed"\nlearning_rate = 0.1\nbatch_size = 64\n\n[augment]\nflip = 0.5\n'
    return [(folder / "seed.toml").read_bytes(), few]


def _regime(content: bytes, folder: Path) -> None:
    load_regime(written(folder, "mine.toml", content))


def _regime_seeds(folder: Path) -> Sequence[bytes]:
    contents = []
    for name in ("fused-output", "crossres144"):
        REGIMES[name].replaced(name="mine").save(folder / "seed.toml")
        contents.append((folder / "seed.toml").read_bytes())
    return contents


PRESET = b'base = "cpu-small"\nseeds = 2\nsides = [12, 36]\n[steps]\nlowres = 3\n[batch]\n32 = 16\n'
RESULTS = {
    "dev-faces": {
        "kind": "development", "pairs": 400,
        "thresholds": [{"far": 0.01, "threshold": 0.3, "low": 0.2, "high": 0.4, "impostors": 200}],
    }
}  # fmt: skip


def _results(content: bytes, folder: Path) -> None:
    weights = written(folder, "checkpoints/last.safetensors", b"")
    written(folder, "results.json", content)
    recorded_thresholds(weights)


def _scores(content: bytes, folder: Path) -> None:
    written(folder, "judged.json", b'{"asked": {}, "identification": null}')
    written(folder, "scores.npz", content)
    read_run_scores(folder, {})


def _score_seeds(_folder: Path) -> Sequence[bytes]:
    file = io.BytesIO()
    np.savez(file, **{"view/hr": np.arange(4.0), "side/36": np.arange(4.0)})  # type: ignore[arg-type]
    return [file.getvalue()]


def _judged(content: bytes, folder: Path) -> None:
    written(folder, "judged.json", content)
    written(folder, "scores.npz", _score_seeds(folder)[0])
    read_run_scores(folder, {})


TARGETS = (
    Target(
        "settings", lambda content, folder: load_settings(written(folder, "settings.toml", content)), _settings_seeds
    ),
    Target("regime", _regime, _regime_seeds),
    Target("preset", lambda content, folder: load_preset(written(folder, "p.toml", content)), lambda _folder: [PRESET]),
    Target("results", _results, lambda _folder: [json.dumps(RESULTS).encode()]),
    Target("scores", _scores, _score_seeds),
    Target("judged", _judged, lambda _folder: [b'{"asked": {}, "identification": null}']),
    Target(
        "metrics",
        lambda content, folder: read_metrics(written(folder, "metrics.jsonl", content)),
        lambda _folder: [b'{"kind": "train", "step": 1, "loss": 3.5}\n{"kind": "end"}\n'],
    ),
)
