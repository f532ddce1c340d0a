"""``python -m hrfr_fast``, and what the command ``hrfr-fast`` calls.

Worker processes import the main module anew. So it imports nothing by itself: the command line takes 0.15 s of CPU.
"""


def main() -> None:
    """The command line."""
    from hrfr_fast.cli import main as run

    run()


if __name__ == "__main__":
    main()
