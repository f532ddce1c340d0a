"""The command line of every benchmark script, which reports a user's mistake in one line."""

import sys
from collections.abc import Callable

import typer


def run(main: Callable[..., None]) -> None:
    """Run ``main`` as the command line's program. An HrfrError ends in its message and its exit code."""
    from hrfr_fast.runtime.errors import HrfrError

    try:
        typer.run(main)
    except HrfrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
