"""File names as UTF-8 in every locale, and output that any terminal can show."""

import codecs
import io
import os
import sys

PLAIN = {"·": "-", "…": "...", "→": "->", "±": "+-", "×": "x", "–": "-", "—": "-", "“": '"', "”": '"', "’": "'"}


def use_utf8() -> None:
    """Read file names as UTF-8, and print in the encoding of the terminal, whatever the locale.

    Settings and manifests store paths as text. So that a text always names the same file, in a locale of another
    encoding the command restarts itself in Python's UTF-8 mode (the default from Python 3.15 on), which also keeps
    bytes of a name that are not UTF-8. Output stays in the locale's encoding; characters that it lacks are replaced.
    """
    if sys.getfilesystemencoding() != "utf-8":
        shown_in = getattr(sys.stdout, "encoding", None) or "utf-8"
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONIOENCODING": shown_in})
    codecs.register_error("hrfr_fast.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="hrfr_fast.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Error handler: characters that an encoding lacks become similar ones, or escape sequences."""
    assert isinstance(error, UnicodeEncodeError), "a handler for output"
    missing = error.object[error.start : error.end]
    return "".join(map(_substitute, missing)), error.end


def _substitute(missing: str) -> str:
    if "\udc80" <= missing <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(missing) - 0xDC00:02x}"
    return PLAIN.get(missing) or missing.encode("ascii", "backslashreplace").decode("ascii")
