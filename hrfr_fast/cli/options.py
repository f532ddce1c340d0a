"""Options made from the settings, and values that take more than one word to read."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hrfr_fast.runtime.errors import UsageError

CARRAY_HELP = "order of the channels in bcolz carrays: bgr (if not given) or rgb; NAME=rgb for one; may be repeated"
ON_HELP = "Ray cluster that does the work: ray (this machine), ray://auto or ray://HOST:10001; not given: none"


def with_setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` one option for every setting, unset unless given."""
    from hrfr_fast.settings import augment_fields, flat_fields

    def run(config: Path | None = None, resume: bool = False, **given: Any) -> None:
        flags: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        augment = {k.removeprefix("augment_"): flags.pop(k) for k in list(flags) if k.startswith("augment_")}
        command(config, resume, flags | ({"augment": augment} if augment else {}))

    parameters = [
        _option("config", Path | None, None, "TOML file of settings; flags win over it"),
        _option("resume", bool, False, "continue the run in --out from its last checkpoint", "--resume"),
    ]
    parameters.append(
        _option("degradation", str | None, None,
                "TOML file of how second views are degraded where the regime's degradation is native, as"
                " `hrfr-fast match-degradation` writes it; not given: published ranges")
    )  # fmt: skip
    for field in flat_fields():
        # Round brackets: help texts are Rich markup, where square ones vanish.
        unset = "auto" if field.name == "batch_size" else "not set"
        text = f"{field.info.description} (default: {unset if field.info.default is None else field.info.default})"
        if field.choices:
            text = f"{' | '.join(field.choices)}: {text}"
        kind = str if field.name == "batch_size" else field.type  # a number, or the word auto
        parameters.append(_option(field.name, kind | None, None, text))
    for field in augment_fields():
        text = f"{field.info.description} (default: {field.info.default})"
        parameters.append(_option(f"augment_{field.name}", field.type | None, None, text))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__doc__ = "Train a regime on packed faces, then verify its last checkpoint."
    return run


def _option(name: str, kind: Any, default: Any, text: str, *names: str) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(*names, help=text, show_default=False)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def sizes_of(given: list[str]) -> dict[str, int]:
    sizes = {}
    for one in given:
        split, _, pixels = one.partition("=")
        if not (pixels.isascii() and pixels.isdigit()) or int(pixels) < 8:
            raise UsageError(f"--size {one}: give SPLIT=PIXELS with at least 8 pixels, as in --size lowres=40")
        sizes[split] = int(pixels)
    return sizes


def channels_of(given: list[str]) -> dict[str, str]:
    """Order of channels by name of a carray, "" for all others; what is no order is refused later."""
    orders = {}
    for one in given:
        name, _, order = one.rpartition("=")
        orders[name] = order.lower()
    return orders
