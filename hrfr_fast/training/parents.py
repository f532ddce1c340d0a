"""The checkpoints that a run starts from: found, and refused where they do not fit."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrfr_fast.format.beton import file_digest
from hrfr_fast.format.reader import Split
from hrfr_fast.model import checkpoint
from hrfr_fast.model.lineage import trained_on
from hrfr_fast.regimes import Regime, is_checkpoint
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.words import counted
from hrfr_fast.settings import TrainSettings


@dataclass(frozen=True)
class Parent:
    """A checkpoint that training starts from."""

    weights: Path
    metadata: dict[str, Any]

    @property
    def folded(self) -> bool:
        """Whether its BatchNorm was folded into convolutions, in it or in a public checkpoint that it stems from."""
        before = [self.metadata.get("adopted", {}), *self.metadata.get("parents", ())]
        return any(bool(one.get("folded")) for one in before)

    def to_json(self, run: Path) -> dict[str, Any]:
        """For the metadata of the child in ``run``: what it was made from, and all that this was trained on."""
        path = self.weights.resolve()
        known = {name: self.metadata.get(name) for name in ("regime", "step", "samples")}
        return {
            "path": str(path), "from_run": os.path.relpath(path, run.resolve()), **known,
            "digest": file_digest(path), "data_digest": self.metadata["data"]["digest"],
            "trained_on": trained_on(self.metadata), **({"folded": True} if self.folded else {}),
        }  # fmt: skip

    def is_what(self, recorded: Mapping[str, Any]) -> bool:
        """Whether this is the checkpoint that ``to_json`` once described, wherever it lies now."""
        if "digest" in recorded:
            return bool(recorded["digest"] == file_digest(self.weights))
        known = {name: self.metadata.get(name) for name in ("regime", "step", "samples")}
        known["data_digest"] = self.metadata["data"]["digest"]
        return all(recorded[name] == value for name, value in known.items())


def find_parents(regime: Regime, settings: TrainSettings) -> list[Parent]:
    """The checkpoints that ``regime`` starts from: those of ``--init``, else the runs beside this one.

    Raises:
        UsageError: a parent that is not there, or not as many in ``--init`` as the regime has.
    """
    return [
        _parent(regime, name, path) for name, path in zip(regime.parents, parent_paths(regime, settings), strict=True)
    ]


def parent_paths(regime: Regime, settings: TrainSettings) -> list[str]:
    """Where ``find_parents`` looks. Raises UsageError for a wrong number of paths in ``--init``."""
    given = paths_in(settings.init)
    if given and len(given) != len(regime.parents):
        wanted = ", ".join(regime.parents) or "nothing"
        raise UsageError(f"--init names {counted(len(given), 'checkpoint')}; regime {regime.name} starts from {wanted}")
    runs = settings.run_directory.parent
    return given or [name if is_checkpoint(name) else str(runs / name) for name in regime.parents]


def paths_in(init: str | None) -> list[str]:
    """The paths of ``--init``, which stand with commas between them."""
    return [path.strip() for path in (init or "").split(",") if path.strip()]


def _parent(regime: Regime, name: str, path: str) -> Parent:
    try:
        weights = checkpoint.weights_path(path)
    except UsageError as error:
        raise UsageError(
            f"regime {regime.name} starts from {name}: {error}\n"
            f"Train that first, with its --out {path}, or name another run with --init"
        ) from None
    metadata = checkpoint.read_metadata(weights)
    checkpoint.require_network(weights, metadata)
    return Parent(weights, metadata)


def people_digest(splits: Iterable[Split]) -> str:
    """SHA-256 of the identities' names in the order of their labels: which row of a head stands for whom."""
    names = [f"{split.name}/{name}" for split in splits for name in split.identity_names]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def refuse_other_people(parent: Parent, classes: int, people: str) -> None:
    """Raise UsageError where ``parent``'s head stands for other people than ``people_digest`` of these data."""
    known = parent.metadata["head"]
    if known["classes"] != classes:
        raise UsageError(
            f"{parent.weights}: its head is over {counted(known['classes'], 'identity')}; these data have {classes:,}"
        )
    if known.get("people", people) != people:
        raise UsageError(
            f"{parent.weights}: its head is over {classes:,} other identities than these data have; "
            "give the data it was trained on, or a regime that does not inherit the head"
        )
