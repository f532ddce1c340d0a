"""Figures are drawn whatever the user's matplotlib is set to, and a picture that fails costs nothing else."""

import os
import subprocess
import sys

import pytest

from hrfr_fast.reporting import canvas

DRAW = """
import sys
from pathlib import Path
from hrfr_fast.reporting.canvas import saved_figure
with saved_figure(Path(sys.argv[1]), (3, 2)) as figure:
    figure.subplots().set_xlabel("epoch")
import matplotlib
print(dict.__getitem__(matplotlib.rcParams, "backend"), "matplotlib.pyplot" in sys.modules)
"""


def drawn(path, **variables):
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-c", DRAW, str(path)], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "variables,backend",
    [
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, None),
        ({"MPLBACKEND": "no-such-backend"}, None),
        ({"MPLBACKEND": "svg"}, "svg"),
    ],
)
def test_any_backend_of_the_environment_will_do(tmp_path, variables, backend):
    done = drawn(tmp_path / "a.png", **variables)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").stat().st_size > 1000
    chosen, pyplot = done.stdout.rsplit(maxsplit=1)
    assert pyplot == "False" and (backend is None or chosen == backend), "the process's own choice is kept"


def test_a_users_style_changes_nothing(tmp_path):
    """LaTeX, which is not here, would fail; a dark page and large letters would be another picture."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 30\nfigure.facecolor: black\n")
    assert drawn(tmp_path / "plain.png").returncode == 0
    done = drawn(tmp_path / "mine.png", MATPLOTLIBRC=str(tmp_path / "matplotlibrc"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_a_picture_that_fails_is_told_and_left_out(tmp_path, capsys):
    path = tmp_path / "old.png"
    path.write_bytes(b"of an earlier run")

    def fails(path):
        with canvas.saved_figure(path, (3, 2)):
            raise ValueError("no such font")

    assert not canvas.attempt(fails, path) and not path.exists()
    assert "old.png could not be drawn" in capsys.readouterr().err.replace("\n", "")
