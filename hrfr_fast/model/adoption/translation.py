"""A public state dict under our names: which layout and network it is, and whether it is whole."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hrfr_fast.model.adoption.layouts import LAYOUTS, NOT_THE_BACKBONE, OTHER_HEADS, Candidate, candidates
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.backbones.table import ImprovedResNet, MobileFaceNet
from hrfr_fast.model.backbones.vision_transformer import HEAD_CHANNELS
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.words import counted

SHOWN = 4  # names in a message


@dataclass(frozen=True)
class Translated:
    """A backbone read from a public checkpoint."""

    settings: BackboneSettings
    layout: str
    tensors: dict[str, Tensor] = field(repr=False)
    """By our names, as the file has them; statistics and scales that it leaves out are added."""
    ignored: tuple[str, ...] = ()
    """Keys that are not of the backbone."""
    alike: tuple[str, ...] = ()
    """Layouts with the same names whose networks are fed other colours or another normalisation."""
    folded: bool = False
    """Whether the file has its BatchNorm layers folded into convolutions, so that their statistics are lost."""
    takes_pixels: bool = False
    """Whether the file's own graph normalises pixel values from 0 to 255."""


@dataclass(frozen=True)
class _Match:
    """The keys of a file against one candidate."""

    candidate: Candidate
    prefix: str
    found: dict[str, str] = field(repr=False)
    """Our name -> the file's key."""
    missing: tuple[str, ...] = field(repr=False)
    """Our names."""
    unexpected: tuple[str, ...] = field(repr=False)
    """Keys under the prefix that the network has no place for."""
    outside: tuple[str, ...] = field(repr=False)
    """Keys of heads and whatever else is not the backbone's."""

    @property
    def score(self) -> tuple[int, bool]:
        """Larger for a better match; of equal ones for that whose usual prefix it is."""
        usual = LAYOUTS[self.candidate.layout].prefix
        wrong = len(self.missing) + len(self.unexpected)
        return len(self.found) - wrong, self.prefix.removeprefix("module.") == usual


def translate(path: Path, tensors: Mapping[str, Tensor], *, layout: str = "auto", backbone: str = "") -> Translated:
    """The backbone in ``tensors``, of the file ``path``.

    Args:
        layout: among ``LAYOUTS``; auto: the one whose names fit best.
        backbone: among ``BACKBONES``; "" for the one that fits.

    Raises:
        UsageError: no network of ours is in the file, or not whole: says what is missing, left over or of another size.
    """
    matches = [match for candidate in candidates(layout) if (match := _match(candidate, tensors))]
    best = max(matches, key=lambda match: match.score, default=None)
    if best is None or best.score[0] <= 0:
        known = ", ".join(LAYOUTS) if layout == "auto" else layout
        raise UsageError(f"{path}: its keys ({_some(tensors)}) are those of no network in the layouts known: {known}")
    fitting = [match for match in matches if match.candidate.backbone == backbone] if backbone else [best]
    if not fitting or best.candidate.backbone not in {match.candidate.backbone for match in fitting}:
        raise UsageError(f"{path}: it holds {best.candidate.backbone} ({best.candidate.layout}), not {backbone}")
    candidate = best.candidate
    if best.missing or best.unexpected:
        faults = [
            f"{counted(len(names), 'parameter')} {what} ({_some(names)})"
            for names, what in ((best.missing, "missing"), (best.unexpected, "left over"))
            if names
        ]
        raise UsageError(
            f"{path}: it is not {candidate.backbone} as {candidate.layout} has it, which comes closest: "
            f"{' and '.join(faults)}"
        )
    named = {ours: tensors[theirs] for ours, theirs in best.found.items()}
    settings = _measured(path, candidate, named)
    alike = () if best.score[1] else tuple(dict.fromkeys(_otherwise_fed(best, matches)))
    return Translated(settings, candidate.layout, completed(path, named, settings), best.outside, alike)


def _otherwise_fed(best: _Match, matches: Iterable[_Match]) -> Iterator[str]:
    """Layouts that fit as well as ``best``, and are fed otherwise."""
    chosen = LAYOUTS[best.candidate.layout]
    for match in matches:
        other = LAYOUTS[match.candidate.layout]
        fed_alike = (other.colours, other.normalisation) == (chosen.colours, chosen.normalisation)
        if match.score[0] == best.score[0] and not fed_alike:
            yield match.candidate.layout


