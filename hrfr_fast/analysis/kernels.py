"""What do the first layers look for, and do two models look for the same?

Kernels of two models come in any order, so they are matched one to one (Hungarian method, Kuhn 1955) to the largest sum
of cosines. Some match is always found: it means something only against the matches of models that have nothing in
common. Models of one seed and shape began as the same kernels and match for that reason alone.
"""

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.finding import Figure, Finding
from hrfr_fast.analysis.intervals import p_text
from hrfr_fast.analysis.maps import unit
from hrfr_fast.analysis.spaces import Model, Spaces
from hrfr_fast.analysis.uniformity import effective_rank
from hrfr_fast.reporting import figures as drawing

if TYPE_CHECKING:
    from torch import nn

KEY = "kernels"
QUESTION = "What do the first layers look for, and do two models look for the same?"
FREQUENCIES = 9  # from 0 to half a cycle a pixel
ROTATIONS = 200
REMARKS = {
    "one start": "; both began as the same kernels (one seed, one shape), which alone makes them match",
    "descended": "; one began from trained kernels, which alone makes them match",
    "independent": "; they began independently",
    "unknown": "; how they began is not known",
}
COLUMNS = 32  # most kernels a row of the drawing


def first_kernels(network: "nn.Module") -> list[NDArray[np.float64]]:
    """The kernels of every convolution that sees RGB, each float64 [C, 3, k, k]; a fused model has two."""
    from torch import nn

    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d) and part.in_channels == 3]
    return [layer.weight.detach().double().cpu().numpy() for layer in layers]


