"""Lineage of a checkpoint: which data it and its parents were trained on, by digest, and whether a pack is the same.

A path proves nothing: data are packed anew under the same name, or moved to another. So every checkpoint records the
digests of its training splits and of those that its parents were trained on. The unit is the split: a pack to which a
pair set was added has the same training splits, and the identities held out of them are the same.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hrfr_fast.format import manifest
from hrfr_fast.format.reader import Packed, PairSet
from hrfr_fast.regimes import SPLITS
from hrfr_fast.runtime.errors import HrfrError, UsageError

WHOLE = "data"
"""In place of a split's name: all packed data, where an older version of hrfr-fast recorded no single splits."""
ADOPTED = "adopted"
"""In place of a split's name: the unknown faces that a public checkpoint was trained on, known by its file's digest."""
PUBLIC_NOTE = "it stems from a public checkpoint: whether that was trained on people shown here is unknown"
UNKNOWN = "unknown"
"""Kind of development pairs whose identities the model may have been trained on."""


def data_record(packed: Packed, sources: Iterable[str], run: Path) -> dict[str, Any]:
    """Entry ``data`` of a checkpoint's metadata: the absolute path of the packed data, their path relative to the run
    directory, and the digests of all data, of the training splits ``sources`` and of each pair set."""
    path = packed.path.resolve()
    return {
        "path": str(path),
        "from_run": os.path.relpath(path, run.resolve()),
        "digest": packed.digest,
        "splits": {name: packed.manifest["splits"][name]["digest"] for name in sources},
        "pairs": {name: pairs_digest(entry) for name, entry in packed.manifest["pairs"].items()},
    }


def pairs_digest(entry: Mapping[str, Any]) -> str:
    """The digest of one pair set, images and identities, from its manifest entry."""
    return "+".join(filter(None, (entry["digest"], entry["identities_digest"])))


def trained_on(metadata: Mapping[str, Any]) -> dict[str, list[str]]:
    """Split -> its digests in the training data of the checkpoint, its parents and its teacher; WHOLE -> digests of
    whole packs."""
    data = metadata["data"]
    found = {name: {digest} for name, digest in data.get("splits", {WHOLE: data["digest"]}).items()}
    teacher = metadata.get("teacher")
    for parent in [*metadata.get("parents", []), *([teacher] if teacher else [])]:
        for name, digests in parent.get("trained_on", {WHOLE: [parent.get("data_digest", "")]}).items():
            found.setdefault(name, set()).update(digests)
    return {name: sorted(digests) for name, digests in found.items()}


