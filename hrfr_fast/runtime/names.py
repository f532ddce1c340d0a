"""File names on one line of text, as in listings and messages."""

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")


def one_line(name: str) -> str:
    """``name`` with backslashes and control characters (a newline, a tab, a terminal's escape) written as escapes.

    Different names stay different. File names may hold any of these, which would break the line.
    """
    return _CONTROL.sub(_escape, name) if _CONTROL.search(name) else name


def few(texts: Sequence[str], separator: str = ", ") -> str:
    """The first five of ``texts``, with "..." where there are more."""
    return separator.join([*texts[:5], *(["..."] if len(texts) > 5 else [])])


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return "\\\\" if character == "\\" else f"\\u{ord(character):04x}"
