"""MkDocs hook: pages made from the code itself, so that they cannot be out of date.

``reference/commands.md`` and ``reference/settings.md`` come from the command line's own options,
``reference/regimes.md`` from the regimes, ``decisions/index.md`` from the titles of the files beside it.
"""

import re
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from hrfr_fast.cli import app
from hrfr_fast.regimes import CONTROLS, ORDINARY, REMEDIES, TABLE
from hrfr_fast.settings import degradation_fields


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    group: Any = typer.main.get_command(app)
    pages = {
        "reference/commands.md": _commands(group),
        "reference/settings.md": _settings(group.commands["train"]),
        "reference/regimes.md": _regimes(),
        "decisions/index.md": _decisions(Path(config.docs_dir) / "decisions"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def _commands(group: Any) -> str:
    parts = ["# Commands\n\nMade from the program's own help; `hrfr-fast COMMAND --help` shows the same.\n"]
    for name, command in group.commands.items():
        arguments = [_name(p) for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(["hrfr-fast", name, *arguments, "[OPTIONS]"])
        parts.append(f"## {name}\n\n{command.help}\n\n```text\n{usage}\n```\n")
        if name == "train":
            parts.append("Its options are the [training settings](settings.md), `--config` and `--resume`.\n")
            continue
        parts.append(_table(command.params))
    return "\n".join(parts)


def _settings(command: Any) -> str:
    head = (
        "# Training settings\n\nEach is an option of `hrfr-fast train` and a key of `settings.toml`, with underscores "
        "for the inner hyphens. Options that begin with `--augment-` are keys of the table `[augment]` there. A run "
        "keeps the values it was trained with in `settings.toml`, which is itself a valid `--config`.\n"
    )
    rows = [f"| `{field.name}` | {_escaped(str(field.info.description))} (default: {field.info.default}) |"
            for field in degradation_fields()]  # fmt: skip
    table = "\n".join(["| key | meaning |", "|---|---|", *rows])
    return (
        f"{head}\n{_table(command.params)}\n## The table `[degradation]`\n\nIn a file for `--degradation`, see"
        f" [how to degrade](../how-to/degrade.md), and in `settings.toml`.\n\n{table}\n"
    )


def _name(argument: Any) -> str:
    return str(argument.name).upper() + ("..." if argument.nargs == -1 else "")


def _table(parameters: list[Any]) -> str:
    rows = ["| option | meaning |", "|---|---|"]
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            name = f"`{_name(parameter)}`"
        else:
            name = ", ".join(f"`{option}`" for option in parameter.opts)
        if name != "`--help`":
            rows.append(f"| {name} | {_escaped(parameter.help or '')}{_default(parameter)} |")
    return "\n".join(rows) + "\n"


def _default(parameter: Any) -> str:
    """The default, where the help is to show one."""
    default, shown = parameter.default, getattr(parameter, "show_default", False)
    return f" (default: {default})" if shown and default is not None and default is not False else ""


def _regimes() -> str:
    parts = ["# Regimes\n\nEach is data (`hrfr_fast/regimes.py`): no code asks for a regime by its name.\n"]
    groups = (
        ("The ten regimes", TABLE), ("Controls", CONTROLS), ("Remedies", REMEDIES), ("For an ordinary set", ORDINARY),
    )  # fmt: skip
    for title, regimes in groups:
        rows = ["| regime | trained on | input | starts from | what it is |", "|---|---|---|---|---|"]
        rows += [
            f"| `{regime.name}` | {', '.join(regime.sources)} | {regime.input_size} px "
            f"| {', '.join((*regime.parents, *filter(None, (regime.teacher,)))) or '-'} | {_escaped(regime.summary)} |"
            for regime in regimes
        ]
        parts.append(f"## {title}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _decisions(folder: Path) -> str:
    lines = ["# Decisions\n", "What was decided, why, and what was measured. One short file each.\n"]
    for path in sorted(folder.glob("[0-9]*.md")):
        title = re.sub(r"^#\s*", "", path.read_text(encoding="utf-8").splitlines()[0])
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
