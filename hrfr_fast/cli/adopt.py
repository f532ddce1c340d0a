"""The command ``adopt``: a public checkpoint as a run."""

from pathlib import Path
from typing import Annotated

import typer

from hrfr_fast.runtime.terminal import echo


def adopt(
    file: Annotated[Path, typer.Argument(help=".pth, .pt, .ckpt, .bin, .safetensors or .onnx")],
    out: Annotated[Path, typer.Option(help="run directory to make")],
    backbone: Annotated[str | None, typer.Option(help="the network; the one in the file if not given")] = None,
    layout: Annotated[
        str,
        typer.Option(help="auto, arcface_torch, adaface, cvlface, face.evoLVe, cavaface or insightface.onnx"),
    ] = "auto",
    colours: Annotated[
        str, typer.Option(help="rgb or bgr, as the network was trained; layout: what is usual")
    ] = "layout",
    normalisation: Annotated[
        str, typer.Option(help="half ([-1, 1]) or imagenet, as the network was trained; layout: what is usual")
    ] = "layout",
    check: Annotated[
        Path | None, typer.Option(help="packed directory or folder of pair sets: is the order of colours right?")
    ] = None,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda, of --check")] = "auto",
) -> None:
    """Turn a public checkpoint into a run that train --init, evaluate and export take."""
    from hrfr_fast.training.adopt import adopt as run_adoption

    adopted = run_adoption(
        file, out, backbone=backbone, layout=layout, colours=colours, normalisation=normalisation, check=check,
        device=device,
    )  # fmt: skip
    settings = adopted.settings
    echo(
        f"{file}: {settings.name} of width {settings.width}, {settings.embedding_size} dimensions, "
        f"{settings.input_size} px, as {adopted.layout} has it; fed {adopted.colours.upper()}"
    )
    for name, one in adopted.check.items():
        if not one.wrong:
            echo(f"{name}: {one}")
    for note in adopted.notes:
        echo(note)
    echo(f"run: {adopted.run}")