def match(first: NDArray[np.floating], second: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """One-to-one matching of kernels [C, ...] to [C', ...] with the largest sum of cosines.

    Returns:
        int64 [min(C, C')]: the second's kernel for each of the first's in order (of the matched ones, where the first
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

    A rotation keeps every angle among the second's kernels, and destroys what they look for.
    """
    from scipy.stats import ortho_group

    flat = second.reshape(len(second), -1)
    turns = ortho_group.rvs(flat.shape[1], size=rotations, random_state=np.random.default_rng([seed, 9]))
    return np.array([match(first.reshape(len(first), -1), flat @ turn)[1].mean() for turn in turns])


def spectrum(kernels: NDArray[np.floating], bins: int = FREQUENCIES) -> NDArray[np.float64]:
    """Mean power by spatial frequency, summing to 1, float64 [bins]; kernels [C, 3, k, k], each of unit power.

    From 0 to 0.5 cycles a pixel in every direction; the corners beyond belong to the last bin. Interpolated by
    zero padding to 32 x 32.
    """
    flat = unit(kernels.reshape(len(kernels), -1)).reshape(kernels.shape)
    power = (np.abs(np.fft.fft2(flat, (32, 32))) ** 2).sum(axis=1).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    place = np.minimum((frequency / 0.5 * (bins - 1) + 0.5).astype(int), bins - 1)
    total = np.bincount(place.ravel(), power.ravel(), bins) / np.bincount(place.ravel(), minlength=bins)
    return total / total.sum()


def compare(first: NDArray[np.floating], second: NDArray[np.floating], seed: int = 0) -> dict[str, Any]:
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


def kinship(first: Model, second: Model) -> str:
    """What two models' kernels have in common before any training.

    "one start": same seed and same shape, so the same initial kernels; "descended": one began from trained weights;
    "independent"; "unknown": a run's settings are not beside its weights.
    """
    if first.metadata.get("parents") or second.metadata.get("parents"):
        return "descended"
    seeds = [model.settings.get("seed") for model in (first, second)]
    if None in seeds:
        return "unknown"
    alike = seeds[0] == seeds[1] and first.metadata["backbone"] == second.metadata["backbone"]
    return "one start" if alike else "independent"


def analyse(spaces: Spaces, out: Path) -> Finding:
    """Draw every model's kernels and compare every two models whose kernels are of one size."""
    kernels: dict[tuple[str, int], NDArray[np.float64]] = {}
    for model in spaces.models:
        layers = first_kernels(spaces.backbone(model))
        kernels |= {(model.name, branch): layer for branch, layer in enumerate(layers)}
    models = {model.name: model for model in spaces.models}
    numbers: dict[str, Any] = {"models": {}, "pairs": {}}
    for (name, branch), layer in kernels.items():
        numbers["models"][_title(name, branch)] = {
            "kernels": len(layer), "spectrum": spectrum(layer).tolist(),
            "effective_rank": effective_rank(layer.reshape(len(layer), -1)),
        }  # fmt: skip
    for a, b in combinations(kernels, 2):
        if a[0] == b[0] or kernels[a].shape[1:] != kernels[b].shape[1:]:
            continue
        entry = compare(kernels[a], kernels[b], spaces.seed) | {"kinship": kinship(models[a[0]], models[b[0]])}
        numbers["pairs"][f"{_title(*a)} and {_title(*b)}"] = entry
    _against_independent(numbers["pairs"])
    figures = (_draw(kernels, out / f"{KEY}.png"), _draw_spectra(kernels, out / f"{KEY}-spectra.png"))
    return Finding(KEY, QUESTION, _answer(numbers), numbers, figures)


def _against_independent(pairs: dict[str, Any]) -> None:
    """Give each pair the matches of the independent ones of its dimensions: what training alone makes alike."""
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
        shares = ", ".join(f"{name} {entry['spectrum'][0]:.0%}" for name, entry in numbers["models"].items())
        return f"Share of the kernels' power at frequency 0 (plain colour): {shares}. Two models are needed to compare."
    parts = []
    for name, entry in numbers["pairs"].items():
        text = (
            f"{name}: mean matched cosine {entry['matched_cosine']:.2f}, randomly rotated kernels reach"
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


def _draw(kernels: dict[tuple[str, int], NDArray[np.float64]], path: Path) -> Figure:
    """A strip of kernels a model; all but the first in the order of their matches with the first."""
    names = list(kernels)
    first = kernels[names[0]]
    by_power = np.argsort(-np.linalg.norm(first.reshape(len(first), -1), axis=1))
    columns = min(COLUMNS, max(map(len, kernels.values())))
    lines = max(-(-len(layer) // columns) for layer in kernels.values())
    with drawing.figure(path, len(names), 1, cell=(9.0, 0.4 + 9.0 / columns * lines)) as axes:
        for one, name in zip(axes[:, 0], names, strict=True):
            mine, title = kernels[name], _title(*name)
            if name == names[0]:
                order = by_power
            elif mine.shape == first.shape:
                order = match(first, mine)[0][by_power]
                title += f", in the order of its matches with {_title(*names[0])}"
            else:
                order = np.arange(len(mine))
            one.imshow(_mosaic(mine[order], columns), interpolation="nearest")
            one.set_title(title, fontsize=9, loc="left")
            one.axis("off")
    return Figure(
        path,
        "The kernels of the first layer as colours (each scaled to its own range, grey is 0). Plain patches react to"
        " colour and brightness, striped ones to edges.",
    )


def _mosaic(kernels: NDArray[np.float64], columns: int) -> NDArray[np.float64]:
    """RGB picture in [0, 1] of kernels [C, 3, k, k] in rows of ``columns``, a white line between them."""
    side = kernels.shape[-1]
    rows = -(-len(kernels) // columns)
    sheet = np.ones((rows * (side + 1), columns * (side + 1), 3))
    for number, kernel in enumerate(kernels):
        top, left = number // columns * (side + 1), number % columns * (side + 1)
        scaled = 0.5 + 0.5 * kernel / max(np.abs(kernel).max(), 1e-12)
        sheet[top : top + side, left : left + side] = scaled.transpose(1, 2, 0)
    return sheet


def _draw_spectra(kernels: dict[tuple[str, int], NDArray[np.float64]], path: Path) -> Figure:
    with drawing.figure(path, 1, 1, cell=(6.4, 4.0)) as axes:
        for colour, (name, layer) in zip(drawing.COLOURS * 5, kernels.items(), strict=False):
            axes[0][0].plot(np.linspace(0, 0.5, FREQUENCIES), 100 * spectrum(layer), "o-", color=colour,
                            markersize=4, label=_title(*name))  # fmt: skip
        axes[0][0].set(xlabel="spatial frequency (cycles a pixel)", ylabel="relative power (%)", ylim=(0, None))
        axes[0][0].legend(fontsize=8)
    return Figure(
        path,
        "Which scales the first layer reacts to: left plain areas, right the finest detail. A model that leans on high"
        " resolution would put more of its power to the right.",
    )
