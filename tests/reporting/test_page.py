"""Pages escape what they are given; a run on a machine without Jinja2 is complete without its report."""

import json
import sys

import pytest
import torch

from hrfr_fast.model.checkpoint import save_weights
from hrfr_fast.reporting.page import Table, embedded, write_page
from hrfr_fast.training.run_report import write_run_report

Image = pytest.importorskip("PIL.Image")

EVIL = '<script>alert("1")</script>'
ESCAPED = "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;"
PARTS = """{% extends "page.html.j2" %}
{% from "parts.html.j2" import facts, figure, note, section, table %}
{% block body %}
{% call section(title) %}{{ note(title) }}{{ figure(image) }}{% endcall %}
{% call section("empty") %}
{{ table(nothing) }}
{% endcall %}
{{ table(content) }}{{ facts({title: title}) }}
{% endblock %}
"""


def test_every_part_escapes_names_and_an_empty_section_has_no_heading(tmp_path):
    template = tmp_path / "parts.j2"
    template.write_text(PARTS)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    path = write_page(
        tmp_path / "new" / "page.html", template, title=EVIL, image=embedded(tmp_path / "a.png", EVIL, EVIL),
        nothing=Table(("a",), []), content=Table((EVIL,), [(f"{EVIL}\n{EVIL}",)], wide=(0,)),
    )  # fmt: skip
    page = path.read_text()
    assert "<script" not in page and page.count(ESCAPED) == 10
    assert "empty" not in page and f"<br><small>{ESCAPED}</small>" in page and '<td class="wide">' in page
    assert page.startswith("<!doctype html>") and "&lt;h2&gt;" not in page and "&lt;p class" not in page
    assert embedded(tmp_path / "gone.png", "", "") is None


def test_no_name_reorders_what_stands_behind_it(tmp_path):
    template = tmp_path / "parts.j2"
    template.write_text(PARTS)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    name = "a\u202egpj.exe\u2066\x1b[2J\0 \u00e4\u05d0"
    path = write_page(
        tmp_path / "page.html", template, title=name, image=embedded(tmp_path / "a.png", name, name),
        nothing=Table((name,), []), content=Table((name,), [(f"{name}\n{name}",)]),
    )  # fmt: skip
    page = path.read_text(encoding="utf-8")
    assert not set("\u202e\u2066\x1b\0") & set(page)
    assert page.count("a\\u202egpj.exe\\u2066\\u001b[2J\\u0000 \u00e4\u05d0") == 10


@pytest.fixture
def run(tmp_path):
    """What a finished run leaves for its report, with HTML in every name."""
    (tmp_path / "report").mkdir()
    (tmp_path / "settings.toml").write_text(f"regime = 'r'\nout = '{EVIL}'\n[augment]\nflip = true\n")
    (tmp_path / "regime.toml").write_text(f"name = '{EVIL}'\nsummary = '{EVIL}'\n")
    result = {
        "kind": "test", "pairs": 40, "accuracy": 0.9, "accuracy_ci": [0.8, 0.95], "interval_level": "identity",
        "auc": 0.95, "eer": 0.1, "tar_at_far": {"0.1": 0.9}, "notes": [EVIL], "warnings": [],
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps({EVIL: result}))
    metadata = {"step": 4, "samples": 64, "epoch": 1.0, "data": {"path": EVIL, "digest": "0"}, "hrfr_fast": "0"}
    weights = tmp_path / "checkpoints" / "last.safetensors"
    weights.parent.mkdir()
    save_weights(weights, torch.nn.Identity(), torch.nn.Identity(), metadata)
    return tmp_path


def test_a_run_report_escapes_names(run):
    page = write_run_report(run).read_text()
    assert "<script" not in page and ESCAPED in page
    assert "90.0%" in page and "80.0% to 95.0%" in page and "augment.flip" in page


def test_a_run_report_says_what_guessing_gives_on_its_pairs(run):
    path = run / "results.json"
    (name, result), *_ = json.loads(path.read_text()).items()
    assert "more frequent answer" not in write_run_report(run).read_text(), "results of earlier versions do not say it"
    path.write_text(json.dumps({name: result | {"guessing": 0.85}}))
    page = write_run_report(run).read_text()
    assert "Always giving the more frequent answer gives 85%." in page and "50 %.</p>" not in page


def test_without_jinja2_a_run_gets_a_warning_in_place_of_its_report(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert not write_run_report(run).exists()
    assert "jinja2 is not installed" in " ".join(capsys.readouterr().err.split())
