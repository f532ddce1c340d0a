"""Evaluation of a model by a public protocol: read, embed, score, with the caveats that belong beside the numbers."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.bootstrap import RESAMPLES
from hrfr_fast.evaluation.embedder import BackboneEmbedder, Embedder, UnscaledEmbedder, open_embedder
from hrfr_fast.evaluation.onnx_embedder import OnnxFlags
from hrfr_fast.evaluation.protocols import protocol_at
from hrfr_fast.evaluation.protocols.cropping import choose_crop, crop_note, described_template, training_template
from hrfr_fast.evaluation.protocols.embedding import Crop, embed_pictures, embedded_batches
from hrfr_fast.evaluation.protocols.form import TestSet
from hrfr_fast.evaluation.protocols.identification_parts import identification_parts
from hrfr_fast.evaluation.protocols.overlap import overlap_notes
from hrfr_fast.evaluation.protocols.results import PartResult, ProtocolResult, SetResult
from hrfr_fast.evaluation.protocols.template_parts import pooled_templates, template_pair_part, template_subjects
from hrfr_fast.evaluation.protocols.verification_parts import verification_parts
from hrfr_fast.format.alignment_record import AlignmentRecord, read_record
from hrfr_fast.runtime.ranks import ALONE, Ranks
from hrfr_fast.runtime.shared_work import sharing_ranks


def evaluate_protocol(
    model: str | Path,
    place: str | Path,
    *,
    protocol: str | None = None,
    pictures: str | Path | None = None,
    crop: str = "auto",
    overlap: bool = False,
    device: str = "auto",
    precision: str = "auto",
    flags: OnnxFlags | None = None,
    resamples: int = RESAMPLES,
    show_progress: bool = True,
) -> ProtocolResult:
    """Judge a model by a public test protocol.

    Ranks started by torchrun share the embedding; rank 0 has the results, those of the others have no parts.

    Args:
        model: run directory (its ``last`` checkpoint), checkpoint or ONNX file; see ``open_embedder``.
        place: the folder, or file, in the layout that the protocol is published in.
        protocol: its name; None: the one whose layout ``place`` has.
        pictures: where the pictures of a list of names are, if not in the usual place.
        crop: "template": 112-px pictures are cropped until the eyes are a third of the side apart; "none"; "auto": as
            the model's training pictures were.
        overlap: look the pictures up in training data of any size.
        flags: what a user says about an ONNX file.
        resamples: of the bootstrap behind the intervals; 0 for none.

    Returns:
        The results of each test set, part by part: measures in [0, 1] with their 95 % intervals, counts and caveats.

    Raises:
        UsageError: no such model, protocol or place; another layout; a list that is wrong.
        HrfrError: a picture that cannot be decoded.
        Interrupted: after Ctrl-C.
    """
    public = protocol_at(protocol, Path(place))
    test_sets = public.read(Path(place), Path(pictures) if pictures else None)
    embedder = open_embedder(model, device=device, precision=precision, flags=flags, kernels=True)
    facts = embedder.describe()
    if isinstance(embedder, BackboneEmbedder):
        trained = training_template(embedder.metadata, embedder.weights)
    else:
        trained = described_template(facts)
    aligned = _alignment(Path(pictures or place))
    chosen, text = choose_crop(crop, facts, trained, aligned.template if aligned else "")
    notes = tuple(aligned.notes()) if aligned else ()
    with sharing_ranks() as ranks:
        sets = {
            test_set.name: evaluate_set(
                embedder, replace(test_set, notes=(*test_set.notes, *notes)), chosen, overlap=overlap,
                resamples=resamples, show_progress=show_progress, ranks=ranks,
            )
            for test_set in test_sets
        }  # fmt: skip
    return ProtocolResult(embedder.name, public.NAME, public.TITLE, facts, text, sets)


def evaluate_set(
    embedder: Embedder, test_set: TestSet, crop: Crop | None, *, overlap: bool = False, resamples: int = RESAMPLES,
    show_progress: bool = True, ranks: Ranks = ALONE,
) -> SetResult:  # fmt: skip
    """The results of one embedder on one test set; the arguments are those of ``evaluate_protocol``.

    ``ranks``: share the embedding; on all but rank 0 the result is empty.
    """
    sizes: Counter[str] = Counter()
    options: dict[str, Any] = {"title": test_set.name, "show_progress": show_progress, "sizes": sizes, "ranks": ranks}
    if not ranks.is_main:
        for _ in embedded_batches(embedder, test_set.pictures, crop, **options):
            pass
        return SetResult(test_set.name, test_set.place, (), {})
    if test_set.pictures.templates is None:
        embeddings = embed_pictures(embedder, test_set.pictures, crop, **options)
        parts = _parts_of_pictures(embeddings, test_set, resamples, show_progress)
    else:
        batches = embedded_batches(embedder, test_set.pictures, crop, **options)
        templates = pooled_templates(test_set.pictures, batches)
        parts = _parts_of_templates(templates, test_set, resamples, show_progress)
    notes = [*test_set.notes, crop_note(crop, sizes)]
    if test_set.pictures.norms_weigh and not isinstance(embedder, UnscaledEmbedder):
        notes.append("this model gives embeddings of norm 1 only, where published numbers let the norms weigh")
    if isinstance(embedder, BackboneEmbedder):
        notes += overlap_notes(
            test_set.pictures, dict(sizes), embedder.metadata, embedder.weights, whatever_it_takes=overlap
        )
    return SetResult(test_set.name, test_set.place, tuple(parts), dict(sizes), tuple(filter(None, notes)))


def _alignment(place: Path) -> AlignmentRecord | None:
    """What ``hrfr-fast align`` recorded of the pictures at ``place``, None where they are somebody else's."""
    return read_record(place if place.is_dir() else place.parent)


def _parts_of_pictures(
    embeddings: NDArray[np.float32], test_set: TestSet, resamples: int, show_progress: bool
) -> list[PartResult]:
    verified = [
        part
        for pairs in test_set.verification
        for part in verification_parts(embeddings, test_set.pictures, pairs, resamples=resamples)
    ]
    return verified + identification_parts(
        embeddings, test_set.identification, resamples=resamples, show_progress=show_progress
    )


def _parts_of_templates(
    templates: NDArray[np.float32], test_set: TestSet, resamples: int, show_progress: bool
) -> list[PartResult]:
    subjects = template_subjects(test_set.pictures)
    verified = [
        template_pair_part(templates, pairs, subjects, resamples=resamples, show_progress=show_progress)
        for pairs in test_set.verification
    ]
    return verified + identification_parts(
        templates, test_set.identification, resamples=resamples, show_progress=show_progress
    )
