"""Figures as PNG files, the same whatever display, backend or style the user's matplotlib is set to."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrfr_fast.runtime.caches import use_writable_caches
from hrfr_fast.runtime.errors import CannotWrite
from hrfr_fast.runtime.files import write_bytes
from hrfr_fast.runtime.progress import console

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def saved_figure(path: Path, size: tuple[float, float], dpi: int = 130) -> Iterator["Figure"]:
    """An empty figure of ``size`` inches, saved to ``path`` when the block ends. The global backend is left alone."""
    import_matplotlib()
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context("default"):  # a user's matplotlibrc may ask for LaTeX, or for fonts that are not here
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        content = io.BytesIO()
        try:
            yield figure
            figure.savefig(content, format="png", dpi=dpi)
        except Exception:
            path.unlink(missing_ok=True)  # an older figure must not stand for one that cannot be drawn
            raise
        write_bytes(path, content.getvalue())  # Matplotlib's own writing does not say why it failed


def import_matplotlib() -> None:
    """Import matplotlib though MPLBACKEND may name a notebook's backend that is not installed here.

    Matplotlib refuses to be imported then. A backend that it knows stays chosen.
    """
    use_writable_caches()
    if "matplotlib" in sys.modules:
        return
    chosen = os.environ.pop("MPLBACKEND", "")
    try:
        import matplotlib
    finally:
        if chosen:
            os.environ["MPLBACKEND"] = chosen
    if chosen:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = chosen


def attempt(draw: Callable[..., object], path: Path, *data: Any) -> bool:
    """Have ``draw(path, *data)`` draw a figure, or print a warning: no numbers may be lost with a figure.

    Returns:
        Whether there is a figure to show: ``draw`` returned something true.
    """
    try:
        return bool(draw(path, *data))
    except CannotWrite:
        raise
    except Exception as error:  # matplotlib raises many kinds: a broken matplotlibrc, a font
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        console.print(f"warning: {path} could not be drawn and is left out ({reason})", markup=False, highlight=False)
        return False
