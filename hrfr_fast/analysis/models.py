"""The models that an analysis compares, read from runs or checkpoints, and their names."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrfr_fast.regimes import REGIMES
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.toml_files import read_toml
from hrfr_fast.settings import DegradationSettings

LOW_RESOLUTION = 36  # pixels of the view LR36


@dataclass(frozen=True)
class Model:
    """One run or checkpoint. ``settings``: the run's settings.toml, empty for a checkpoint without its run."""

    name: str
    weights: Path
    metadata: dict[str, Any] = field(repr=False)
    settings: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def input_size(self) -> int:
        return int(self.metadata["backbone"]["input_size"])

    @property
    def sees_no_detail(self) -> bool:
        """Whether its input is so small that a high-resolution view is shrunk as far as a low-resolution one."""
        return self.input_size <= LOW_RESOLUTION

    def degraded_to(self, pixels: int, source: int) -> bool | None:
        """Whether the run may have degraded training faces of ``source`` pixels a side to ``pixels``; None: its
        settings are unknown."""
        if not self.settings:
            return None
        augment = self.settings.get("augment", {})
        if self._regime_says("degradation") == "native":
            native = DegradationSettings(**self.settings.get("degradation", {}))
            ranges = [(round(native.side_min * source), round(native.side_max * source))]
        else:
            ranges = [(self.settings.get("degrade_min", 0), self.settings.get("degrade_max", -1))]  # of second views
        if augment.get("degrade", 0) > 0:
            ranges.append((augment.get("degrade_min", 0), augment.get("degrade_max", -1)))
        return any(low <= pixels <= high for low, high in ranges)

    def _regime_says(self, field: str) -> Any:
        """A field of the run's regime, as the run keeps a copy of it, or as a regime of that name has it; else None."""
        copy = self.weights.parent.parent / "regime.toml"
        if copy.is_file():
            return read_toml(copy, "a regime").get(field)
        return getattr(REGIMES.get(str(self.settings.get("regime"))), field, None)

    @property
    def label(self) -> str:
        return f"{self.name} ({self.input_size} px: near-identity control)" if self.sees_no_detail else self.name


def read_model(run_or_checkpoint: str | Path, name: str) -> Model:
    """The model of a run directory (its last checkpoint) or a weights file. Raises UsageError where there is none."""
    from hrfr_fast.model.checkpoint import read_metadata, require_network, weights_path

    weights = weights_path(run_or_checkpoint)
    file = weights.parent.parent / "settings.toml"
    settings: dict[str, Any] = {}
    if weights.parent.name == "checkpoints" and file.is_file():
        settings = read_toml(file, "settings")
    metadata = read_metadata(weights)
    require_network(weights, metadata)
    return Model(name, weights, metadata, settings)


def model_names(runs: list[str | Path]) -> list[str]:
    """Unique names: the directories', with that of a checkpoint other than last, and parents' where they are equal.

    Raises UsageError where one run is given twice.
    """
    paths = [Path(run).resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise UsageError("one run is given twice; give each once")
    depth = 1
    while True:
        names = [_name(path, depth) for path in paths]
        if len(set(names)) == len(names) or depth > 20:
            return names
        depth += 1


def _name(path: Path, depth: int) -> str:
    suffix = ""
    if path.suffix == ".safetensors":
        suffix = "" if path.stem == "last" else f"-{path.stem}"
        path = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    name = "-".join(path.parts[-depth:]).strip("/") + suffix
    return "".join(c if c.isprintable() else "_" for c in name)  # no font draws bytes that are not UTF-8
