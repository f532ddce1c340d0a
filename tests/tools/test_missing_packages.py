"""The set-up names the Debian packages that are missing, and no others."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "tools" / "missing_packages.sh"
# As many lines as a desktop has, so that the list does not fit a pipe; what is looked for comes first.
LISTED = [
    "installed g++, c++-compiler",
    "installed libglib2.0-0t64, libglib2.0-0 (= 2.80.0-6ubuntu3), libglib2.0-0:i386",
    "config-files libgl1, ",
    *(f"installed package{number}, " for number in range(20_000)),
]


def missing(folder: Path, *packages: str) -> list[str]:
    """What the script prints where ``dpkg-query`` is a program that prints ``LISTED``."""
    (folder / "list").write_text("\n".join(LISTED) + "\n", encoding="utf-8")
    query = folder / "dpkg-query"
    query.write_text(f"#!/bin/sh\nexec cat {folder}/list\n", encoding="utf-8")
    query.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    found = subprocess.run([SCRIPT, *packages], env=environment, capture_output=True, encoding="utf-8", check=True)
    return found.stdout.split()


def test_installed_packages_are_not_missing(tmp_path):
    assert missing(tmp_path, "g++", "libglib2.0-0", "package0", "package19999") == []


def test_removed_and_unknown_packages_are_missing(tmp_path):
    assert missing(tmp_path, "libgl1", "g+", "package1", "package20000") == ["libgl1", "g+", "package20000"]
