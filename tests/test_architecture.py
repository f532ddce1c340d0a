"""The architecture's one definition: which room of the package may import which, and how large files may grow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hrfr_fast"

ROOMS = (
    "runtime", "reporting", "face_templates", "regimes", "settings", "format", "synthetic", "packing", "sampling",
    "resampling", "preparation", "engines", "model", "evaluation", "deployment", "training", "analysis", "study",
    "doctor", "benchmarking", "cli", "__main__",
)  # fmt: skip
"""From the lowest to the highest; a room imports only itself and rooms before it. A room is a folder or a file."""
PUBLIC = "__init__"
"""``hrfr_fast/__init__.py`` offers functions of all rooms; nothing inside the package imports it."""
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 300, 60
REASON = "Longer than 300 lines"
"""How the docstring of a longer file begins the sentence that says why."""


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def scripts() -> list[Path]:
    """Benchmarks and tools, which may be no longer than files of the package."""
    folders = [PACKAGE.parent / folder for folder in ("benchmarks", "tools")]
    return [path for folder in folders for pattern in ("*.py", "*s/*.py") for path in sorted(folder.glob(pattern))]


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else PACKAGE.parent).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import from the package, those inside functions and for type checking included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "hrfr_fast":
                known = len(parts) > 1 and parts[1] in ROOMS
                yield node.lineno, parts[1] if known else PUBLIC


def test_every_room_has_its_place():
    found = {room_of(path) for path in sources()} - {PUBLIC}
    assert found == set(ROOMS)


def test_no_import_runs_upwards():
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} imports {room}"
        for path in sources()
        if room_of(path) != PUBLIC
        for line, room in imported_rooms(path)
        if room == PUBLIC or ROOMS.index(room) > ROOMS.index(room_of(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_an_upward_import_would_be_seen(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(
        "def f():\n    from hrfr_fast.study.plan import make_plan\n    import hrfr_fast\n", encoding="utf-8"
    )
    assert list(imported_rooms(path)) == [(2, "study"), (3, PUBLIC)]


@pytest.mark.parametrize("path", [*sources(), *scripts()], ids=name_of)
def test_a_file_is_short_or_says_why_not(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    if len(text.splitlines()) > LINES_OF_A_FILE:
        assert REASON in (ast.get_docstring(tree) or ""), f"{path}: over {LINES_OF_A_FILE} lines, and no reason why"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{name_of(path)}: {node.name}"
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LINES_OF_A_FUNCTION, f"{name} has {lines} lines"
