"""Scores of one run's last checkpoint on the test faces, from which every table and curve is computed.

Scores are kept and not rates, so that regimes can be compared pair by pair, and tables made anew without embedding
anything again.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.verification import why_too_few_pairs
from hrfr_fast.format.beton import file_digest
from hrfr_fast.format.reader import Packed, PairSet
from hrfr_fast.runtime.files import atomic_write, write_json
from hrfr_fast.runtime.untrusted import opened_zip, parsed_json, stored_array

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute

FACES = "highres_eval"
FORMAT = 3
"""Version of the files written here; those of another version are computed again."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class RankRates:
    """Shares of probes whose own person is first, or among the first five, of the gallery."""

    rank1: float
    rank1_ci: Interval
    rank5: float
    rank5_ci: Interval

    def rate(self, rank: int) -> tuple[float, Interval]:
        """Rate and interval of rank 1 or 5."""
        return (self.rank1, self.rank1_ci) if rank == 1 else (self.rank5, self.rank5_ci)


@dataclass(frozen=True)
class Identification:
    """1:N identification with sharp probes (HR) and with probes shrunk to 36 px and back (LR)."""

    gallery: int
    probes: int
    HR: RankRates
    LR: RankRates

    def of(self, view: str) -> RankRates:
        """Rates of the probes "HR" or "LR"."""
        return self.HR if view == "HR" else self.LR

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Identification":
        """From what ``evaluation.identification.identify`` returns."""
        HR, LR = (RankRates(**{name: _plain(rate) for name, rate in values[view].items()}) for view in ("HR", "LR"))
        return cls(values["gallery"], values["probes"], HR, LR)


@dataclass(frozen=True)
class RunScores:
    """Scores float64 [P] on the main test pairs by view, and identification and the probe where they were asked for.

    ``by_view``: "HR-HR", "HR-LR", "LR-LR". ``by_resolution``: pixels -> scores. ``probe``: view -> confidence in low
    resolution, float64 [2N], of N images of highres_eval as they are and then in that view. ``space``: see
    ``space.arrays_of``.
    """

    by_view: dict[str, NDArray[np.float64]]
    by_resolution: dict[int, NDArray[np.float64]]
    probe: dict[str, NDArray[np.float64]]
    space: dict[str, NDArray[np.float64]]
    identification: Identification | None


def main_pairs(packed: Packed) -> PairSet | None:
    """The pair set that regimes are compared on: the largest test set with enough pairs of both kinds."""
    tests = [pairs for pairs in packed.pairs.values() if pairs.kind == "test" and not why_too_few_pairs(pairs.same)]
    return max(tests, key=len, default=None)


def score_run(
    run: Path, packed: Packed, compute: "Compute", *, resolutions: tuple[int, ...] = (), identify: bool = False,
    probe: bool = False, align: bool = True,
) -> RunScores:  # fmt: skip
    """Embed the test faces with ``run``'s last checkpoint, unless the same was done before.

    Args:
        resolutions: of the accuracy-by-resolution curve, in pixels, 0 for the faces as they are; none: no curve.
        identify: 1:N identification on highres_eval.
        probe: the classifier that guesses the true resolution, and the embedding space.
        align: the embedding space after alignment, too, which takes long.
    """
    from hrfr_fast.evaluation.evaluate import load_backbone
    from hrfr_fast.model.checkpoint import weights_path

    weights = weights_path(run)
    asked = _asked(weights, packed, resolutions, identify, probe, align)
    known = read_run_scores(run, asked)
    if known is not None:
        return known
    backbone, metadata = load_backbone(weights, compute)
    size = metadata["backbone"]["input_size"]
    arrays = _pair_arrays(backbone, size, packed, compute, resolutions)
    if probe:
        arrays |= _probe_arrays(backbone, size, packed, compute, align)
    ranks = _identify(backbone, size, packed, compute) if identify else None
    with atomic_write(run / "scores.npz") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    # Written last: it says that scores.npz is complete.
    write_json(run / "judged.json", {"asked": asked, "identification": ranks})
    return _scores(arrays, ranks)


def is_scored(
    run: Path, packed: Packed, *, resolutions: tuple[int, ...] = (), identify: bool = False, probe: bool = False,
    align: bool = True,
) -> bool:  # fmt: skip
    """Whether ``score_run`` with the same arguments would find its work done."""
    from hrfr_fast.model.checkpoint import weights_path

    return read_run_scores(run, _asked(weights_path(run), packed, resolutions, identify, probe, align)) is not None


