"""``hrfr-fast derive``: the study's data tree from any aligned set of known people."""

from pathlib import Path
from typing import Annotated

import typer

from hrfr_fast.face_templates import TEMPLATES
from hrfr_fast.runtime.terminal import echo

Count = int | None


def derive(
    source: Annotated[Path, typer.Argument(help="aligned faces of known people: an identity folder or another format")],
    data: Annotated[Path, typer.Argument(help="where to make lowres/, highres/, highres_eval/, hres_eval_pairs/")],
    format: Annotated[str, typer.Option(help="of the source, where it is not recognised")] = "",
    root: Annotated[Path | None, typer.Option(help="folder that the paths of a list are relative to")] = None,
    template: Annotated[
        str,
        typer.Option(
            help=f"how the source was aligned: {', '.join(TEMPLATES)}; as its alignment.json says, or arcface"
        ),
    ] = "",
    inter_eye: Annotated[
        float | None, typer.Option(help="px between the eyes in the source; the template's if not given (35.2 of 112)")
    ] = None,
    lowres: Annotated[
        Count, typer.Option(help="identities of 36-px faces; 0: none; 50,000, or what is left, if not given")
    ] = None,
    highres: Annotated[
        Count, typer.Option(help="identities of 144-px faces; 0: none; 2,500, or a fifth, if not given")
    ] = None,
    highres_eval: Annotated[
        Count, typer.Option(help="identities to test on; 0: none; 2,000, or a fifth, if not given")
    ] = None,
    pairs: Annotated[
        Count, typer.Option(help="of highres_eval, half genuine; 6,000, or as many as there are, if not given")
    ] = None,
    lowres_pictures: Annotated[int, typer.Option(help="most pictures of a lowres identity")] = 20,
    highres_pictures: Annotated[int, typer.Option(help="pictures of a highres identity")] = 4,
    eval_pictures: Annotated[int, typer.Option(help="pictures of a highres_eval identity")] = 3,
    fewest: Annotated[int, typer.Option(help="fewest pictures of a lowres identity")] = 2,
    eval_size: Annotated[int, typer.Option(help="px of highres_eval and the pairs: 144 or 36")] = 144,
    allow_upsampling: Annotated[
        bool, typer.Option("--allow-upsampling", help="enlarge crops of fewer px than their split has; it is recorded")
    ] = False,
    seed: Annotated[int, typer.Option(help="of the choice; equal seeds make equal trees")] = 0,
    workers: Annotated[int, typer.Option(help="processes; 0: one a core")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 3 when any picture was not used")] = False,
) -> None:
    """Make the study's data tree from any aligned face set."""
    from hrfr_fast.packing.sources.identity_source import SourceOptions
    from hrfr_fast.preparation.derive import derive as run
    from hrfr_fast.preparation.derive_settings import DeriveSettings
    from hrfr_fast.runtime.errors import StrictRefusal
    from hrfr_fast.runtime.signals import StopFlag

    settings = DeriveSettings(
        seed=seed, lowres=lowres, highres=highres, highres_eval=highres_eval, pairs=pairs, template=template,
        lowres_pictures=lowres_pictures, highres_pictures=highres_pictures, eval_pictures=eval_pictures,
        fewest=fewest, eval_size=eval_size, inter_eye=inter_eye, allow_upsampling=allow_upsampling,
    )  # fmt: skip
    with StopFlag() as stop:
        made = run(
            source, data, settings=settings, format=format, options=SourceOptions(root), workers=workers, stop=stop
        )
    for line in made.lines():
        echo(line)
    if strict and made.rejected:
        raise StrictRefusal(f"{made.rejected:,} pictures were not used (--strict); everything else is in {data}")
