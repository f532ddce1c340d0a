"""File names on one line of text, as in listings and messages, and text that a terminal shows and does not obey."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")

_STEERING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"  # all but tab and newline
)


def one_line(name: str) -> str:
    """``name`` with backslashes and control characters (a newline, a tab, a terminal's escape) written as escapes.

    Different names stay different. File names may hold any of these, which would break the line.
    """
    return _CONTROL.sub(_escape, name) if _CONTROL.search(name) else name


def printable(text: str) -> str:
    """``text``, of several lines perhaps, with whatever could steer a terminal or reorder its letters as escapes.

    Names of files and identities come from anybody: an escape sequence in one would colour, overwrite or retitle the
    terminal, a right-to-left mark would show ``gpj.exe`` as ``exe.jpg``. For what is shown only: backslashes stay.
    """
    return _STEERING.sub(_escape, text) if _STEERING.search(text) else text


def csv_line(cells: Iterable[object]) -> str:
    """One line of a CSV file, with its end. Quoted is a carriage return, too, which readers take for the end of a line:
    names of files may hold one."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return f"{text.getvalue()[:-2]}\n"


def few(texts: Sequence[str], separator: str = ", ") -> str:
    """The first five of ``texts``, with "..." where there are more."""
    return separator.join([*texts[:5], *(["..."] if len(texts) > 5 else [])])


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return "\\\\" if character == "\\" else f"\\u{ord(character):04x}"