def _asked(
    weights: Path, packed: Packed, resolutions: tuple[int, ...], identify: bool, probe: bool, align: bool
) -> dict[str, Any]:
    """What scores are of, as ``judged.json`` keeps it."""
    return {
        "format": FORMAT, "weights": file_digest(weights), "data": packed.digest, "sides": list(resolutions),
        "identify": identify, "probe": probe, **({} if align else {"align": False}),
    }  # fmt: skip


def read_run_scores(run: Path, asked: dict[str, Any] | None = None) -> RunScores | None:
    """The scores that ``score_run`` left in ``run``; None without any, or where they answer another ``asked``."""
    try:
        saved = parsed_json((run / "judged.json").read_bytes())
        if asked is not None and saved["asked"] != asked:
            return None
        with opened_zip(run / "scores.npz") as file:
            size = (run / "scores.npz").stat().st_size
            arrays = {name.removesuffix(".npy"): stored_array(file, name, size) for name in file.namelist()}
        return _scores(arrays, saved["identification"])
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return None


def _scores(arrays: dict[str, NDArray[np.float64]], identification: dict[str, Any] | None) -> RunScores:
    groups: dict[str, dict[str, NDArray[np.float64]]] = {"view": {}, "side": {}, "probe": {}, "space": {}}
    for name, array in arrays.items():
        group, _, key = name.partition("/")
        groups[group][key] = array
    by_resolution = {int(pixels): scores for pixels, scores in groups["side"].items()}
    found = Identification.from_json(identification) if identification else None
    return RunScores(groups["view"], by_resolution, groups["probe"], groups["space"], found)


def _plain(rate: Any) -> Any:
    """An interval as a tuple; JSON has lists."""
    return tuple(rate) if isinstance(rate, list) else rate


def _pair_arrays(
    backbone: "nn.Module", size: int, packed: Packed, compute: "Compute", resolutions: tuple[int, ...]
) -> dict[str, NDArray[np.float64]]:
    from hrfr_fast.evaluation.resolution import cross_resolution_scores, scores_by_resolution
    from hrfr_fast.evaluation.views import HR, LR36, pair_views

    pairs = main_pairs(packed)
    if pairs is None:
        return {}
    views = pair_views(backbone, pairs, size, compute, tuple({HR, LR36, *resolutions}))
    arrays = {f"view/{name}": scores for name, scores in cross_resolution_scores(views).items()}
    return arrays | {f"side/{pixels}": scores for pixels, scores in scores_by_resolution(views, resolutions).items()}


def _probe_arrays(
    backbone: "nn.Module", size: int, packed: Packed, compute: "Compute", align: bool
) -> dict[str, NDArray[np.float64]]:
    """Embedding space; linear and kNN probes trained on LR36, tested on it and on degradations never trained on."""
    from hrfr_fast.analysis.embedding_cache import HELD_OUT, HELD_OUT_VIEWS, shrink_lanczos
    from hrfr_fast.analysis.resolution_gap import KINDS, probe
    from hrfr_fast.evaluation.embedding import embed
    from hrfr_fast.evaluation.views import LR36
    from hrfr_fast.study.space import arrays_of

    faces = packed.splits.get(FACES)
    if faces is None or faces.size <= HELD_OUT.size or faces.identities < 2:
        return {}
    high = embed(backbone, faces, size, compute)
    low = embed(backbone, faces, size, compute, degrade=LR36)
    chunks = [np.arange(start, min(start + 512, faces.samples)) for start in range(0, faces.samples, 512)]
    tests = {"LR36": low}
    for view in HELD_OUT_VIEWS:
        unseen = [embed(backbone, shrink_lanczos(faces, chunk, view.size), size, compute) for chunk in chunks]
        tests[view.name] = np.concatenate(unseen)
    arrays = {}
    for kind in KINDS:
        for name, tested in tests.items():
            found = probe(high, low, faces.labels, kind=kind, tested_lr=tested, resamples=0)
            arrays[f"probe/{kind} {name}"] = found.scores
    space = arrays_of(high, low, faces.labels, compute.device, align=align)
    return arrays | {f"space/{name}": values for name, values in space.items()}


def _identify(backbone: "nn.Module", size: int, packed: Packed, compute: "Compute") -> dict[str, Any] | None:
    from hrfr_fast.evaluation.gallery import identify_split
    from hrfr_fast.evaluation.views import LR36

    faces = packed.splits.get(FACES)
    if faces is None or faces.size <= LR36 or faces.identities < 2 or faces.samples == faces.identities:
        return None
    return identify_split(backbone, faces, size, compute)
