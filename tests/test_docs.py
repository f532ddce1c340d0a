"""The documentation is true: its example runs, and the commands, options, links and files that it names exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hrfr_fast.cli import app
from hrfr_fast.regimes import load_regime
from hrfr_fast.settings import load_settings
from hrfr_fast.study.presets import load_preset

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(page for room in ("benchmarks", "docs") for page in sorted((ROOT / room).rglob("*.md"))),
]
EXAMPLE = ROOT / "docs" / "assets" / "tutorial.py"
GENERATED = {"reference/commands.md", "reference/settings.md", "reference/regimes.md", "decisions/index.md"}
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def unknown_parts(line: str) -> list[str]:
    """What the program does not know of a line ``hrfr-fast COMMAND --option ...``."""
    name, *words = shlex.split(line.replace("...", ""), comments=True)[1:]
    if name in ("COMMAND", "--version", "--help"):
        return []
    if name not in COMMANDS:
        return [name]
    known = {option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in known | {"--help"}]


def command_lines(page: Path) -> list[str]:
    """Lines of code blocks, and code in running text, that begin with the program's name."""
    text = page.read_text(encoding="utf-8")
    blocks = [*re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL), *re.findall(r"^ {4}.+", text, re.MULTILINE)]
    in_blocks = re.findall(r"^ *(hrfr-fast .+)$", "\n".join(blocks), re.MULTILINE)
    return in_blocks + re.findall(r"`(hrfr-fast [^`\n]+)`", text)


def test_an_unknown_command_or_option_would_be_seen():
    assert unknown_parts("hrfr-fast study --dose # more") == []
    assert unknown_parts("hrfr-fast study --no-such 3") == ["--no-such"]
    assert unknown_parts("hrfr-fast no-such --dose") == ["no-such"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_options_on_a_page_exist(page):
    assert [(line, unknown) for line in command_lines(page) if (unknown := unknown_parts(line))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_on_a_page_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    places = {link: (page.parent / link).resolve() for link in links}
    made = {ROOT / "docs" / name for name in GENERATED}
    assert [link for link, place in places.items() if not place.exists() and place not in made] == []


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./-]+(?:\.py|\.toml|\.sh|\.md|/))`", text)) - {"RUN/settings.toml"}
    assert len(named) > 10
    assert [path for path in sorted(named) if not _found(path)] == []


def _found(path: str) -> bool:
    """A path from the root of the repository or of the package, or the name of a file of one of the rooms."""
    if "/" not in path:
        return any((ROOT / "hrfr_fast").rglob(path)) or any((ROOT / folder / path).exists() for folder in ("", "tests"))
    return (ROOT / path).exists() or (ROOT / "hrfr_fast" / path).exists()


def test_the_example_of_the_readme_is_that_of_the_tutorial():
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block and block[1] == EXAMPLE.read_text(encoding="utf-8")


def test_the_example_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"120 faces of 20 people, 36 px\n10 steps, loss \d", done.stdout)
    assert re.search(r"^hres: \d+\.\d% of 40 pairs \(95 % interval ", done.stdout, re.MULTILINE)


def test_the_settings_of_the_tutorial_can_be_loaded(tmp_path):
    block = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block
    (tmp_path / "small.toml").write_text(block[1], encoding="utf-8")
    assert load_settings(tmp_path / "small.toml").model.width == 8


def test_the_loop_of_the_how_to_page_runs(tiny_packed, tmp_path):
    (tmp_path / "packed").symlink_to(tiny_packed)
    loop = ROOT / "docs" / "assets" / "own_loop.py"
    done = subprocess.run([sys.executable, str(loop)], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^loss \d+\.\d\d of \d+ people\nhres: \d+\.\d%, AUC 0\.\d{3}$", done.stdout, re.MULTILINE)


def test_the_regime_of_the_how_to_page_can_be_loaded(tmp_path):
    page = (ROOT / "docs" / "how-to" / "regime.md").read_text(encoding="utf-8")
    block = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert block
    (tmp_path / "mine.toml").write_text(block[1], encoding="utf-8")
    assert load_regime(tmp_path / "mine.toml").highres_share == 0.3


def test_the_preset_behind_the_picture_can_be_loaded():
    assert load_preset(ROOT / "docs" / "assets" / "example-study.toml").seeds >= 2


def test_the_preset_of_remedies_on_its_page_can_be_loaded(tmp_path):
    page = (ROOT / "docs" / "how-to" / "remedies.md").read_text(encoding="utf-8")
    block = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert block
    (tmp_path / "mine.toml").write_text(block[1], encoding="utf-8")
    remedies = load_preset(tmp_path / "mine.toml").remedies
    assert remedies and [candidate.name for candidate in remedies.candidates][-1] == "adaface"
