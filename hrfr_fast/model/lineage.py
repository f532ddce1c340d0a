"""What a checkpoint was trained on, known by digest, and how the packed data at hand differ from that.

A path proves nothing: data are packed anew under the same name, and moved to another. So every checkpoint records the
digests of its training splits and of those that its parents were trained on. The unit is the split: a pack that gained
a pair set has the same training splits, and what was held out of them still is.
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
"""Stands for all packed data, where an older version of hrfr-fast recorded no single splits."""
UNKNOWN = "unknown"
"""Kind of development pairs whose people the model may have been trained on."""


def data_record(packed: Packed, sources: Iterable[str], run: Path) -> dict[str, Any]:
    """What a checkpoint's metadata holds under ``data``: where the data lie, seen from the root and from the run
    directory, and the digests of everything, of the training splits ``sources`` and of each pair set."""
    path = packed.path.resolve()
    return {
        "path": str(path),
        "from_run": os.path.relpath(path, run.resolve()),
        "digest": packed.digest,
        "splits": {name: packed.manifest["splits"][name]["digest"] for name in sources},
        "pairs": {name: pairs_digest(entry) for name, entry in packed.manifest["pairs"].items()},
    }


def pairs_digest(entry: Mapping[str, Any]) -> str:
    """The digest of one pair set, pictures and identities, from its manifest entry."""
    return "+".join(filter(None, (entry["digest"], entry["identities_digest"])))


def trained_on(metadata: Mapping[str, Any]) -> dict[str, list[str]]:
    """Split -> digests of what the checkpoint and those it was made from were trained on; WHOLE -> of whole packs."""
    data = metadata["data"]
    found = {name: {digest} for name, digest in data.get("splits", {WHOLE: data["digest"]}).items()}
    for parent in metadata.get("parents", []):
        for name, digests in parent.get("trained_on", {WHOLE: [parent["data_digest"]]}).items():
            found.setdefault(name, set()).update(digests)
    return {name: sorted(digests) for name, digests in found.items()}


def changed_training_splits(metadata: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """The training splits of a checkpoint and its parents that are not the same in the manifest ``content``.

    Nothing for a pack without training splits: it holds nobody out.
    """
    if not set(SPLITS) & set(content["splits"]):
        return []
    here = _digests(content)
    return [name for name, digests in trained_on(metadata).items() if set(digests) != {here.get(name)}]


def changed_run_data(metadata: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """What the manifest ``content`` has otherwise of all that decides a run's result: its own training splits, and the
    development pairs that choose its best checkpoint."""
    data, here = metadata["data"], _digests(content)
    if "splits" not in data:
        return [] if data["digest"] == here[WHOLE] else [WHOLE]
    pairs = {name: pairs_digest(one) for name, one in content["pairs"].items() if one["kind"] == "development"}
    return [name for name, digest in data["splits"].items() if here.get(name) != digest] + [
        name for name, digest in pairs.items() if data["pairs"].get(name) != digest
    ]


def _digests(content: Mapping[str, Any]) -> dict[str, str]:
    return {WHOLE: content["digest"]} | {name: entry["digest"] for name, entry in content["splits"].items()}


def data_note(metadata: Mapping[str, Any], packed: Packed) -> str:
    """What a reader has to know where a checkpoint was trained on other data than are in ``packed``; else ""."""
    names = [name for name in changed_training_splits(metadata, packed.manifest) if name != WHOLE]
    if not changed_training_splits(metadata, packed.manifest):
        return ""
    other = f"another {' and another '.join(names)}" if names else "other data"
    return f"it was trained on {other} than {packed.path} holds now, so people shown here may be among those it learnt"


def pairs_as_known_to(metadata: Mapping[str, Any], pairs: PairSet, packed: Packed) -> PairSet:
    """``pairs`` of ``packed`` with what a reader must know where they are judged by a checkpoint of other data.

    Pairs held out of the training splits in ``packed`` are development pairs only for who was trained on these.
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


# ---- where moved data are ---------------------------------------------------------------------------------------


def run_directory_of(weights: Path) -> Path:
    """The run directory of a weights file, or the folder it lies in where it was taken out of its run."""
    weights = weights.absolute()
    return weights.parent.parent if weights.parent.name == "checkpoints" else weights.parent


def candidate_paths(path: str, from_run: str, run: Path) -> list[Path]:
    """Where something recorded at ``path`` may lie now that it or ``run`` was moved: there, where it lay seen from the
    run, or beside the run or the folder of runs. Absolute, each once."""
    name, run = Path(path).name, run.absolute()
    seen_from_run = [run / from_run] if from_run else []
    found = [Path(path), *seen_from_run, run.parent / name, run.parent.parent / name]
    return [Path(one) for one in dict.fromkeys(os.path.abspath(place) for place in found)]


def find_data(metadata: Mapping[str, Any], weights: Path, flag: str) -> Path:
    """The packed directory a checkpoint was trained on, else what is packed now where that lay or may lie now.

    ``pairs_as_known_to`` and ``data_note`` tell of the difference.

    Args:
        flag: of the command line, that names another; for the message.

    Raises:
        UsageError: nothing is packed at any of these places.
    """
    data, run = metadata["data"], run_directory_of(weights)
    looked = candidate_paths(data["path"], data.get("from_run", ""), run)
    for place in looked:
        try:
            content = manifest.read(place)
        except HrfrError:
            continue
        if set(SPLITS) & set(content["splits"]) and not changed_training_splits(metadata, content):
            return place
    for place in looked:
        if (place / manifest.NAME).exists():
            return place
    others = ", ".join(map(str, looked[1:]))
    raise UsageError(
        f"{run}: the data it was trained on are no longer at {looked[0]}, and nothing packed is at {others}; "
        f"say where they are with {flag}"
    )
