"""A few of the kills and damages of ``long_faults.py``, which takes hundreds: nothing lost, nothing wrong, no crash.

In processes of their own: children are forked there, and this one has threads.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("simplejpeg")
pytest.importorskip("bcolz")


def long_faults(tmp_path, *arguments):
    out = tmp_path / "figures.json"
    command = [sys.executable, str(Path(__file__).with_name("long_faults.py")), *arguments, "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_killed_at_random_moments_commands_end_as_if_they_had_not_been(tmp_path):
    found = long_faults(tmp_path, "crash", "--only", "pack,train", "--kills", "5", "--seed", "3")
    for crashes in found.values():
        assert crashes["failures"] == [] and crashes["identical"] == crashes["tries"]
    assert sum(crashes["killed"] for crashes in found.values()) == 5


def test_random_damage_is_refused_by_name_or_harmless(tmp_path):
    found = long_faults(tmp_path, "damage", "--damages", "160", "--seed", "3")
    for damages in found.values():
        assert damages["failures"] == []
    tried = sum(sum(damages["tried"].values()) for damages in found.values())
    refused = sum(sum(damages["refused"].values()) for damages in found.values())
    assert 150 < tried <= 160 and 60 < refused < tried
