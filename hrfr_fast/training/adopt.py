"""A public checkpoint as a run: what ``train --init``, ``evaluate`` and ``export`` take."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrfr_fast.face_templates import ARCFACE
from hrfr_fast.format.beton import file_digest
from hrfr_fast.model import checkpoint
from hrfr_fast.model.lineage import ADOPTED
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import writing
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.version import __version__
from hrfr_fast.runtime.words import counted

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.evaluation.colour_order import ColourCheck
    from hrfr_fast.model.adoption.translation import Translated
    from hrfr_fast.model.backbone import BackboneSettings

COLOURS = ("layout", "rgb", "bgr")


@dataclass(frozen=True)
class Adopted:
    """A run that holds the backbone of a public checkpoint."""

    run: Path
    settings: "BackboneSettings"
    layout: str
    colours: str
    """Order in which the public network took its channels; the run takes red, green, blue."""
    notes: tuple[str, ...] = ()
    """What a user should know: keys that were ignored, what the file leaves open."""
    check: "dict[str, ColourCheck]" = field(default_factory=dict)
    """By pair set: how well both orders of colours do."""


def adopt(
    file: str | Path,
    out: str | Path,
    *,
    backbone: str | None = None,
    layout: str = "auto",
    colours: str = "layout",
    normalisation: str = "layout",
    check: str | Path | None = None,
    device: str = "auto",
) -> Adopted:
    """Turn a public checkpoint into a run directory.

    The colour order becomes part of the first convolution's weights, and another normalisation than [-1, 1] a step of
    the network, so that training, evaluation and export feed every network alike: RGB in [-1, 1].

    Args:
        file: what torch.save (.pth, .pt, .ckpt, .bin), safetensors or an ONNX exporter wrote.
        out: the run directory, which must not hold a run.
        backbone: the network, among ``BACKBONES``; None: the one in the file.
        layout: the implementation, among ``LAYOUTS`` or ``ONNX_LAYOUT``; auto: told by the names.
        colours: of the channels the public network takes: rgb, bgr, or as its layout says.
        normalisation: of the pixels it takes, among ``NORMALISATIONS``, or as its layout says.
        check: a packed directory or a folder of pair sets: tell on its pairs whether the other order is better.

    Returns:
        The run, and what was found in the file: network, layout, colours, notes, and the result of ``check``.

    Raises:
        UsageError: a file that cannot be read safely or holds none of our networks whole; a directory with a run.
    """
    from hrfr_fast.model.adoption.layouts import LAYOUTS, ONNX_LAYOUT
    from hrfr_fast.model.backbones.table import BACKBONES, NORMALISATIONS

    for value, known, what in (
        (backbone or "irse18", (*BACKBONES,), "backbone"), (layout, ("auto", *LAYOUTS, ONNX_LAYOUT), "layout"),
        (colours, COLOURS, "colour order"), (normalisation, ("layout", *NORMALISATIONS), "normalisation"),
    ):  # fmt: skip
        if value not in known:
            raise UsageError(f"there is no {what} {value!r}; there are {', '.join(known)}")
    file, run = Path(file), Path(out)
    with directory_lock(run), writing(run):
        if (run / "checkpoints").exists():
            raise UsageError(f"{run} holds a run already; choose another --out")
        found = _read(file, layout, backbone or "")
        fed = LAYOUTS.get(found.layout)
        order = colours if colours != "layout" else fed.colours if fed else "rgb"
        if normalisation == "layout":
            normalisation = fed.normalisation if fed else "half"
        settings = replace(found.settings, normalisation=normalisation)
        record = {
            "file": str(file.absolute()), "digest": file_digest(file), "layout": found.layout, "colours": order,
            "normalisation": normalisation, "template": fed.template if fed else ARCFACE.name, "folded": found.folded,
            "flip_sum": bool(fed and fed.flip_sum), "ignored": list(found.ignored),
        }  # fmt: skip
        network = _network(file, settings, found, order)
        checked = _check(network, settings, check, device) if check else {}
        _write(run, network, settings, record)
        return Adopted(run, settings, found.layout, order, tuple(_notes(found, order, colours, checked)), checked)


def _read(file: Path, layout: str, backbone: str) -> "Translated":
    from hrfr_fast.evaluation.onnx_files import read_signature
    from hrfr_fast.model.adoption.layouts import ONNX_LAYOUT
    from hrfr_fast.model.adoption.onnx_weights import read_onnx
    from hrfr_fast.model.adoption.reading import read_tensors
    from hrfr_fast.model.adoption.translation import translate

    if file.suffix == ".onnx":
        if layout not in ("auto", ONNX_LAYOUT):
            raise UsageError(f"{file}: an .onnx file has the layout {ONNX_LAYOUT}, not {layout}")
        read_signature(file)  # refuses what needs other libraries or other files, before ONNX Runtime gets it
        return read_onnx(file, backbone)
    if layout == ONNX_LAYOUT:
        raise UsageError(f"{file}: the layout {ONNX_LAYOUT} is that of .onnx files")
    return translate(file, read_tensors(file), layout=layout, backbone=backbone)


def _network(file: Path, settings: "BackboneSettings", found: "Translated", colours: str) -> "nn.Module":
    """The network, whose first convolution takes RGB; one from an ONNX file is compared with its graph."""
    from hrfr_fast.model.adoption.onnx_check import refuse_other_embeddings
    from hrfr_fast.model.backbone import build_backbone

    network = build_backbone(settings).eval()
    network.load_state_dict(found.tensors)
    if file.suffix == ".onnx":
        refuse_other_embeddings(file, network, settings.input_size, takes_pixels=found.takes_pixels)
    if colours == "bgr":
        first = next(parameter for parameter in network.parameters() if parameter.ndim == 4)
        first.data = first.data.flip(1)
    return network


def _write(run: Path, network: "nn.Module", settings: "BackboneSettings", record: dict[str, Any]) -> None:
    from torch import nn

    digest = record["digest"]
    metadata = {
        "regime": f"adopted {settings.name}",
        "backbone": asdict(settings),
        "head": {"name": "none", "classes": 0},
        "data": {"path": "", "from_run": "", "digest": digest, "splits": {ADOPTED: digest}, "pairs": {}},
        "parents": [],
        "adopted": record,
        "hrfr_fast": __version__,
        "step": 0, "samples": 0, "epoch": 0.0,
    }  # fmt: skip
    (run / "checkpoints").mkdir(parents=True)
    checkpoint.save_weights(run / "checkpoints" / "last.safetensors", network, nn.Identity(), metadata)


def _check(
    network: "nn.Module", settings: "BackboneSettings", pairs: str | Path, device: str
) -> "dict[str, ColourCheck]":
    from hrfr_fast.evaluation.colour_order import check_colours
    from hrfr_fast.evaluation.evaluate import opened_pairs, verifiable
    from hrfr_fast.runtime.device import choose_compute
    from hrfr_fast.runtime.progress import console

    compute = choose_compute(device, "auto")
    network = compute.place(network)
    with opened_pairs(Path(pairs)) as packed:
        return {
            one.name: check_colours(network, settings.input_size, one, compute)
            for one in verifiable(packed.pairs.values(), console.print)
        }


def _notes(found: "Translated", order: str, asked: str, checked: "dict[str, ColourCheck]") -> list[str]:
    notes = []
    if found.ignored:
        names = ", ".join(sorted({key.split(".")[0] for key in found.ignored}))
        notes.append(f"not of the backbone, and left out: {counted(len(found.ignored), 'tensor')} of {names}")
    if found.alike and asked == "layout" and not checked:
        notes.append(
            f"{', '.join(found.alike)} has the same names but other colours than {found.layout} ({order}): if the file "
            "is of that, say --layout or --colours; --check PAIRS tells on faces which is right"
        )
    if found.folded:
        notes.append(
            "BatchNorm was folded into convolutions, so the statistics of its training are lost: training from this "
            "run keeps BatchNorm as it is (--batchnorm frozen)"
        )
    other = {"rgb": "bgr", "bgr": "rgb"}[order]
    notes += [
        f"warning: {name}: {one}. Adopt it again with --colours {other}" for name, one in checked.items() if one.wrong
    ]
    return notes
