"""What is printed in terminals of any width, in files and in pipes: whole, and with the right nouns."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.measure import Result
from benchmarks.peers import ENGINES
from benchmarks.peers.base import Task
from benchmarks.throughput import Cell, show
from hrfr_fast.cli import app
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.checkpoint import save_weights
from hrfr_fast.reporting.figures import figure_file
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.terminal import print_rows
from hrfr_fast.runtime.words import counted
from hrfr_fast.training.run_report import _results_table

WIDTHS = (60, 80, 200)


def words_of(text):
    return "".join(text.split())


@pytest.mark.parametrize("width", (30, *WIDTHS))
def test_no_cell_is_cut_or_read_as_markup(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [["a-long-name-of-a-pair-set [one]", "development", "24.94% to 45.83% (identity)"], ["b", "test", ""]]
    print_rows(("pair set", "kind", "95 %\ninterval"), rows, title="[title]")
    printed = capsys.readouterr().out
    assert "…" not in printed and "[title]" in printed
    assert all(words_of(cell) in words_of(printed) for row in rows for cell in row)


@pytest.fixture(scope="module")
def weights(tiny_packed, tmp_path_factory):
    """A checkpoint of an untrained network."""
    packed, shape = open_packed(tiny_packed), {"input_size": 32, "width": 8, "embedding_size": 8, "dropout": 0.0}
    network = build_backbone(BackboneSettings(**shape)).eval()
    path = tmp_path_factory.mktemp("weights") / "one.safetensors"
    metadata = {"backbone": shape, "data": {"path": str(tiny_packed), "digest": packed.digest}}
    save_weights(path, network, torch.nn.Identity(), metadata)
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_an_evaluation_is_printed_whole_with_its_warnings(weights, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    arguments = ["evaluate", str(weights), "--device", "cpu", "--view", "hr-lr36"]
    printed = CliRunner().invoke(app, arguments).stdout
    [result] = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout).values()
    low, high = result["accuracy_ci"]
    assert "…" not in printed and result["warnings"] and result["notes"]
    for text in (
        "hres", "test", "hr-lr36", f"{result['accuracy']:.2%}", f"{low:.2%} to {high:.2%} (identity)",
        f"{result['tar_at_far']['0.01']:.2%}", *result["warnings"], *result["notes"],
    ):  # fmt: skip
        assert text in printed


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_packed_is_printed_whole(tiny_packed, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    printed = CliRunner().invoke(app, ["inspect", str(tiny_packed)]).stdout
    bare = words_of(printed.replace("│", ""))
    assert "…" not in printed and all(name in bare for name in ("provenance", "pictures_an_identity", "highres_eval"))
    assert open_packed(tiny_packed).digest in bare


@pytest.mark.parametrize("width", WIDTHS)
def test_benchmarks_name_who_was_measured(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    names = (*ENGINES, "torch+OpenCV", "WebDataset")
    results = [
        Result(name, "lowres32", "jpeg", "float32", "", 1234567.0, 1134567.0, 1334567.0, 12.345, 2**33, 0.25)
        for name in names
    ]
    task = Task("data", "packed", "cache", "lowres32", "jpeg")
    show(Cell("files", task, names), results, {})
    printed = capsys.readouterr().out
    assert "…" not in printed and all(name in printed for name in names)
    assert printed.count("1,134,567 .. 1,334,567") == len(names)


@pytest.mark.parametrize(
    "number,noun,text",
    [(1, "identity", "1 identity"), (2, "identity", "2 identities"), (0, "step", "0 steps"), (1, "step", "1 step"),
     (2000, "test pair", "2,000 test pairs")],
)  # fmt: skip
def test_numbers_have_the_right_nouns(number, noun, text):
    assert counted(number, noun) == text


def test_bars_without_a_task_print_nothing(capsys):
    with progress_bar():
        pass
    assert capsys.readouterr().err == ""
    with progress_bar() as bars:
        bars.add_task("pictures", total=2, note="")
    assert "pictures" in capsys.readouterr().err


def test_a_curve_of_one_point_can_be_seen(tmp_path):
    """A run of one step logs one loss."""
    drawn = []
    with figure_file(tmp_path / "loss.png") as (axes,):
        drawn += axes.plot([1.0], [2.0]) + axes.plot([1.0, 2.0], [2.0, 3.0])
    assert [line.get_marker() for line in drawn] == ["o", "None"] and (tmp_path / "loss.png").stat().st_size > 0


def test_the_results_of_a_run_fit_a_page(tmp_path):
    """A page of 60rem leaves 928 px: what may not wrap takes 9 px a character and 13 px a column at the most."""
    one = {
        "kind": "development", "pairs": 1234567, "accuracy": 1.0, "accuracy_ci": [0.98765, 1.0], "auc": 1.0,
        "eer": 0.5, "tar_at_far": {"0.1": 1.0, "0.01": 1.0, "0.001": 1.0}, "notes": [], "warnings": ["few"],
    }  # fmt: skip
    table = _results_table({"a-set-with-a-name-that-takes-several-lines": one, "b": one})
    heads = [max(title.split(), key=len) for title in table.head[1:]]
    rows = [[cell.split("\n")[0] for cell in row[1:]] for row in table.rows]
    assert len(rows) == 2
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    assert 9 * sum(widths) + 13 * (len(widths) + 1) + 104 < 928
