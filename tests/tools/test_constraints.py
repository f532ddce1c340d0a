"""The pinned versions can be installed by every Python that the project says it supports."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

specifiers = pytest.importorskip("packaging.specifiers")

ROOT = Path(__file__).parents[2]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
OLDEST = "3.11.2"  # of Debian 12


def refusing(version: str) -> list[str]:
    """The installed pins that do not take Python ``version``."""
    found = []
    for name, pin in PINS.items():
        try:
            known = metadata(name)
        except PackageNotFoundError:
            continue
        wanted = known.get("Requires-Python") or ""
        if known["Version"].split("+")[0] == pin and not specifiers.SpecifierSet(wanted).contains(version):
            found.append(f"{name} {pin} wants Python {wanted}")
    return found


def test_the_pins_take_the_oldest_python():
    assert refusing(OLDEST) == []


def test_a_pin_that_does_not_would_be_seen():
    assert refusing("3.0.0")
