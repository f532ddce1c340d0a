"""The one table of all loaders, and the cases that it shows."""

from benchmarks.peers.base import Task
from benchmarks.throughput import CASES, cells
from benchmarks.throughput_table import BOUND, draw_table, rates, show_table


def result(loader, regime, rate, encoding="jpeg", group="files", **more):
    return {
        "contestant": loader,
        "regime": regime,
        "encoding": encoding,
        "group": group,
        "images_per_second": rate,
    } | more


RESULTS = [
    result("resident", "lowres32", 900.0), result("SPDL", "lowres32", 1200.0), result("torch+PIL", "lowres32", 300.0),
    result("resident", "faces112", 800.0), result("SPDL", "faces112", 0.0, problem="not installed"),
    result("torch+PIL", "faces112", 200.0), result(BOUND, "lowres32", 9e5, "raw", "pixels"),
]  # fmt: skip


def test_a_row_is_a_loader_and_a_column_a_case_with_the_best_marked(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    show_table(RESULTS)
    shown = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert list(shown) == ["SPDL", "hrfr-fast resident", "torch+PIL", "hrfr-fast / best peer"]
    assert "1,200*" in shown["SPDL"] and "- " in shown["SPDL"], "what was not measured is a dash"
    assert "900 " in shown["hrfr-fast resident"] and "800*" in shown["hrfr-fast resident"]
    assert "0.75" in shown["hrfr-fast / best peer"] and "4.00" in shown["hrfr-fast / best peer"]


def test_what_could_not_be_measured_and_the_bound_have_no_place():
    cases, table = rates(RESULTS)
    assert cases == ["lowres32 jpeg", "faces112 jpeg"] and BOUND not in table and "faces112 jpeg" not in table["SPDL"]


def test_the_picture_is_small(tmp_path):
    draw_table(RESULTS, tmp_path / "table.png", "2 cores")
    assert 2_000 < (tmp_path / "table.png").stat().st_size < 150_000


def test_ordinary_faces_are_read_from_their_own_tree_and_left_out_where_there_are_none():
    study, ordinary = Task("tree", "packed", "", "", ""), Task("tree112", "packed112", "", "", "")
    tables = cells({"study": study, "ordinary": ordinary}, CASES, ("resident",), ("SPDL",))
    assert {cell.task.data for cell in tables if cell.task.regime == "faces112"} == {"tree112"}
    assert {cell.task.data for cell in tables if cell.task.regime != "faces112"} == {"tree"}
    assert all(cell.task.regime != "faces112" for cell in cells({"study": study}, CASES, ("resident",), ("SPDL",)))
