"""The report of a stage: its options, its results as lines of JSON, and whether all of its checks hold."""

import argparse
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class StageReport:
    """The options of a stage and the file of its results.

    ``add`` appends a line of JSON to ``--results`` at once; a check that does not hold makes ``exit_code`` 1.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.exit_code = options, 0
        self.dry: bool = options.dry_run
        self.device = "cpu" if self.dry else "cuda"
        self.data, self.work, self.results = options.data, options.work, options.results
        self.work.mkdir(parents=True, exist_ok=True)
        self.results.parent.mkdir(parents=True, exist_ok=True)

    def add(self, what: str, **values: Any) -> None:
        """Add a line: what was measured, and its values."""
        line = json.dumps({"what": what, **values})
        with self.results.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def check(self, what: str, holds: bool, **values: Any) -> None:
        """Add a line with ``holds``; where it is false the stage goes on, and fails at its end."""
        self.add(what, holds=bool(holds), **values)
        self.exit_code |= not holds

    def attempt(self, what: str, work: Callable[..., None], *given: Any) -> None:
        """Call ``work(self, *given)``; an exception is added as a check that does not hold."""
        began = time.perf_counter()
        try:
            work(self, *given)
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:400]
            self.check(what, False, problem=reason, seconds=time.perf_counter() - began)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The parser of the options that every stage has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="packed noise")
    parser.add_argument("--work", type=Path, required=True, help="scratch directory")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines are appended there")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with as little data as possible")
    return parser


def stage_report(description: str | None, arguments: Sequence[str] | None) -> StageReport:
    """The report of a stage that has no options of its own."""
    return StageReport(parser_of(description).parse_args(arguments))
