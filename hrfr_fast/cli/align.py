"""``hrfr-fast align``: photographs become aligned faces."""

from pathlib import Path
from typing import Annotated

import typer

from hrfr_fast.runtime.terminal import echo


def align(
    photographs: Annotated[Path, typer.Argument(help="folder of pictures, flat or with a folder for each identity")],
    out: Annotated[Path, typer.Argument(help="where the aligned faces go, in the same folders, as PNG")],
    landmarks: Annotated[
        Path | None,
        typer.Option(help="CSV of five landmarks, path,x1,y1,...,x5,y5 a line; a detector finds them if not given"),
    ] = None,
    template: Annotated[str, typer.Option(help="arcface (112x112), sphereface (96x112) or hrfr (144x144)")] = "arcface",
    size: Annotated[int | None, typer.Option(help="width in px, if not the template's own")] = None,
    face: Annotated[str, typer.Option(help="of several faces the largest or the central")] = "largest",
    smallest_face: Annotated[
        int | None,
        typer.Option(help="px of the smallest face to look for; 20, or a fiftieth of a large photograph, if not given"),
    ] = None,
    keep_names: Annotated[
        bool, typer.Option("--keep-names", help="keep the files' extensions, too, for test sets whose lists name them")
    ] = False,
    workers: Annotated[int, typer.Option(help="processes, with --landmarks; 0: one a core")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 3 when a photograph gave no face")] = False,
) -> None:
    """Align photographs to a template. Run again to continue, or to add new photographs."""
    from hrfr_fast.preparation.align import IncompleteAlignment
    from hrfr_fast.preparation.align import align as run
    from hrfr_fast.runtime.errors import StrictRefusal
    from hrfr_fast.runtime.signals import StopFlag

    try:
        with StopFlag() as stop:
            result = run(
                photographs, out, landmarks=landmarks, template=template, size=size, face=face,  # type: ignore[arg-type]
                smallest_face=smallest_face, keep_names=keep_names, workers=workers, stop=stop,
            )  # fmt: skip
    except IncompleteAlignment as error:
        echo("\n".join(error.result.lines()))
        raise
    for line in result.lines():
        echo(line)
    if strict and result.rejected:
        raise StrictRefusal(f"{result.rejected:,} photographs gave no face (--strict); the others are in {out}")
