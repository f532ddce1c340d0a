"""Which numbers the figures of a study show."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from hrfr_fast.study import curves
from hrfr_fast.study.remedies import figures as remedies_figures
from hrfr_fast.study.summary import Summary


class Recorder:
    """In place of axes: the lines that are drawn, by label."""

    def __init__(self):
        self.lines = {}

    def plot(self, x, y, *style, label="", **look):
        self.lines[label] = list(y)

    def __getattr__(self, name):
        return lambda *values, **more: None

    def get_legend_handles_labels(self):
        return [], []


@pytest.fixture
def drawn(monkeypatch):
    axes = Recorder()

    @contextmanager
    def figure_file(*values, **more):
        yield (axes,)

    for module in (curves, remedies_figures):
        monkeypatch.setattr(module, "figure_file", figure_file)
    monkeypatch.setattr(remedies_figures, "legend_above", lambda axes: None)
    return axes


def test_accuracy_while_training_is_on_the_pairs_that_regimes_are_compared_on(drawn, tmp_path):
    """Of test sets of equal size, as public ones have, none else will do."""
    (tmp_path / "run").mkdir()
    lines = [
        {"kind": "verification", "step": 1, "samples": 8, "epoch": 1.0, "pairs": name, "pairs_kind": "test",
         "accuracy": accuracy}
        for name, accuracy in (("agedb", 0.6), ("calfw", 0.7), ("lfw", 0.8), ("cplfw", 0.9))
    ]  # fmt: skip
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    regime = SimpleNamespace(first_run="run", other_pairs={})
    for line in lines:
        assert curves.progress(tmp_path / "p.png", {"lowres32": regime}, tmp_path, line["pairs"])
        assert drawn.lines == {"lowres32": [pytest.approx(100 * line["accuracy"])]}
    assert not curves.progress(tmp_path / "p.png", {"lowres32": regime}, tmp_path, "cfp_fp")


def test_the_calibration_of_every_remedy_is_drawn_however_many_there_are(drawn, tmp_path):
    rate = Summary(0.01, (0.0, 0.02), {"0": 0.01})
    found = {
        name: SimpleNamespace(rows=[SimpleNamespace(view="144", far=rate)])
        for name in ("base", *(f"remedy{number}" for number in range(15)))
    }
    assert remedies_figures._calibration(tmp_path / "c.png", found, "base")
    assert list(drawn.lines) == list(found)