@cache
def expected_shapes(settings: BackboneSettings) -> dict[str, torch.Size]:
    """The shape of every parameter and buffer of a network, which is not made for that. Not to be changed: kept."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_backbone(settings).state_dict().items()}


def _match(candidate: Candidate, tensors: Mapping[str, Tensor]) -> _Match | None:
    """How the keys of ``tensors`` fit ``candidate``; None where its first convolution is not among them."""
    first = next(theirs for theirs, ours in candidate.modules.items() if ours in ("stem.0", "stem.projection"))
    prefixes = [key.removesuffix(f"{first}.weight") for key in tensors if key.endswith(f"{first}.weight")]
    prefixes = sorted((prefix for prefix in prefixes if not prefix or prefix.endswith(".")), key=len)
    if not prefixes:
        return None
    prefix = prefixes[0]
    wanted = set(expected_shapes(BackboneSettings(112, name=candidate.backbone, variant=candidate.names.variant)))
    found, unexpected, outside = {}, [], []
    for key in tensors:
        inner = key.removeprefix(prefix)
        ours = _renamed(inner, candidate.modules)
        if ours in wanted:
            found[ours] = key
        elif not key.startswith(prefix) or inner.split(".")[0] in NOT_THE_BACKBONE:
            outside.append(key)
        else:
            unexpected.append(key)
    given = {f"{layer}.{leaf}" for layer in candidate.names.without_affine for leaf in ("weight", "bias")}
    counters = {name for name in wanted if name.endswith(".num_batches_tracked")}
    missing = tuple(sorted(wanted - found.keys() - given - counters))
    return _Match(candidate, prefix, found, missing, tuple(unexpected), tuple(outside))


def _renamed(key: str, modules: Mapping[str, str]) -> str:
    """Our name of a key, "" where there is none."""
    if key in modules:  # a parameter that belongs to no module
        return modules[key]
    module, _, leaf = key.rpartition(".")
    return f"{modules[module]}.{leaf}" if module in modules else ""


def _measured(path: Path, candidate: Candidate, named: Mapping[str, Tensor]) -> BackboneSettings:
    """The settings that the tensors' shapes tell. Raises UsageError for sizes that no network of ours has."""
    settings = BackboneSettings(name=candidate.backbone, variant=candidate.names.variant)
    try:
        if isinstance(settings.architecture, ImprovedResNet):
            width, last = len(named["stem.0.weight"]), named["output.3.weight"]
            side = math.isqrt(last.shape[1] // (8 * width))
            size, embedding = 16 * side, len(last)
        elif isinstance(settings.architecture, MobileFaceNet):
            width, embedding = len(named["stem.0.weight"]) // 2, len(named["output.4.weight"])
            size = 16 * named["output.0.weight"].shape[-1]
        else:
            patch, patches = named["stem.projection.weight"].shape[-1], math.isqrt(named["stem.position"].shape[1])
            width, embedding = len(named["stem.projection.weight"]) // 8, len(named["output.5.weight"])
            size = 16 * math.ceil(patch * patches / 16)  # 12 patches of 9 px leave 4 of 112 out
            if width in OTHER_HEADS:
                raise UsageError(
                    f"it is {OTHER_HEADS[width]} by its width; its attention has heads of {width} channels, "
                    f"and those of {candidate.backbone} have {HEAD_CHANNELS}, so it would compute something else"
                )
        return BackboneSettings(size, width, embedding, name=candidate.backbone, variant=settings.variant)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except (IndexError, TypeError, ZeroDivisionError):
        raise UsageError(f"{path}: its tensors have not the dimensions of {candidate.backbone}") from None


def completed(path: Path, named: Mapping[str, Tensor], settings: BackboneSettings) -> dict[str, Tensor]:
    """float32 copies of ``named`` in the network's order, with what the file leaves out.

    Raises UsageError for another shape or type, or a value that is not finite.
    """
    whole = {}
    for name, shape in expected_shapes(settings).items():
        if name.endswith(".num_batches_tracked"):
            whole[name] = torch.zeros((), dtype=torch.int64)
            continue
        tensor = named.get(name)
        if tensor is None:  # of a BatchNorm without scale and shift
            tensor = torch.full(shape, 1.0 if name.endswith("weight") else 0.0)
        if tensor.shape != shape:
            raise UsageError(
                f"{path}: {name} (our name) is {list(tensor.shape)}; {settings.name} of width {settings.width}, "
                f"{settings.embedding_size} dimensions and {settings.input_size} px has {list(shape)}"
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise UsageError(f"{path}: {name} (our name) holds values that are no finite floating-point numbers")
        whole[name] = tensor.to(torch.float32, copy=True).contiguous()
    return whole


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
