"""Libraries only the analyses need: asked for when they are used, missed in words."""

from importlib.util import find_spec

from hrfr_fast.errors import HrfrError

PACKAGES = {"sklearn": "scikit-learn", "pycpd": "pycpd"}


def require(module: str) -> None:
    """Raise HrfrError with the line that installs it where ``module`` (a key of PACKAGES) is missing."""
    if find_spec(module) is None:
        raise HrfrError(
            f"{PACKAGES[module]} is needed for this question and is not installed;"
            " install it with `pip install 'hrfr-fast[analysis]'`"
        )
