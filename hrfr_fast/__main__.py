"""``python -m hrfr_fast``."""

from hrfr_fast.cli import main

if __name__ == "__main__":
    main()
