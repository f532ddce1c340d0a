"""Options that describe an ONNX file which does not describe itself, given to every command that takes a model."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

FLAGS: dict[str, Any] = {
    "input_size": Annotated[int | None, typer.Option(help="of an ONNX file that does not say it: pixels a side")],
    "normalisation": Annotated[
        str | None, typer.Option(help="of an ONNX file: 0.5, imagenet, or none (it takes pixel values)")
    ],
    "mean": Annotated[
        str | None, typer.Option(help="of an ONNX file, instead: means of red, green, blue within 0 to 1")
    ],
    "std": Annotated[str | None, typer.Option(help="of an ONNX file: their standard deviations")],
    "colour": Annotated[str | None, typer.Option(help="of an ONNX file: rgb or bgr")],
    "flip_sum": Annotated[
        bool | None,
        typer.Option("--flip-sum/--no-flip-sum", help="whether an embedding is f(x) + f(flip x); it is, if not given"),
    ],
}


def with_onnx_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the options above; it gets them as its argument ``flags``, an OnnxFlags."""

    def run(**given: Any) -> None:
        from hrfr_fast.evaluation.onnx_embedder import OnnxFlags

        values = {name: given.pop(name) for name in FLAGS}
        command(**given, flags=OnnxFlags(colour_order=values.pop("colour"), **values))

    own = [each for each in inspect.signature(command).parameters.values() if each.name != "flags"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in FLAGS.items()
    ]
    kept = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    run.__signature__ = inspect.Signature([*kept, *added])  # type: ignore[attr-defined]
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run