def changed_training_splits(metadata: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """The training splits of a checkpoint and its parents that are not the same in the manifest ``content``.

    None for a pack without training splits: no identity was held out of it.
    """
    if not set(SPLITS) & set(content["splits"]):
        return []
    current = _digests(content)
    return [name for name, digests in trained_on(metadata).items() if set(digests) != {current.get(name)}]


def holds_training_data(metadata: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Whether the pack with the manifest ``content`` has the training splits of a checkpoint and its parents; the
    unknown faces of a public checkpoint among them are left aside, since no pack has those."""
    changed = set(changed_training_splits(metadata, content))
    known = trained_on(metadata).keys() - {ADOPTED}
    return bool(known and set(SPLITS) & set(content["splits"])) and changed <= {ADOPTED}


def changed_run_data(metadata: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """Data that decide a run's result and are not the same in the manifest ``content``: its own training splits, and
    the development pairs that choose its best checkpoint."""
    data, current = metadata["data"], _digests(content)
    if "splits" not in data:
        return [] if data["digest"] == current[WHOLE] else [WHOLE]
    pairs = {name: pairs_digest(entry) for name, entry in content["pairs"].items() if entry["kind"] == "development"}
    return [name for name, digest in data["splits"].items() if current.get(name) != digest] + [
        name for name, digest in pairs.items() if data["pairs"].get(name) != digest
    ]


def _digests(content: Mapping[str, Any]) -> dict[str, str]:
    return {WHOLE: content["digest"]} | {name: entry["digest"] for name, entry in content["splits"].items()}


def data_note(metadata: Mapping[str, Any], packed: Packed) -> str:
    """A note for reports where a checkpoint was trained on other data than ``packed`` holds; else ""."""
    changed = changed_training_splits(metadata, packed.manifest)
    if not changed:
        return ""
    if ADOPTED in changed:
        return PUBLIC_NOTE
    names = [name for name in changed if name != WHOLE]
    other = f"another {' and another '.join(names)}" if names else "other data"
    return (
        f"it was trained on {other} than {packed.path} holds now, so people shown here may be among those it was"
        " trained on"
    )


def unknown_people_note(metadata: Mapping[str, Any]) -> str:
    """A note for reports on a checkpoint whose training data cannot be looked up."""
    if ADOPTED in trained_on(metadata):
        return PUBLIC_NOTE
    return (
        f"the data it was trained on are no longer in {metadata['data']['path']}: whether it has seen these people is"
        " unknown"
    )


def pairs_as_known_to(metadata: Mapping[str, Any], pairs: PairSet, packed: Packed) -> PairSet:
    """``pairs`` of ``packed`` with notes where the checkpoint that is evaluated on them was trained on other data.

    Pairs held out of the training splits in ``packed`` are development pairs only of models trained on these splits.
    """
    if note := data_note(metadata, packed):
        kind = UNKNOWN if pairs.kind == "development" else pairs.kind
        held_out = ": no development pairs of this model" if kind != pairs.kind else ""
        return replace(pairs, kind=kind, notes=(*pairs.notes, note + held_out))
    recorded = metadata["data"].get("pairs", {}).get(pairs.name)
    if recorded not in (None, pairs_digest(packed.manifest["pairs"][pairs.name])):
        other = f"other pairs than the {pairs.name} of the data it was trained with"
        return replace(pairs, notes=(*pairs.notes, other))
    return pairs


def run_directory_of(weights: Path) -> Path:
    """The run directory of a weights file, or its folder where it was copied out of its run."""
    weights = weights.absolute()
    return weights.parent.parent if weights.parent.name == "checkpoints" else weights.parent


def candidate_paths(path: str, from_run: str, run: Path) -> list[Path]:
    """Absolute paths, each once, where data recorded at ``path`` may be after they or ``run`` were moved: the recorded
    path, that relative to the run, beside the run, and beside the folder of runs."""
    name, run = Path(path).name, run.absolute()
    relative_to_run = [run / from_run] if from_run else []
    candidates = [Path(path), *relative_to_run, run.parent / name, run.parent.parent / name]
    return [Path(text) for text in dict.fromkeys(map(os.path.abspath, candidates))]


def find_data(metadata: Mapping[str, Any], weights: Path, flag: str) -> Path:
    """The packed directory that a checkpoint was trained on, else the first one at its candidate paths.

    ``pairs_as_known_to`` and ``data_note`` tell of the difference.

    Args:
        flag: the option of the command line that names another directory; for the message.

    Raises:
        UsageError: there is no packed directory at any of these paths.
    """
    data, run = metadata["data"], run_directory_of(weights)
    if ADOPTED in data.get("splits", {}):
        raise UsageError(f"{run}: a public checkpoint, which comes without data; say with {flag} which to use")
    paths = candidate_paths(data["path"], data.get("from_run", ""), run)
    for path in paths:
        try:
            content = manifest.read(path)
        except HrfrError:
            continue
        if set(SPLITS) & set(content["splits"]) and not changed_training_splits(metadata, content):
            return path
    for path in paths:
        if (path / manifest.NAME).exists():
            return path
    others = ", ".join(map(str, paths[1:]))
    raise UsageError(
        f"{run}: the data it was trained on are no longer at {paths[0]}, and nothing packed is at {others}; "
        f"say where they are with {flag}"
    )
