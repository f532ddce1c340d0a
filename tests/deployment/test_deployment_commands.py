"""The commands of models in use, as far as they do more than call their function: options, tables, JSON, CSV."""

import json

import numpy as np
import pytest
from model_cases import linear_onnx
from typer.testing import CliRunner

from hrfr_fast.cli import app
from hrfr_fast.runtime.errors import UsageError

cv2 = pytest.importorskip("cv2")


@pytest.fixture
def place(tmp_path):
    linear_onnx(tmp_path / "m.onnx")
    (tmp_path / "faces").mkdir()
    generator = np.random.default_rng(1)
    for number in range(3):
        cv2.imwrite(str(tmp_path / "faces" / f"{number}.png"), generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return tmp_path


def run(command, place, *arguments):
    options = ("--mean", "0.5", "--std", "0.5", "--colour", "bgr", "--device", "cpu")
    return CliRunner().invoke(app, [command, str(place / "m.onnx"), *map(str, arguments), *options])


def test_embed_then_search_as_json_and_csv(place):
    done = run("embed", place, place / "faces", "--out", place / "e.npz")
    assert done.exit_code == 0 and "e.npz: 3 embeddings of 5 numbers" in done.stdout
    probe = place / "faces" / "1.png"
    found = json.loads(run("search", place, place / "e.npz", probe, "--top", "2", "--json").stdout)
    assert [match["rank"] for match in found[str(probe)]] == [1, 2] and found[str(probe)][0]["name"] == str(probe)
    lines = run("search", place, place / "e.npz", probe, "--top", "1", "--csv").stdout.splitlines()
    assert lines == ["probe,rank,name,cosine", f"{probe},1,{probe},1.0000"]


def test_compare_faces_as_text_and_json(place):
    pictures = (place / "faces" / "0.png", place / "faces" / "0.png")
    assert "cosine 1.0000" in run("compare-faces", place, *pictures).stdout
    found = json.loads(run("compare-faces", place, *pictures, "--json").stdout)
    assert found["same"] is None and found["threshold"] is None and abs(found["cosine"] - 1) < 1e-6


def test_an_onnx_file_is_judged_by_a_protocol_only(place):
    done = run("evaluate", place)
    assert isinstance(done.exception, UsageError) and "is judged by a protocol" in str(done.exception)
