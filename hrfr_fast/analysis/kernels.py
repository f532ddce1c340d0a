"""The convolution filters of the first layers: their spectra, and how similar those of two models are.

Filters of two models come in any order, so they are matched one to one (Hungarian method, Kuhn 1955) to the largest sum
of cosines. Some match is always found: it is informative only beside the matches of models that have nothing in common.
Models of one seed and shape began with the same filters and match for that reason alone.
"""

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.embedding_cache import EmbeddingCache
from hrfr_fast.analysis.finding import CaptionedFigure, Finding
from hrfr_fast.analysis.intervals import p_text
from hrfr_fast.analysis.maps import unit
from hrfr_fast.analysis.models import Model
from hrfr_fast.analysis.uniformity import effective_rank
from hrfr_fast.reporting import figures as drawing

if TYPE_CHECKING:
    from torch import nn

KEY = "kernels"
QUESTION = "Which filters have the first layers learnt, and are those of two models similar?"
FREQUENCIES = 9  # from 0 to half a cycle a pixel
ROTATIONS = 200
REMARKS = {
    "same initialisation": "; both began with the same filters (one seed, one shape), which alone makes them match",
    "fine-tuned": "; one began from trained filters, which alone makes them match",
    "independent": "; they were initialised independently",
    "unknown": "; their initialisation is not known",
}
COLUMNS = 32  # largest number of filters in a row of the drawing


def first_layer_filters(network: "nn.Module") -> list[NDArray[np.float64]]:
    """The filters of every convolution of the RGB image, each float64 [C, 3, k, k]; a fused model has two."""
    from torch import nn

    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d) and part.in_channels == 3]
    return [layer.weight.detach().double().cpu().numpy() for layer in layers]


