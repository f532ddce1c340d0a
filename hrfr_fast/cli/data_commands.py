"""The commands that make packed faces and look at them: synth, pack, inspect, check."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hrfr_fast.cli.options import CARRAY_HELP, ON_HELP, channels_of, sizes_of
from hrfr_fast.cli.output import print_pack
from hrfr_fast.runtime.errors import DamageFound, IncompletePack, UsageError
from hrfr_fast.runtime.terminal import echo

FORMATS = "tree, pairs, rec, beton, list, folder or webdataset"
"""Those of ``packing/recognition.py``, which is not imported for a help text."""


def synth(
    data: Annotated[Path, typer.Argument(help="where to make the data tree, or the shards with --packed")],
    scale: Annotated[
        str, typer.Option(help="tiny, small, bench (10,000 + 500 faces) or paper (1,000,000 + 10,000)")
    ] = "small",
    seed: Annotated[int, typer.Option(help="equal seeds make equal trees")] = 0,
    workers: Annotated[int, typer.Option(help="processes; 0: one a core")] = 0,
    packed: Annotated[bool, typer.Option("--packed", help="write shards straight away, no picture files")] = False,
    shard_samples: Annotated[
        int, typer.Option(help="with --packed: most faces of a split in one file; 0: one file a split")
    ] = 0,
) -> None:
    """Make a data tree of parametric faces."""
    from hrfr_fast.runtime.signals import StopFlag
    from hrfr_fast.runtime.terminal import print_values
    from hrfr_fast.synthetic.data_tree import synthesize
    from hrfr_fast.synthetic.packed import synthesize_packed

    if shard_samples and not packed:
        raise UsageError("--shard-samples divides shards: give it with --packed")
    with StopFlag() as stop:
        if packed:
            made = synthesize_packed(data, scale, seed=seed, workers=workers, stop=stop, shard_samples=shard_samples)
        else:
            made = synthesize(data, scale, seed=seed, workers=workers, stop=stop)
    print_values(f"{data}", made)


def pack(
    data: Annotated[
        Path,
        typer.Argument(
            help="the study's data tree (lowres/, highres/, highres_eval/, hres_eval_pairs/), or a set of known people"
        ),
    ],
    out: Annotated[Path, typer.Option(help="where the shards go")] = Path("packed"),
    encoding: Annotated[str, typer.Option(help="raw, jpeg, or auto: raw while a split is at most 8 GB")] = "auto",
    workers: Annotated[int, typer.Option(help="processes; 0: one a core")] = 0,
    dev_identities: Annotated[
        int, typer.Option(help="training identities (of each split) set aside to make development pairs of")
    ] = 0,
    size: Annotated[
        list[str] | None,
        typer.Option(help="SPLIT=PIXELS where a split is not 36 (lowres) or 144 (highres) px, or what most faces have"),
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="resize pictures of another size")] = False,
    carray_channels: Annotated[list[str] | None, typer.Option(help=CARRAY_HELP)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 3 when any picture was rejected")] = False,
    format: Annotated[str, typer.Option(help=f"what DATA is: {FORMATS}; recognised if not given")] = "",
    root: Annotated[Path | None, typer.Option(help="folder that the paths of a list file are relative to")] = None,
    shard_samples: Annotated[int, typer.Option(help="most pictures of a split in one file; 0: one file a split")] = 0,
    on: Annotated[str, typer.Option(help=ON_HELP)] = "",
) -> None:
    """Pack faces into memory-mapped shards, once. Run again to continue or to update."""
    from hrfr_fast.packing.pack import pack as run
    from hrfr_fast.runtime.signals import StopFlag

    try:
        with StopFlag() as stop:
            summary = run(
                data, out, encoding=encoding, workers=workers, dev_identities=dev_identities, strict=strict,
                resize=resize, sizes=sizes_of(size or []), stop=stop,
                carray_channels=channels_of(carray_channels or []),
                format=format, root=root, shard_samples=shard_samples, on=on,
            )  # fmt: skip
    except IncompletePack as error:
        print_pack(error.summary)
        raise
    print_pack(summary)


def inspect_command(
    packed: Annotated[Path, typer.Argument(help="directory written by pack")],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    sheet: Annotated[Path | None, typer.Option(help="write a contact sheet (PNG) of every split")] = None,
) -> None:
    """Show what is packed: splits, sizes, identities, pairs."""
    from hrfr_fast.format.inspect import contact_sheet, inspect_packed
    from hrfr_fast.runtime.terminal import print_values

    found = inspect_packed(packed)
    if sheet:
        contact_sheet(packed, sheet)
    if as_json:
        echo(json.dumps(found, indent=2))
    else:
        print_values(str(packed), found)


def check(packed: Annotated[Path, typer.Argument(help="packed data, or the directory of a training run")]) -> None:
    """Verify every checksum of packed data or of a run; exits with 4 and names what is damaged: shard and record, or
    file."""
    from hrfr_fast.format.manifest import NAME, repair
    from hrfr_fast.format.verify import check_packed, describe_check
    from hrfr_fast.settings import is_run

    if not (packed / NAME).exists() and is_run(packed):
        _check_run(packed)
        return
    damage = check_packed(packed, show_progress=True)
    for one in damage[:100]:
        echo(str(one))
    if damage:
        raise DamageFound(f"{packed}: {len(damage)} damaged; {repair(packed)}")
    echo(f"{packed}: every checksum matches")
    for line in describe_check(packed):
        echo(line)


def _check_run(run: Path) -> None:
    """``check`` of the directory of a training run; separate, since it imports PyTorch."""
    from hrfr_fast.training.check_run import check_run, describe_run_check

    damage = check_run(run)
    for one in damage:
        echo(str(one))
    if damage:
        raise DamageFound(f"{run}: {len(damage)} damaged; each line above says what to do")
    echo(f"{run}: every checksum matches")
    for line in describe_run_check(run):
        echo(line)
