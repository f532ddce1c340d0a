"""Progress bars with rate and time left, and the console of messages on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from hrfr_fast.runtime.names import printable


class PlainConsole(Console):
    """A console whose texts cannot steer the terminal, whatever names are in them.

    Markup of rich counts where ``print`` is given ``markup=True``; names in such a text must be escaped.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **options)


console = PlainConsole(stderr=True, soft_wrap=True, markup=False)


@contextmanager
def messages_in(path: Path) -> Iterator[None]:
    """A context whose messages are appended to the file ``path`` instead of printed. Raises OSError."""
    with open(path, "a", encoding="utf-8") as file:
        console.file = file
        try:
            yield
        finally:
            console.file = None  # type: ignore[assignment]  # standard error again, whatever that is by then


class RateColumn(ProgressColumn):
    """Column of completed units a second, over rich's own sliding window."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(f"{rate:,.{0 if rate >= 10 else 1}f}/s" if rate else "-/s", style="cyan")


class PlainColumn(ProgressColumn):
    """Column of a text of the task, in which neither markup nor control characters count."""

    def __init__(self, of: Callable[[Task], str], style: str = "", column: Column | None = None) -> None:
        self._of, self._style = of, style
        super().__init__(column)

    def render(self, task: Task) -> Text:
        return Text(printable(self._of(task)), style=self._style)


class Bars(Progress):
    """A display that begins with its first task: without one nothing is printed, not even an empty line."""

    def __enter__(self) -> Self:
        return self

    def add_task(self, *arguments: Any, **options: Any) -> TaskID:
        task = super().add_task(*arguments, **options)
        self.start()
        return task

    def stop(self) -> None:
        if self.tasks:
            super().stop()


@contextmanager
def progress_bar(show: bool = True) -> Iterator[Progress]:
    """A rich progress display with rate and time left; ``add_task(name, total=..., note="")`` on it."""
    with Bars(
        PlainColumn(lambda task: task.description, "bold"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        PlainColumn(lambda task: str(task.fields["note"]), column=Column(overflow="fold")),  # in a narrow terminal
        console=console,
        disable=not show,
        refresh_per_second=4,
    ) as progress:
        yield progress
