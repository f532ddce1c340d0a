"""Commands for trained models in use: export, embed, compare-faces, search."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrfr_fast.cli.onnx_flags import with_onnx_flags
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import printable
from hrfr_fast.runtime.terminal import echo

if TYPE_CHECKING:
    from hrfr_fast.deployment.embed import EmbedResult
    from hrfr_fast.evaluation.onnx_embedder import OnnxFlags

Model = Annotated[Path, typer.Argument(help="run directory, .safetensors checkpoint, or ONNX file")]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]


def add_commands(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command()(export)
    app.command()(with_onnx_flags(embed))
    app.command(name="compare-faces")(with_onnx_flags(compare_faces))
    app.command()(with_onnx_flags(search))


def export(
    run: Annotated[Path, typer.Argument(help="run directory, or a .safetensors checkpoint")],
    format: Annotated[str, typer.Option(help="onnx | torch-export | safetensors (the plain state dict)")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="the file; RUN.onnx here if not given")] = None,
    input: Annotated[
        str, typer.Option(help="uint8: pixel values NHWC, normalised inside; normalised: float32 NCHW in -1 to 1")
    ] = "uint8",
    flip_sum: Annotated[bool, typer.Option("--flip-sum", help="return f(x) + f(flip x) instead of f(x)")] = False,
    precision: Annotated[str, typer.Option(help="fp32, fp16, or int8 (onnx)")] = "fp32",
    check: Annotated[
        list[Path] | None,
        typer.Option(help="pictures to check the file on; the run's packed faces if not given; may be repeated"),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="the run's packed directory, where it is not found")] = None,
    domain: Annotated[
        str, typer.Option(help="of a run with BatchNorm by resolution: low or high, which pictures the file is for")
    ] = "",
) -> None:
    """Write a model for other programs, and check the file against the model on faces."""
    from hrfr_fast.deployment.export import export as run_export

    result = run_export(
        run,
        out,
        format=format,
        input=input,
        flip_sum=flip_sum,
        precision=precision,
        check=check or (),
        data=data,
        domain=domain,
    )
    echo("\n".join(result.lines()))


def embed(
    model: Model,
    paths: Annotated[list[Path], typer.Argument(help="pictures, folders, text lists, or one packed directory")],
    out: Annotated[Path, typer.Option(help="emb.npz or emb.parquet")],
    split: Annotated[str | None, typer.Option(help="only this split of a packed directory")] = None,
    batch_size: Annotated[int, typer.Option(help="pictures a call of the network")] = 128,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 3 when any picture was rejected")] = False,
    device: Device = "auto",
    *,
    flags: "OnnxFlags",
) -> None:
    """Write the embeddings of pictures to a file, with their names. Run again to continue."""
    from hrfr_fast.deployment.embed import IncompleteEmbeddings
    from hrfr_fast.deployment.embed import embed as run_embed

    try:
        result = run_embed(
            model, paths, out, split=split, device=device, flags=flags, batch_size=batch_size, strict=strict
        )
    except IncompleteEmbeddings as error:
        _print(error.result)
        raise
    _print(result)


def compare_faces(
    model: Model,
    first: Annotated[Path, typer.Argument(help="a picture")],
    second: Annotated[Path, typer.Argument(help="another")],
    far: Annotated[float, typer.Option(help="false accept rate of the threshold: 0.1, 0.01 or 0.001")] = 0.01,
    picture: Annotated[Path | None, typer.Option(help="write a PNG of the two as the network sees them")] = None,
    as_json: AsJson = False,
    device: Device = "auto",
    *,
    flags: "OnnxFlags",
) -> None:
    """Say how similar two faces are, and whether they are one person."""
    from hrfr_fast.deployment.compare_faces import compare_faces as run_comparison

    result = run_comparison(model, first, second, far=far, picture=picture, device=device, flags=flags)
    echo(json.dumps(result.to_json(), indent=2) if as_json else "\n".join(result.lines()))


def search(
    model: Model,
    gallery: Annotated[Path, typer.Argument(help="folder, list, packed directory, or file written by embed")],
    probes: Annotated[Path, typer.Argument(help="the same, or one picture")],
    top: Annotated[int, typer.Option(help="matches a probe")] = 5,
    backend: Annotated[str, typer.Option(help="faiss, numpy, or auto: faiss where it is installed")] = "auto",
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print lines of probe,rank,name,cosine")] = False,
    device: Device = "auto",
    *,
    flags: "OnnxFlags",
) -> None:
    """Find the most similar gallery pictures of every probe."""
    from hrfr_fast.deployment.search import search as run_search
    from hrfr_fast.runtime.terminal import print_rows

    if as_json and as_csv:
        raise UsageError("--json and --csv: give one of them")

    result = run_search(model, gallery, probes, top=top, backend=backend, device=device, flags=flags)
    head = ("probe", "rank", "name", "cosine")
    rows = [(probe, str(rank), name, f"{cosine:.4f}") for probe, rank, name, cosine in result.matches()]
    if as_json:
        echo(json.dumps(result.to_json(), indent=2))
    elif as_csv:
        shown = printable if sys.stdout.isatty() else str  # a file gets the names as they are
        csv.writer(sys.stdout, lineterminator="\n").writerows([head, *(tuple(map(shown, row)) for row in rows)])
    else:
        print_rows(head, rows, right=(1, 3))


def _print(result: "EmbedResult") -> None:
    echo("\n".join(result.lines()))
