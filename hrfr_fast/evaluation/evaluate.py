"""Verification of a model on packed pair sets, the protocol that a run's accuracy comes from."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hrfr_fast.evaluation.bootstrap import interval_caveats
from hrfr_fast.evaluation.embedding import pair_scores
from hrfr_fast.evaluation.thresholds import Threshold, thresholds_at_fars
from hrfr_fast.evaluation.verification import Verification, verify, why_too_few_pairs
from hrfr_fast.evaluation.views import view_name, view_notes
from hrfr_fast.format.pair_defects import pair_warnings
from hrfr_fast.format.reader import Packed, PairSet, open_packed
from hrfr_fast.packing.pair_identities import look_up
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.ranks import ALONE, Ranks
from hrfr_fast.runtime.shared_work import sharing_ranks

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute


@dataclass(frozen=True)
class PairResult:
    """The verification of one pair set and the caveats that belong beside it."""

    pairs: PairSet
    verification: Verification
    view: str = "hr"
    """The view of the pictures: hr, lr36, hr-lr36 (first of a pair - second), ..."""
    notes: tuple[str, ...] = ()
    """Caveats of the model and the view; those of the pairs are added."""
    thresholds: tuple[Threshold, ...] = ()
    """At each FAR; none where no intervals were asked for."""
    accuracy_swapped: float | None = None
    """Of a model with BatchNorm by resolution: the accuracy where every picture is taken for one of the other
    resolution; None for other models, and where no intervals were asked for."""

    def to_json(self) -> dict[str, Any]:
        """The fields of ``Verification.to_json``, the kind of pairs, the view, the caveats and the thresholds.

        ``overlap`` and ``defects`` are the counts that the caveats state.
        """
        facts: dict[str, Any] = {
            "kind": self.pairs.kind,
            "view": self.view,
            "notes": [*caveats(self.pairs), *self.notes],
        }
        facts["thresholds"] = [threshold.to_json() for threshold in self.thresholds]
        if self.accuracy_swapped is not None:
            facts["accuracy_swapped"] = self.accuracy_swapped
        counts = {"overlap": dict(self.pairs.overlap), "defects": asdict(self.pairs.defects)}
        return self.verification.to_json() | facts | counts


def caveats(pairs: PairSet) -> list[str]:
    """Caveats of a pair set that belong beside every accuracy on it."""
    notes = [*pairs.notes, *pair_warnings(pairs)]
    people = None if pairs.identities is None else len(np.unique(pairs.identities))
    notes += interval_caveats(people)
    if people is not None and pairs.identity_coverage < 1:
        notes.append(f"identities known for {pairs.identity_coverage:.1%} of its pictures")
    return notes


def evaluate_pairs(
    backbone: "nn.Module",
    size: int,
    pair_sets: list[PairSet],
    compute: "Compute",
    *,
    degrade: int | tuple[int, int] = 0,
    resamples: int = 2000,
    ranks: Ranks = ALONE,
    with_swapped: bool = True,
) -> dict[str, PairResult]:
    """Verification of ``backbone`` (input of ``size`` px) on each pair set, by name.

    ``degrade``: the view (``views.py``) of all test faces, or of every pair's (first, second) face.
    ``ranks``: share the embedding (see ``embed``); rank 0 scores, and the others get no results.
    ``with_swapped``: for a model with BatchNorm by resolution also the accuracy with the two resolutions' statistics
    swapped, which takes a second embedding of all pairs.
    """
    from hrfr_fast.model.domain_norm import domains_of

    results = {}
    with_swapped = with_swapped and domains_of(backbone) is not None
    for pairs in pair_sets:
        in_view = partial(pair_scores, backbone, pairs, size, compute, degrade=degrade, ranks=ranks)
        scores = in_view()
        swapped = in_view(swap_domain=True) if with_swapped else None
        if not ranks.is_main:
            continue
        verification = verify(scores, pairs.same, pairs.identities, resamples=resamples)
        thresholds = thresholds_at_fars(scores, pairs.same, pairs.identities, resamples=resamples) if resamples else []
        notes = view_notes(degrade, size, pairs.split.size)
        accuracy = None
        if swapped is not None:
            accuracy = verify(swapped, pairs.same, pairs.identities, resamples=0).accuracy
            notes = (*notes, _swapped_note(verification.accuracy, accuracy))
        results[pairs.name] = PairResult(pairs, verification, view_name(degrade), notes, tuple(thresholds), accuracy)
    return results


def _swapped_note(accuracy: float, swapped: float) -> str:
    return (
        f"with each picture taken for one of the other resolution (BatchNorm's statistics swapped) accuracy is"
        f" {swapped:.2%}, {100 * (swapped - accuracy):+.2f} points"
    )


def verifiable(pair_sets: Iterable[PairSet], say: Callable[[str], None]) -> list[PairSet]:
    """The pair sets with enough pairs of both kinds; ``say`` gets a line for each of the others."""
    kept = []
    for pairs in pair_sets:
        if reason := why_too_few_pairs(pairs.same):
            say(f"pair set {pairs.name} is left out: {reason}")
        else:
            kept.append(pairs)
    return kept


def pair_sets_named(packed: Packed, names: list[str] | None) -> list[PairSet]:
    """The pair sets called ``names``, or all. Raises UsageError for one that is not there."""
    for name in names or []:
        if name not in packed.pairs:
            raise UsageError(f"{packed.path}: no pair set is called {name!r}; there are {', '.join(packed.pairs)}")
    return [pairs for name, pairs in packed.pairs.items() if not names or name in names]


def load_backbone(weights: Path, compute: "Compute", *, kernels: bool = True) -> tuple["nn.Module", dict[str, Any]]:
    """The backbone of a weights file on ``compute``'s device, in eval mode, and the file's metadata.

    ``kernels``: on a CPU kernels of our own compute it, as in training. A few pictures are not worth it: where nothing
    was trained before, the kernels are compiled first, which takes about 20 seconds.
    """
    from hrfr_fast.model.checkpoint import load_module, read_metadata, require_network
    from hrfr_fast.model.fused import build_model, model_settings, refuse_larger_model
    from hrfr_fast.model.kernels.cpu_use import use_on_cpu

    metadata = read_metadata(weights)
    require_network(weights, metadata)
    settings = model_settings(metadata["backbone"])
    refuse_larger_model(weights, settings)
    backbone = build_model(settings)
    load_module(weights, "backbone", backbone)
    if kernels and compute.device.type == "cpu":
        use_on_cpu(backbone)
    return compute.place(backbone).eval(), metadata


def evaluate(
    run_or_checkpoint: str | Path,
    *,
    pairs: str | Path | None = None,
    names: list[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    degrade: int | tuple[int, int] = 0,
    carray_channels: str | Mapping[str, str] = "bgr",
) -> dict[str, PairResult]:
    """Verify a run's ``last`` checkpoint, or any checkpoint, on pairs.

    Args:
        run_or_checkpoint: run directory or .safetensors file.
        pairs: where the pairs are: a packed directory, or a folder of pairs not packed yet (a directory with
            ``<name>.csv`` or ``<name>/`` + ``<name>_list.npy`` inside); None: the packed data of the run, found
            again where they were moved along with it. A result's notes say where the data are not those of the run.
        names: which pair sets; None for all test and validation sets.
        degrade: size in pixels to which every test face is shrunk first (36: the LR36 view); 0: not at all; two: of
            the first and second picture of every pair ((0, 36): HR-LR). ``parse_view`` makes it from a name.
        carray_channels: order of the channels in bcolz carrays that are not packed yet, as in ``pack``.

    Returns:
        Result by pair set name. Ranks started by torchrun share the embedding; rank 0 has the results, the others none.

    Raises:
        UsageError: no such checkpoint, pairs or pair set, a carray whose channels are in the other order.
    """
    from hrfr_fast.model.checkpoint import weights_path
    from hrfr_fast.model.lineage import (
        ADOPTED,
        find_data,
        holds_training_data,
        pairs_as_known_to,
        trained_on,
        unknown_people_note,
    )
    from hrfr_fast.runtime.device import choose_compute

    compute = choose_compute(device, precision)
    weights = weights_path(run_or_checkpoint)
    backbone, metadata = load_backbone(weights, compute)
    trained = training_data(metadata, weights)
    path = Path(pairs) if pairs else find_data(metadata, weights, "--pairs")
    with opened_pairs(path, names, trained, carray_channels) as packed:
        found = [pairs_as_known_to(metadata, pair_set, packed) for pair_set in pair_sets_named(packed, names)]
        if pairs and (
            ADOPTED in trained_on(metadata) or not (trained or holds_training_data(metadata, packed.manifest))
        ):
            note = unknown_people_note(metadata)
            found = [
                one if any(text.startswith(note) for text in one.notes) else replace(one, notes=(*one.notes, note))
                for one in found
            ]
        pair_sets = verifiable(found, console.print)
        if not pair_sets:
            raise UsageError(f"{packed.path}: there are no pairs to verify on; give others with --pairs")
        size = metadata["backbone"]["input_size"]
        with sharing_ranks() as ranks:
            return evaluate_pairs(backbone, size, pair_sets, compute, degrade=degrade, ranks=ranks)


def training_data(metadata: Mapping[str, Any], weights: Path) -> Packed | None:
    """The packed data that a checkpoint was trained on, None where they are gone or were changed."""
    from hrfr_fast.model.lineage import find_data, holds_training_data

    try:
        packed = open_packed(find_data(metadata, weights, "--pairs"))
    except HrfrError:
        return None
    return packed if holds_training_data(metadata, packed.manifest) else None


@contextmanager
def opened_pairs(
    path: Path,
    names: list[str] | None = None,
    trained: Packed | None = None,
    carray_channels: str | Mapping[str, str] = "bgr",
) -> Iterator[Packed]:
    """The packed directory ``path``; a folder of unpacked pairs is packed to a temporary one first.

    Pairs of other data than those ``trained`` on are looked up there: for pictures in common and for identities.
    """
    if (path / "manifest.json").exists():
        packed = open_packed(path)
        pair_sets = pair_sets_named(packed, names)
        if trained is not None and packed.digest != trained.digest:
            pair_sets = [look_up(pairs, trained.splits) for pairs in pair_sets]
        yield replace(packed, pairs={pairs.name: pairs for pairs in pair_sets})
        return
    if not path.is_dir():
        raise UsageError(f"{path}: no such directory of pairs; give a packed one or a folder of pair sets")
    from hrfr_fast.packing.pack import pack_pairs

    with tempfile.TemporaryDirectory(prefix="hrfr-pairs-") as temporary:
        known = trained.splits if trained is not None else {}
        made = pack_pairs(path, Path(temporary), known=known, carray_channels=carray_channels)
        for line in made.warnings:
            console.print(f"warning: {line}", markup=False, highlight=False)
        yield open_packed(temporary)
