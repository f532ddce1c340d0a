"""Tables on standard output without truncated cells, whatever the width of the terminal."""

from collections.abc import Container, Iterable, Mapping, Sequence
from textwrap import indent
from typing import Any

from hrfr_fast.runtime.names import printable


def echo(text: str) -> None:
    """Print ``text``, of several lines perhaps, on standard output; names in it cannot steer the terminal."""
    print(printable(text), flush=True)


def print_rows(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", bold: Container[int] = (),
    right: Container[int] = (),
) -> None:  # fmt: skip
    """Print ``rows`` as a table where it fits, with lines or else without; otherwise as one block a row: its first
    cell, and below it a line for each other cell that is not empty.

    A file or a pipe counts as 80 columns wide unless the environment's COLUMNS says otherwise. Cells are plain text.

    Args:
        bold: numbers of the rows in bold type.
        right: numbers of the columns aligned to the right.
    """
    from rich.console import Console

    console, rows = Console(highlight=False), [list(row) for row in rows]
    for lines in (True, False):
        table = _table(head, rows, title, bold, right, lines)
        if console.measure(table, options=console.options.update(max_width=10_000)).maximum <= console.width:
            console.print(table)
            return
    for text in _blocks(head, rows, title, bold):
        console.print(text, soft_wrap=True)


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], title: str, bold: Container[int], right: Container[int],
    lines: bool,
) -> Any:  # fmt: skip
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    columns = [
        Column(Text(title), justify="right" if number in right else "left", no_wrap=True)
        for number, title in enumerate(head)
    ]
    style: dict[str, Any] = {"box": box.HEAVY_HEAD} if lines else {"box": box.SIMPLE_HEAD, "show_edge": False}
    if not lines:
        style["padding"] = 0  # the box itself leaves a space between columns
    table = Table(*columns, title=Text(printable(title)) if title else None, title_justify="left", **style)
    for number, row in enumerate(rows):
        table.add_row(*(Text(printable(cell)) for cell in row), style="bold" if number in bold else "")
    return table


def _blocks(head: Sequence[str], rows: Sequence[Sequence[str]], title: str, bold: Container[int]) -> Iterable[Any]:
    from rich.text import Text

    names = [" ".join(title.split()) for title in head]
    width = max(map(len, names[1:]), default=0)
    if title:
        yield Text(printable(title), style="italic")
    for number, (first, *cells) in enumerate(rows):
        yield Text(printable(first), style="bold" if number in bold else "")
        for name, cell in zip(names[1:], cells, strict=True):
            if cell:
                yield Text(printable(f"  {name:<{width}}  {cell}"))


def print_values(title: str, values: Mapping[str, Any]) -> None:
    """Print names and values in two columns; long values continue in the next line."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column(overflow="fold"), Column(overflow="fold"), title=Text(printable(title)), show_header=False)
    for key, value in values.items():
        table.add_row(Text(printable(str(key))), Text(printable(_plain(value))))
    Console(highlight=False).print(table)


def _plain(value: Any) -> str:
    """Numbers with thousands separators, mappings and lists without brackets and quotes."""
    if isinstance(value, dict):
        in_lines = any(isinstance(entry, dict) for entry in value.values())
        entries = [f"{key}: {_plain(entry)}" if key else _plain(entry) for key, entry in value.items()]
        return "\n".join(indent(entry, "  ").strip() for entry in entries) if in_lines else ", ".join(entries) or "none"
    if isinstance(value, list):
        return "\n".join(map(_plain, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
