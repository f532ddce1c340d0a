"""Commands that judge models: on packed pairs, on public test protocols, and two models against each other."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrfr_fast.cli.options import CARRAY_HELP, channels_of
from hrfr_fast.cli.output import print_comparison, print_protocol, print_results
from hrfr_fast.evaluation.protocols import MODULES
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.terminal import echo

if TYPE_CHECKING:
    from hrfr_fast.evaluation.onnx_embedder import OnnxFlags

Place = Annotated[
    Path | None, typer.Argument(help="the folder (or file) of a public test protocol, as it is published")
]
Protocol = Annotated[
    str | None, typer.Option(help=f"{', '.join(MODULES)}; recognised by the folder's layout if not given")
]
Pictures = Annotated[Path | None, typer.Option(help="for protocols with a list of names: where their pictures are")]
Crop = Annotated[
    str,
    typer.Option(
        help="auto | template | none: crop published 112-px faces until the eyes are a third of the side apart;"
        " auto: if those that the model was trained on have them so"
    ),
]
Overlap = Annotated[
    bool,
    typer.Option("--overlap", help="look a protocol's pictures up in training data of more than 200,000 faces, too"),
]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda")]


def evaluate(
    run: Annotated[Path, typer.Argument(help="run directory, .safetensors checkpoint, or ONNX file")],
    place: Place = None,
    protocol: Protocol = None,
    pictures: Pictures = None,
    crop: Crop = "auto",
    overlap: Overlap = False,
    pairs: Annotated[
        Path | None, typer.Option(help="a packed directory or a folder of pair sets; the run's own data if not given")
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="only this pair set; may be repeated")] = None,
    view: Annotated[
        str, typer.Option(help="hr, lr36 (shrunk to 36 px and back; any number), or hr-lr36: first - second of a pair")
    ] = "hr",
    carray_channels: Annotated[list[str] | None, typer.Option(help=f"for a folder of pairs: {CARRAY_HELP}")] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object: a pair set a key")] = False,
    *,
    flags: "OnnxFlags | None" = None,
) -> None:
    """Verify a checkpoint (a run's last) on pairs or on a public test protocol, with 95 % intervals."""
    if place is None:
        if protocol or pictures or overlap or crop != "auto":
            raise UsageError("give the folder of the protocol, too: hrfr-fast evaluate RUN --protocol NAME FOLDER")
        if run.suffix == ".onnx" or (flags and (flags.given or flags.flip_sum is not None)):
            raise UsageError("an ONNX file is judged by a protocol: hrfr-fast evaluate MODEL.onnx FOLDER")
        _evaluate_pairs(run, pairs, name, view, carray_channels, device, as_json)
        return
    if pairs or name or carray_channels or view != "hr":
        raise UsageError("--pairs, --name, --view and --carray-channels are for pair sets, not for a protocol's folder")
    from hrfr_fast.evaluation.protocols.evaluate import evaluate_protocol

    result = evaluate_protocol(
        run, place, protocol=protocol, pictures=pictures, crop=crop, overlap=overlap, device=device, flags=flags
    )
    if as_json:
        echo(json.dumps(result.to_json(), indent=2))
    else:
        print_protocol(result)


def _evaluate_pairs(
    run: Path, pairs: Path | None, name: list[str] | None, view: str, carray_channels: list[str] | None, device: str,
    as_json: bool,
) -> None:  # fmt: skip
    from hrfr_fast.evaluation.evaluate import evaluate as run_evaluation
    from hrfr_fast.evaluation.views import parse_view

    results = run_evaluation(
        run, pairs=pairs, names=name, device=device, degrade=parse_view(view),
        carray_channels=channels_of(carray_channels or []),
    )  # fmt: skip
    if as_json:
        echo(json.dumps({key: result.to_json() for key, result in results.items()}, indent=2))
    else:
        print_results(results)


def compare(
    a: Annotated[Path, typer.Argument(help="the first model: a run directory, .safetensors checkpoint, or ONNX file")],
    b: Annotated[Path, typer.Argument(help="the second model")],
    place: Annotated[Path, typer.Argument(help="the folder (or file) of a public test protocol")],
    protocol: Protocol = None,
    pictures: Pictures = None,
    crop: Crop = "auto",
    overlap: Overlap = False,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    *,
    flags: "OnnxFlags | None" = None,
) -> None:
    """Say whether two models differ on a public test protocol: the difference, its interval and the paired tests."""
    from hrfr_fast.evaluation.protocols.compare import compare_models

    comparison = compare_models(
        a, b, place, protocol=protocol, pictures=pictures, crop=crop, overlap=overlap, device=device, flags=flags
    )
    if as_json:
        echo(json.dumps(comparison.to_json(), indent=2))
    else:
        print_comparison(comparison)
