"""The degradation that a network cannot tell from native low resolution, found on development identities.

A linear probe tells f(x'), embeddings of degraded sharp faces, from f(native low-resolution faces); the distribution of
the degradation is chosen so that its cross-validated AUC is nearest to 0.5. The search is successive halving (Jamieson
and Talwalkar 2016) over random candidates, then over neighbours of the best, on one half of the development identities
of each resolution; the other half, which the search never sees, gives the numbers to believe.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.degradation_candidates import neighbour, random_candidate
from hrfr_fast.analysis.degradation_faces import Auc, Drawn, Faces, degraded, development_faces, probe_auc
from hrfr_fast.analysis.models import read_model
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.lineage import data_note
from hrfr_fast.runtime.errors import Interrupted, UsageError
from hrfr_fast.runtime.progress import console, progress_bar
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.toml_files import write_toml
from hrfr_fast.sampling.degradation import NativeView
from hrfr_fast.sampling.two_view_stream import SecondView
from hrfr_fast.settings import DegradationSettings, TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute

CANDIDATES, NEIGHBOURS, KEPT_SHARE = 27, 9, 3
"""Random candidates, the published ranges among them; neighbours of the best; one in so many goes on to the next
round, which has so many times the pictures."""
REST = "both at half size"
"""Name of the AUC between the two sets of faces where neither shows its own resolution."""
FEWEST_PICTURES = 100
"""Of each resolution in a round, where there are as many: the AUC of fewer says little."""


@dataclass(frozen=True)
class MatchedDegradation:
    """The chosen settings, and how well a probe tells native faces from those degraded in three ways."""

    settings: DegradationSettings
    searched: dict[str, Auc]
    """On the identities that the search used: "downsampling" (the run's second view), "published" (the default ranges),
    "matched", and REST, which no degradation can take away."""
    held_out: dict[str, Auc]
    """The same on the other half of the identities."""
    candidates: int
    """Distributions tried."""
    pictures: tuple[int, int]
    """Sharp and native development pictures."""
    notes: tuple[str, ...] = ()

    @property
    def nothing_to_match(self) -> bool:
        """Whether plain downsampling is told from native faces no better, within two standard errors, than the two sets
        are where neither shows its own resolution: the order of the other numbers is then noise."""
        plain, rest = self.held_out["downsampling"], self.held_out[REST]
        return plain.distance <= rest.distance + 2 * float(np.hypot(plain.error, rest.error))

    def save(self, path: str | Path) -> None:
        """Write as a TOML file for ``train --degradation``, with the evidence beside the settings."""
        evidence: dict[str, Any] = {"candidates": self.candidates, "notes": list(self.notes)}
        evidence["nothing_to_match"] = self.nothing_to_match
        evidence |= {"sharp_pictures": self.pictures[0], "native_pictures": self.pictures[1]}
        for half, values in (("searched", self.searched), ("held_out", self.held_out)):
            evidence[half] = {name: {"auc": auc.mean, "standard_error": auc.error} for name, auc in values.items()}
        write_toml(path, {"degradation": dict(self.settings), "evidence": evidence})


def match_degradation(
    packed: str | Path,
    run: str | Path,
    *,
    out: str | Path | None = None,
    candidates: int = CANDIDATES,
    neighbours: int = NEIGHBOURS,
    most_pictures: int = 2000,
    device: str = "auto",
    seed: int = 0,
    show_progress: bool = True,
) -> MatchedDegradation:
    """Choose the degradation of sharp faces that ``run`` cannot tell from native low-resolution ones.

    Args:
        packed: directory written by ``pack --dev-identities``: the development identities of lowres and of highres are
            used, test pairs and highres_eval never.
        run: a run directory or checkpoint, trained on the training splits of ``packed``.
        out: a TOML file to write; None: none.
        candidates, neighbours: how many distributions are tried at random, and how many near the best of them.
        most_pictures: of each resolution and each half of the identities.
        seed: of halves, folds, candidates and the degradations drawn; the same gives the same settings.

    Raises:
        UsageError: no such data or run; fewer than eight development identities of a resolution.
        Interrupted: Ctrl-C or SIGTERM; nothing is written.
    """
    from hrfr_fast.evaluation.evaluate import load_backbone
    from hrfr_fast.runtime.device import choose_compute

    _refuse_too_few(candidates, neighbours, most_pictures)
    data, model = open_packed(packed), read_model(run, "run")
    native, sharp = development_faces(data, "lowres"), development_faces(data, "highres")
    compute = choose_compute(device)
    backbone, _ = load_backbone(model.weights, compute)
    notes = tuple(f"{note}: it may have seen these people" for note in [data_note(model.metadata, data)] if note)
    with progress_bar(show_progress) as bar, StopFlag() as stop:
        task = bar.add_task("pictures", total=None, note="")

        def advance(pictures: int, stage: str) -> None:
            bar.update(task, advance=pictures, note=stage)
            if stop.signal_number is not None:
                raise Interrupted("stopped; nothing was written", stop.signal_number)

        halves = [
            _Half(backbone, compute, model.input_size, one.at_most(most_pictures, seed),
                  other.at_most(most_pictures, seed), seed, advance)
            for one, other in zip(native.halves(seed), sharp.halves(seed), strict=True)
        ]  # fmt: skip
        chosen = _search(halves[0], native.split.size / sharp.split.size, candidates, neighbours, seed)
        shown = _compared(model.settings, chosen)
        searched, held_out = (half.all(shown) for half in halves)
    counts = (len(sharp.records), len(native.records))
    matched = MatchedDegradation(chosen, searched, held_out, candidates + neighbours, counts, notes)
    for line in notes:
        console.print(f"note: {line}", markup=False, highlight=False)
    if out is not None:
        matched.save(out)
    return matched


def _refuse_too_few(candidates: int, neighbours: int, most_pictures: int) -> None:
    for name, value, fewest in (("candidates", candidates, 2), ("neighbours", neighbours, 0),
                                ("most_pictures", most_pictures, 40)):  # fmt: skip
        if value < fewest:
            raise UsageError(f"{name} is {value}; it must be {fewest} or more")


def _compared(settings: dict[str, Any], chosen: DegradationSettings) -> dict[str, Drawn]:
    """The degradations that are reported: plain downsampling as the run has it, the defaults, and ``chosen``."""
    names = ("degrade_min", "degrade_max", "kernels")
    sampling = TrainSettings(**{name: settings[name] for name in names if name in settings}).sampling
    kernels = tuple(kernel.strip() for kernel in sampling.kernels.split(","))
    return {
        "downsampling": SecondView(sampling.degrade_min, sampling.degrade_max, kernels),
        "published": NativeView(DegradationSettings()),
        "matched": NativeView(chosen),
    }


class _Half:
    """Faces of half of the identities, and the embeddings of the native ones, made once."""

    def __init__(
        self, backbone: "nn.Module", compute: "Compute", size: int, native: Faces, sharp: Faces, seed: int,
        advance: Callable[[int, str], None],
    ) -> None:  # fmt: skip
        self.backbone, self.compute, self.size, self.seed, self.advance = backbone, compute, size, seed, advance
        self.native, self.sharp = native, sharp
        # Small shares of them are wanted, too, with few pictures of many people rather than the reverse.
        order = np.random.default_rng([seed, 8])
        self._native_order, self._sharp_order = (order.permutation(len(one.records)) for one in (native, sharp))
        self._native = self._embedded(native, None, "native")

    def auc(self, view: Drawn, share: float = 1.0, stage: str = "chosen") -> Auc:
        """How well a probe tells the native faces from the sharp ones in ``view``, on a ``share`` of the pictures."""
        orders, fewest = (self._native_order, self._sharp_order), FEWEST_PICTURES
        rows, some = (order[: max(fewest, round(share * len(order)))] for order in orders)
        sharp = self.sharp.chosen(some)
        shown = self._embedded(sharp, view, stage)
        return probe_auc(self._native[rows], self.native.identities[rows], shown, sharp.identities, self.seed)

    def all(self, shown: dict[str, Drawn]) -> dict[str, Auc]:
        """The AUC of each view, and REST."""
        return {name: self.auc(view) for name, view in shown.items()} | {REST: self.rest()}

    def rest(self) -> Auc:
        """The same where native and sharp faces are both downsampled to half the native size: what is left tells the
        two sets of people and cameras apart, and no degradation can take it away."""
        view = SecondView(self.native.split.size // 2, self.native.split.size // 2, ("cubic",))
        native, sharp = (self._embedded(faces, view, "both sets") for faces in (self.native, self.sharp))
        return probe_auc(native, self.native.identities, sharp, self.sharp.identities, self.seed)

    def _embedded(self, faces: Faces, view: Drawn | None, stage: str) -> NDArray[np.float32]:
        from hrfr_fast.evaluation.embedding import embed

        augmentation = None if view is None else degraded(faces, view, self.seed)
        chunks = []
        for start in range(0, len(faces.records), 128):
            rows = np.arange(start, min(start + 128, len(faces.records)))
            part = None if augmentation is None else augmentation.take(rows)
            chunks.append(
                embed(self.backbone, faces.split, self.size, self.compute, records=faces.records[rows],
                      augmentation=part)
            )  # fmt: skip
            self.advance(len(rows), stage)
        return np.concatenate(chunks)


def _search(half: _Half, side: float, candidates: int, neighbours: int, seed: int) -> DegradationSettings:
    """The candidate whose AUC over all pictures of ``half`` is nearest to 0.5."""
    random = np.random.default_rng([seed, 9])
    pool = [DegradationSettings(), *(random_candidate(random, side) for _ in range(candidates - 1))]
    finalists = _halved(half, pool, "random")
    if neighbours:
        near = [neighbour(random, finalists[0][1], side) for _ in range(neighbours)]
        finalists += _halved(half, near, "near the best")
    published = DegradationSettings()  # a small round may have dropped it: what is chosen is no worse
    finalists.append((half.auc(NativeView(published)).distance, published))
    return min(finalists, key=lambda one: one[0])[1]


def _halved(half: _Half, pool: list[DegradationSettings], name: str) -> list[tuple[float, DegradationSettings]]:
    """Distance of the AUC from 0.5 of those that went through all rounds, the nearest first.

    The last round, of as many as go into one third of the one before, uses all pictures.
    """
    rounds = max(1, 1 + int(np.floor(np.log(len(pool)) / np.log(KEPT_SHARE) - 0.5)))
    ranked: list[tuple[float, DegradationSettings]] = [(0.0, one) for one in pool]
    for number in range(rounds):
        share, stage = KEPT_SHARE ** (number + 1 - rounds), f"{name}, {len(ranked)} candidates"
        scored = [(half.auc(NativeView(one), share, stage).distance, one) for _, one in ranked]
        ranked = sorted(scored, key=lambda one: one[0])
        if number + 1 < rounds:
            ranked = ranked[: max(1, round(len(ranked) / KEPT_SHARE))]
    return ranked
