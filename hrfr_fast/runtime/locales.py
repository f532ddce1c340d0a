"""One meaning for every file name in every locale, and output that any terminal can show."""

import codecs
import io
import os
import sys

PLAIN = {"·": "-", "…": "...", "→": "->", "±": "+-", "×": "x", "–": "-", "—": "-", "“": '"', "”": '"', "’": "'"}


def use_utf8() -> None:
    """Read file names as UTF-8, and print in the encoding of the terminal, whatever the locale.

    Settings and manifests keep paths as text. So that one text means one file, in a locale of another encoding the
    command starts itself anew in Python's UTF-8 mode (the default from Python 3.15 on), in which bytes of a name that
    are not UTF-8 are kept, too. Output stays in the locale's encoding; what that lacks is replaced.
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
    """What stands for the characters that an encoding lacks: a sign that looks alike, or an escape sequence."""
    assert isinstance(error, UnicodeEncodeError), "a handler for output"
    missing = error.object[error.start : error.end]
    return "".join(map(_alike, missing)), error.end


def _alike(missing: str) -> str:
    if "\udc80" <= missing <= "\udcff":  # a byte of a file name that is no text
        return f"\\x{ord(missing) - 0xDC00:02x}"
    return PLAIN.get(missing) or missing.encode("ascii", "backslashreplace").decode("ascii")
