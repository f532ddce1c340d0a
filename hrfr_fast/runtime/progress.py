"""Progress bars with rate and time left, and the console of messages on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

console = Console(stderr=True, soft_wrap=True)


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
        return Text(f"{rate:,.0f}/s" if rate else "-/s", style="cyan")


@contextmanager
def progress_bar(show: bool = True) -> Iterator[Progress]:
    """A rich progress display with rate and time left; ``add_task(name, total=..., note="")`` on it."""
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", table_column=Column(overflow="fold")),  # wraps in a narrow terminal
        console=console,
        disable=not show,
        refresh_per_second=4,
    ) as progress:
        yield progress
