"""Whether two models differ on a public protocol: the paired comparison that studies use, on the same test faces."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.evaluation.bootstrap import RESAMPLES
from hrfr_fast.evaluation.compare import Contrast, contrast, resample_outcomes
from hrfr_fast.evaluation.onnx_embedder import NO_FLAGS, OnnxFlags
from hrfr_fast.evaluation.protocols.evaluate import evaluate_protocol
from hrfr_fast.evaluation.protocols.results import Decisions, ProtocolResult
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.shared_work import sharing_ranks

SEED = 0  # number under which the one checkpoint of each model is known to ``evaluation.compare``


@dataclass(frozen=True)
class PartContrast:
    """The comparison on one part of a test set. ``measure``: what the share of right decisions is."""

    set_name: str
    part: str
    measure: str
    contrast: Contrast

    @property
    def mcnemar(self) -> tuple[int, int, float]:
        """McNemar's exact test: how many decisions only a has right, how many only b, and its p."""
        found = self.contrast.mcnemar[str(SEED)]
        return int(found["only_a"]), int(found["only_b"]), found["p"]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"set": self.set_name, "part": self.part, "measure": self.measure} | self.contrast.to_json()


@dataclass(frozen=True)
class ProtocolComparison:
    """The results of models a and b, and their contrasts part by part."""

    a: ProtocolResult
    b: ProtocolResult
    contrasts: tuple[PartContrast, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as in ``compare --json``."""
        contrasts = [one.to_json() for one in self.contrasts]
        return {"a": self.a.to_json(), "b": self.b.to_json(), "contrasts": contrasts}


def compare_models(
    a: str | Path,
    b: str | Path,
    place: str | Path,
    *,
    resamples: int = RESAMPLES,
    flags: OnnxFlags | None = None,
    **options: Any,
) -> ProtocolComparison:
    """Judge two models by a public protocol and compare them decision by decision.

    The interval of the difference is a paired bootstrap over identities; McNemar's test stands beside it. Decisions are
    those on held-out folds (pairs of pictures), at rank 1 (identification), and on genuine pairs at a fixed FAR (pairs
    of templates), where each model's threshold is taken as given. Of ranks started by torchrun, which share the
    embedding, rank 0 has the comparison; that of the others is empty.

    Args:
        a, b, place: as in ``evaluate_protocol``, whose other arguments are the ``options``.
        resamples: of the bootstrap, two or more.
        flags: what a user says about whichever of them is an ONNX file, or about both.

    Returns:
        The results of both models, and for each part the difference a - b with its interval and tests.

    Raises:
        UsageError: as there; the same model twice; flags for ONNX files where there is none; a protocol without
            decisions to compare.
    """
    if Path(a).resolve() == Path(b).resolve():
        raise UsageError(f"{a} is given twice; compare needs two models")
    if resamples < 2:
        raise UsageError(f"{resamples} resamples; a comparison needs two at least")
    told = _flags_of_each((Path(a), Path(b)), flags or NO_FLAGS)
    with sharing_ranks() as ranks:
        results = [
            evaluate_protocol(model, place, resamples=resamples, flags=own, **options)
            for model, own in zip((a, b), told, strict=True)
        ]
    if not ranks.is_main:
        return ProtocolComparison(results[0], results[1], ())
    names = (Path(a).name, Path(b).name)
    if names[0] == names[1]:
        names = (str(a), str(b))
    contrasts = []
    for set_name, of_a in results[0].sets.items():
        for part_a, part_b in zip(of_a.parts, results[1].sets[set_name].parts, strict=True):
            if part_a.decisions is not None and part_b.decisions is not None:
                found = _contrast(names, part_a.decisions, part_b.decisions, resamples)
                contrasts.append(PartContrast(set_name, part_a.part, part_a.decisions.measure, found))
    if not contrasts:
        raise UsageError(f"{results[0].protocol}: this protocol has no decisions on which two models can be compared")
    return ProtocolComparison(results[0], results[1], tuple(contrasts))


def _flags_of_each(models: tuple[Path, Path], flags: OnnxFlags) -> list[OnnxFlags]:
    """The flags for each model: a run knows its own input, so it is told of the flip sum alone."""
    onnx = [model.suffix.lower() == ".onnx" for model in models]
    if flags.given and not any(onnx):
        raise UsageError("input size, normalisation and colours are asked of ONNX files; a run knows its own")
    return [flags if is_onnx else OnnxFlags(flip_sum=flags.flip_sum) for is_onnx in onnx]


def _contrast(names: tuple[str, str], a: Decisions, b: Decisions, resamples: int) -> Contrast:
    correct = {name: {SEED: decisions.correct} for name, decisions in zip(names, (a, b), strict=True)}
    outcomes = resample_outcomes(correct, a.same, a.identities, resamples=resamples)
    units = len(a.same) if a.identities is None else len(np.unique(a.identities))
    return contrast(names[0], names[1], outcomes, units, level="pair" if a.identities is None else "identity")
