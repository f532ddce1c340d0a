"""Every file and every program's output is read and written in an encoding that the code names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [path for folder in ("hrfr_fast", "benchmarks", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
TEXT = {"read_text", "write_text", "TextIOWrapper"}
TEXT_BY_DEFAULT = {"open", "fdopen"}
BINARY_BY_DEFAULT = {"TemporaryFile", "NamedTemporaryFile"}
OTHER_OPEN = {"os", "Image", "self", "gzip", "archive", "given"}  # whose open() is of bytes, or of no file


def unnamed(source: str) -> list[int]:
    """Lines that open text, or ask a program for text, in whatever encoding the user's locale has."""
    return [
        call.lineno
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and _is_text(call) and all(one.arg != "encoding" for one in call.keywords)
    ]


def _is_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in TEXT or any(one.arg in ("text", "universal_newlines") and _is_true(one.value) for one in call.keywords):
        return True
    words = [node.value for part in (*call.args, *call.keywords) for node in ast.walk(part)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]  # fmt: skip
    modes = [word for word in words if re.fullmatch("[rwax][bt+]*", word)]
    if name in TEXT_BY_DEFAULT and getattr(getattr(call.func, "value", None), "id", "") not in OTHER_OPEN:
        return not any("b" in mode for mode in modes)
    return name in BINARY_BY_DEFAULT and any("b" not in mode for mode in modes)


def _is_true(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


@pytest.mark.parametrize(
    "source,faults",
    [
        ("path.read_text()", 1),
        ("path.write_text(text)", 1),
        ("open(path)", 1),
        ("path.open('a')", 1),
        ("subprocess.run(command, text=True)", 1),
        ("tempfile.NamedTemporaryFile('w')", 1),
        ("path.read_text(encoding='utf-8'), open(path, 'r+b' if known else 'w+b')", 0),
        ("Image.open(path), os.open(path, 0), gzip.open(path), tempfile.TemporaryFile()", 0),
    ],
)
def test_the_check_itself(source, faults):
    assert len(unnamed(source)) == faults


def test_no_text_is_read_or_written_in_the_locales_encoding():
    found = {str(path.relative_to(ROOT)): lines for path in SOURCES if (lines := unnamed(path.read_text("utf-8")))}
    assert not found, "give encoding='utf-8'"
