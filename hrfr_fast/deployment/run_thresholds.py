"""Thresholds of a run at each false accept rate: those of its own evaluation, else from the pairs of its data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrfr_fast.deployment.records import scores_of_pairs
from hrfr_fast.evaluation.embedder import BackboneEmbedder, Embedder
from hrfr_fast.evaluation.onnx_embedder import OnnxEmbedder
from hrfr_fast.evaluation.thresholds import Threshold, threshold_from_json, thresholds_at_fars
from hrfr_fast.evaluation.verification import why_too_few_pairs
from hrfr_fast.format.reader import Packed, PairSet, open_packed
from hrfr_fast.model.lineage import find_data, holds_training_data, pairs_as_known_to, run_directory_of
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.untrusted import parsed_json


@dataclass(frozen=True)
class RunThresholds:
    """``thresholds`` and, in words, the ``pairs`` that they come from; both empty where there are none."""

    pairs: str = ""
    thresholds: tuple[Threshold, ...] = ()

    def at(self, far: float) -> Threshold | None:
        """The threshold at ``far``, None where it was not evaluated."""
        return next((found for found in self.thresholds if abs(found.far - far) < 1e-9), None)


NO_THRESHOLDS = RunThresholds()


def thresholds_of(embedder: Embedder, *, show_progress: bool = True) -> RunThresholds:
    """The thresholds that an embedder's file or run knows, else those that the pairs of its data give.

    Validation pairs (of identities held out of training) are preferred to test pairs.
    """
    if isinstance(embedder, OnnxEmbedder):
        return RunThresholds(embedder.description.threshold_pairs, embedder.description.thresholds)
    assert isinstance(embedder, BackboneEmbedder)
    if found := recorded_thresholds(embedder.weights):
        return found
    packed = data_of(embedder.metadata, embedder.weights)
    pairs = best_pairs(packed, embedder.metadata) if packed else None
    return measured_thresholds(embedder, pairs, show_progress=show_progress) if pairs else NO_THRESHOLDS


def recorded_thresholds(weights: Path) -> RunThresholds | None:
    """The thresholds in the results.json of a run whose last checkpoint ``weights`` is; None where there are none."""
    if weights.name != "last.safetensors":
        return None
    try:
        results = parsed_json((run_directory_of(weights) / "results.json").read_bytes())
        known = {
            name: (str(entry["kind"]), int(entry["pairs"]), list(entry["thresholds"]))
            for name, entry in results.items()
        }
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError):  # not evaluated, or older
        return None
    name = _preferred({name: kind for name, (kind, _, thresholds) in known.items() if thresholds})
    if name is None:
        return None
    kind, count, thresholds = known[name]
    return RunThresholds(in_words(name, kind, count), tuple(map(threshold_from_json, thresholds)))


def measured_thresholds(embedder: Embedder, pairs: PairSet, *, show_progress: bool = True) -> RunThresholds:
    """The thresholds that the scores of ``pairs`` give."""
    scores = scores_of_pairs(embedder, pairs, show_progress=show_progress)
    found = thresholds_at_fars(scores, pairs.same, pairs.identities)
    return RunThresholds(in_words(pairs.name, pairs.kind, len(pairs)), tuple(found))


def best_pairs(packed: Packed, metadata: Mapping[str, Any]) -> PairSet | None:
    """The pair set that thresholds of the checkpoint with this metadata are taken from, None where none has pairs
    enough."""
    known = [pairs_as_known_to(metadata, pairs, packed) for pairs in packed.pairs.values()]
    usable = {pairs.name: pairs for pairs in known if not why_too_few_pairs(pairs.same)}
    name = _preferred({name: pairs.kind for name, pairs in usable.items()})
    return usable[name] if name else None


def data_of(metadata: Mapping[str, Any], weights: Path, given: str | Path | None = None) -> Packed | None:
    """The packed data of a checkpoint, or those ``given``; None where they are gone or are not those it learnt from.

    Raises UsageError where data are given and are not packed.
    """
    if given:
        return open_packed(given)
    try:
        packed = open_packed(find_data(metadata, weights, "--data"))
    except (HrfrError, KeyError):  # KeyError: a checkpoint that was not trained here records no data
        return None
    return packed if holds_training_data(metadata, packed.manifest) else None


def in_words(name: str, kind: str, count: int) -> str:
    """A pair set in words: ``1,000 validation pairs dev-highres``."""
    words = {"development": "validation ", "unknown": ""}  # unknown: perhaps of people it was trained on
    return f"{count:,} {words.get(kind, f'{kind} ')}pairs {name}"


def _preferred(kinds: Mapping[str, str]) -> str | None:
    """Validation pairs before test pairs, high resolution first."""
    order = sorted(kinds, key=lambda name: (kinds[name] != "development", "highres" not in name, name))
    return order[0] if order else None
