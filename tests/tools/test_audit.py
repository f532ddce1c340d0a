"""What the audit of dependencies says: it never passes for done what was not looked up. And every range has an end."""

import re
import tomllib
from pathlib import Path

import pytest

from tools.audit import report

ROOT = Path(__file__).parents[2]
GOOD = {"name": "numpy", "version": "2.4.6", "vulns": []}
BAD = {"name": "pillow", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}
SKIPPED = {"name": "torch", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    "packages,line,vulnerable,complete",
    [
        ([GOOD], "1 of 1 pinned packages have no known vulnerability", False, True),
        ([GOOD, BAD], "VULNERABLE: pillow 1.0: CVE-1, fixed in 1.1", True, True),
        ([GOOD, SKIPPED], "NOT AUDITED: 1 of 2 packages, such as torch", False, False),
        ([SKIPPED], "NOT AUDITED: no advisory could be looked up", False, False),
        (None, "NOT AUDITED: no advisory could be looked up", False, False),
    ],
)
def test_the_report(packages, line, vulnerable, complete):
    lines, *found = report(None if packages is None else {"dependencies": packages})
    assert any(one.startswith(line) for one in lines) and found == [vulnerable, complete]


def test_every_dependency_has_an_upper_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    assert [one for one in needed if not re.search(r"<\d|==\d", one.partition(";")[0])] == []