def match(first: NDArray[np.floating], second: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """One-to-one matching of filters [C, ...] to [C', ...] with the largest sum of cosines.

    Returns:
        int64 [min(C, C')]: the second's filter for each of the first's in order (of the matched ones, where the first
        has more), and their cosines.
    """
    from scipy.optimize import linear_sum_assignment

    cosines = unit(first.reshape(len(first), -1)) @ unit(second.reshape(len(second), -1)).T
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return columns, cosines[rows, columns]


def rotated_matches(
    first: NDArray[np.floating], second: NDArray[np.floating], rotations: int = ROTATIONS, seed: int = 0
) -> NDArray[np.float64]:
    """Mean matched cosine after turning all of ``second`` by a random rotation, [rotations]: a control.

    A rotation keeps every angle among the second's kernels, and destroys the patterns.
    """
    from scipy.stats import ortho_group

    flat = second.reshape(len(second), -1)
    turns = ortho_group.rvs(flat.shape[1], size=rotations, random_state=np.random.default_rng([seed, 9]))
    return np.array([match(first.reshape(len(first), -1), flat @ turn)[1].mean() for turn in turns])


def spectrum(filters: NDArray[np.floating], bins: int = FREQUENCIES) -> NDArray[np.float64]:
    """Mean power by spatial frequency, summing to 1, float64 [bins]; filters [C, 3, k, k], each of unit power.

    From 0 to 0.5 cycles a pixel in every direction; the corners beyond belong to the last bin. Interpolated by
    zero padding to 32 x 32.
    """
    flat = unit(filters.reshape(len(filters), -1)).reshape(filters.shape)
    power = (np.abs(np.fft.fft2(flat, (32, 32))) ** 2).sum(axis=1).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    bin_of = np.minimum((frequency / 0.5 * (bins - 1) + 0.5).astype(int), bins - 1)
    total = np.bincount(bin_of.ravel(), power.ravel(), bins) / np.bincount(bin_of.ravel(), minlength=bins)
    return total / total.sum()


def plain_share(filters: NDArray[np.floating]) -> float:
    """Share of the power of filters [C, 3, k, k], each of unit power, that lies in their mean over space: 1 where all
    are plain patches of colour, 0 where none answers to one."""
    flat = unit(filters.reshape(len(filters), -1)).reshape(filters.shape)
    return float((flat.mean(axis=(2, 3)) ** 2).sum(axis=1).mean() * np.prod(filters.shape[2:]))


def compare_filters(first: NDArray[np.floating], second: NDArray[np.floating], seed: int = 0) -> dict[str, Any]:
    """Mean matched cosine, and that of the rotated control."""
    control = rotated_matches(first, second, seed=seed)
    observed = float(match(first, second)[1].mean())
    cosines = unit(first.reshape(len(first), -1)) @ unit(second.reshape(len(second), -1)).T
    return {
        "kernels": [len(first), len(second)],
        "matched_cosine": observed,
        "unmatched_cosine": float(cosines.mean()),
        "rotated_control": {"mean": float(control.mean()), "largest": float(control.max())},
        "rotated_control_p": float((1 + (control >= observed).sum()) / (1 + len(control))),
    }  # fmt: skip


def initial_similarity(first: Model, second: Model) -> str:
    """What the filters of two models have in common before training: a key of REMARKS.

    "same initialisation": same seed and same shape; "fine-tuned": one began from trained weights; "independent";
    "unknown": a run's settings are not beside its weights.
    """
    from hrfr_fast.model.fused import model_settings

    if first.metadata.get("parents") or second.metadata.get("parents"):
        return "fine-tuned"
    seeds = [model.settings.get("seed") for model in (first, second)]
    if None in seeds:
        return "unknown"
    alike = seeds[0] == seeds[1] and len({model_settings(model.metadata["backbone"]) for model in (first, second)}) == 1
    return "same initialisation" if alike else "independent"


def analyse(cache: EmbeddingCache, out: Path) -> Finding:
    """The filters of every model, and the comparison of every two models whose filters are of one size."""
    filters: dict[tuple[str, int], NDArray[np.float64]] = {}
    for model in cache.models:
        layers = first_layer_filters(cache.backbone(model))
        filters |= {(model.name, branch): layer for branch, layer in enumerate(layers)}
    models = {model.name: model for model in cache.models}
    numbers: dict[str, Any] = {"models": {}, "pairs": {}}
    for (name, branch), layer in filters.items():
        numbers["models"][_title(name, branch)] = {
            "kernels": len(layer), "spectrum": spectrum(layer).tolist(), "plain_share": plain_share(layer),
            "effective_rank": effective_rank(layer.reshape(len(layer), -1)),
        }  # fmt: skip
    for a, b in combinations(filters, 2):
        if a[0] == b[0] or filters[a].shape[1:] != filters[b].shape[1:]:
            continue
        entry = compare_filters(filters[a], filters[b], cache.seed) | {
            "kinship": initial_similarity(models[a[0]], models[b[0]])
        }
        numbers["pairs"][f"{_title(*a)} and {_title(*b)}"] = entry
    _against_independent(numbers["pairs"])
    figures = (_draw(filters, out / f"{KEY}.png"), _draw_spectra(filters, out / f"{KEY}-spectra.png"))
    return Finding(KEY, QUESTION, _answer(numbers), numbers, figures)


def _against_independent(pairs: dict[str, Any]) -> None:
    """Add to each pair the matches of independent pairs of its dimensions: the similarity from training alone."""
    for entry in pairs.values():
        null = [
            other["matched_cosine"]
            for other in pairs.values()
            if other is not entry and other["kinship"] == "independent" and other["kernels"] == entry["kernels"]
        ]
        entry["independent_pairs"] = (
            {"pairs": len(null), "mean": float(np.mean(null)), "largest": max(null)} if null else None
        )


def _answer(numbers: dict[str, Any]) -> str:
    if not numbers["pairs"]:
        shares = ", ".join(f"{name} {entry['plain_share']:.0%}" for name, entry in numbers["models"].items())
        return (
            f"Share of the filters' power that answers to plain colour, their mean over space: {shares}. Two models are"
            " needed to compare."
        )
    parts = []
    for name, entry in numbers["pairs"].items():
        text = (
            f"{name}: mean matched cosine {entry['matched_cosine']:.2f}, randomly rotated filters reach"
            f" {entry['rotated_control']['mean']:.2f} ({p_text(entry['rotated_control_p'])})"
        )
        text += REMARKS[entry["kinship"]]
        if entry["independent_pairs"]:
            null = entry["independent_pairs"]
            text += f"; {null['pairs']} other, independent pairs of models match with {null['mean']:.2f} on average"
        parts.append(text)
    return "\n".join(f"{part}." for part in parts)


def _title(name: str, branch: int) -> str:
    return f"{name} (branch {branch + 1})" if branch else name


def _draw(filters: dict[tuple[str, int], NDArray[np.float64]], path: Path) -> CaptionedFigure:
    """A strip of filters for each model, those after the first in the order of their matches with the first."""
    names = list(filters)
    first = filters[names[0]]
    by_power = np.argsort(-np.linalg.norm(first.reshape(len(first), -1), axis=1))
    columns = min(COLUMNS, max(map(len, filters.values())))
    lines = max(-(-len(layer) // columns) for layer in filters.values())
    with drawing.figure_grid(path, len(names), 1, cell=(9.0, 0.4 + 9.0 / columns * lines)) as axes:
        for panel, name in zip(axes[:, 0], names, strict=True):
            layer, title = filters[name], _title(*name)
            if name == names[0]:
                order = by_power
            elif layer.shape == first.shape:
                order = match(first, layer)[0][by_power]
                title += f", in the order of its matches with {_title(*names[0])}"
            else:
                order = np.arange(len(layer))
            panel.imshow(_mosaic(layer[order], columns), interpolation="nearest")
            panel.set_title(title, fontsize=9, loc="left")
            panel.axis("off")
    return CaptionedFigure(
        path,
        "The filters of the first layer as colours (each scaled to its own range, grey is 0). Plain patches react to"
        " colour and brightness, striped ones to edges.",
    )


def _mosaic(filters: NDArray[np.float64], columns: int) -> NDArray[np.float64]:
    """RGB picture in [0, 1] of filters [C, 3, k, k] in rows of ``columns``, a white line between them."""
    size = filters.shape[-1]
    rows = -(-len(filters) // columns)
    sheet = np.ones((rows * (size + 1), columns * (size + 1), 3))
    for number, one_filter in enumerate(filters):
        top, left = number // columns * (size + 1), number % columns * (size + 1)
        scaled = 0.5 + 0.5 * one_filter / max(np.abs(one_filter).max(), 1e-12)
        sheet[top : top + size, left : left + size] = scaled.transpose(1, 2, 0)
    return sheet


def _draw_spectra(filters: dict[tuple[str, int], NDArray[np.float64]], path: Path) -> CaptionedFigure:
    with drawing.figure_grid(path, 1, 1, cell=(6.4, 4.0)) as axes:
        for colour, (name, layer) in zip(drawing.COLOURS * 5, filters.items(), strict=False):
            axes[0][0].plot(np.linspace(0, 0.5, FREQUENCIES), 100 * spectrum(layer), "o-", color=colour,
                            markersize=4, label=_title(*name))  # fmt: skip
        axes[0][0].set(xlabel="spatial frequency (cycles a pixel)", ylabel="relative power (%)", ylim=(0, None))
        axes[0][0].legend(fontsize=8)
    return CaptionedFigure(
        path,
        "The spatial frequencies of the first layer: left plain areas, right the finest detail. A model that depends on"
        " high resolution would put more of its power to the right.",
    )
