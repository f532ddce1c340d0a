"""Exported files: what they compute, what they say about themselves, and what becomes of one that is wrong."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from model_cases import reference_embeddings, write_results, write_run

from hrfr_fast.deployment import export as export_module
from hrfr_fast.deployment.export import export
from hrfr_fast.evaluation.embedder import open_embedder
from hrfr_fast.evaluation.onnx_embedder import OnnxEmbedder
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.backbone import BackboneSettings
from hrfr_fast.model.fused import FusedSettings
from hrfr_fast.runtime.errors import HrfrError, UsageError

SMALL = BackboneSettings(32, 8, 16)
THRESHOLD = {"far": 0.01, "threshold": 0.4, "low": 0.3, "high": 0.5, "impostors": 200}
NETWORKS = {
    "irse18": SMALL,
    "ir50": BackboneSettings(32, 8, 16, name="ir50"),
    "vit-s": BackboneSettings(32, 8, 16, name="vit-s"),
    "fused": FusedSettings((BackboneSettings(48, 8, 12), BackboneSettings(32, 8, 8)), 16, input_size=48),
}


def faces(size, count=5):
    return np.random.default_rng(4).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tiny_packed, tmp_path_factory):
    """An evaluated run of the small network, and its model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export") / "run"
    model = write_run(folder, SMALL, tiny_packed)
    write_results(folder, [THRESHOLD])
    return folder, model


@pytest.mark.parametrize("name", NETWORKS)
def test_the_onnx_file_alone_gives_the_embeddings_of_the_model(name, tmp_path):
    """Through its metadata: nobody says size, layout, colours or normalisation."""
    shape = NETWORKS[name]
    model = write_run(tmp_path / "run", shape)
    result = export(tmp_path / "run", tmp_path / "model.onnx", flip_sum=name != "ir50", show_progress=False)
    assert result.least_cosine > 0.9999 and "synthetic faces" in result.faces
    embedder = OnnxEmbedder(tmp_path / "model.onnx")
    pixels = faces(shape.input_size)
    expected = reference_embeddings(model, pixels)
    np.testing.assert_allclose(embedder.embed(pixels), expected, atol=2e-5)
    np.testing.assert_allclose(embedder.embed(pixels[:1]), expected[:1], atol=2e-5)
    assert (embedder.size, embedder.dimension) == (shape.input_size, 16)


@pytest.mark.parametrize(
    "options,tolerance,most_bytes",
    [
        ({"input": "normalised"}, 2e-5, 900_000),
        ({"precision": "fp16"}, 0.01, 450_000),
        ({"precision": "int8"}, 0.5, 350_000),
    ],
    ids=["normalised", "fp16", "int8"],
)
def test_other_kinds_of_onnx_files(run, tmp_path, options, tolerance, most_bytes):
    folder, model = run
    result = export(folder, tmp_path / "model.onnx", show_progress=False, **options)
    pixels = faces(32)
    found = OnnxEmbedder(tmp_path / "model.onnx").embed(pixels)
    assert np.abs(found - reference_embeddings(model, pixels)).max() < tolerance
    assert "highres_eval of" in result.faces and result.out.stat().st_size < most_bytes
    if "precision" not in options or options["precision"] != "int8":
        return
    text = "\n".join(result.lines())
    assert "int8 - fp32" in text and "calibrated on 192 faces (lowres and highres of" in text
    assert result.cost.fp32.pairs == result.cost.int8.pairs == 40
    assert result.description.threshold_pairs == "40 test pairs hres", "its own scores, not those of results.json"


def test_the_metadata_say_what_the_file_is(run, tmp_path):
    folder, _ = run
    export(folder, tmp_path / "model.onnx", show_progress=False)
    embedder = OnnxEmbedder(tmp_path / "model.onnx")
    facts = embedder.description
    assert (facts.layout, facts.dtype, facts.colour_order, facts.flip_sum) == ("NHWC", "uint8", "rgb", False)
    assert facts.weights_sha256 == open_embedder(folder, device="cpu").describe()["digest"]
    assert [threshold.to_json() for threshold in facts.thresholds] == [THRESHOLD]
    assert facts.threshold_pairs == "400 test pairs hres"
    import onnx

    plain = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert plain["input_size"] == "32" and json.loads(plain["thresholds"]) == [THRESHOLD] and plain["run"] == "run"
    assert plain["trained_on"] == "lowres"


def test_a_torch_export_file_can_be_run_by_torch_alone(run, tmp_path):
    folder, model = run
    export(folder, tmp_path / "model.pt2", format="torch-export", flip_sum=True, show_progress=False)
    loaded = torch.export.load(str(tmp_path / "model.pt2")).module()
    pixels = faces(32, 3)
    with torch.no_grad():
        found = torch.nn.functional.normalize(loaded(torch.from_numpy(pixels)))
    np.testing.assert_allclose(found.numpy(), reference_embeddings(model, pixels), atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_weights_load_into_the_plain_module_of_the_documentation(run, tmp_path, precision):
    from safetensors.torch import load_file

    folder, model = run
    export(folder, tmp_path / "w.safetensors", format="safetensors", precision=precision, show_progress=False)
    path = Path(__file__).parents[2] / "docs" / "assets" / "plain_irse18.py"
    spec = importlib.util.spec_from_file_location("plain_irse18", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plain = module.IRSE18(size=32, width=8, embedding_size=16)
    plain.load_state_dict(load_file(tmp_path / "w.safetensors"))
    found = reference_embeddings(plain.eval(), faces(32))
    assert np.abs(found - reference_embeddings(model, faces(32))).max() < (1e-6 if precision == "fp32" else 0.01)


def test_a_state_dict_says_how_its_pictures_are_normalised(tmp_path):
    """In a graph the network's own normalisation is inside; a state dict holds none of it."""
    safetensors = pytest.importorskip("safetensors")
    write_run(tmp_path / "run", BackboneSettings(32, 8, 16, normalisation="imagenet"))
    result = export(tmp_path / "run", tmp_path / "w.safetensors", format="safetensors", show_progress=False)
    with safetensors.safe_open(str(result.out), framework="numpy") as file:
        assert file.metadata()["mean"] == "0.485 0.456 0.406" and file.metadata()["std"] == "0.229 0.224 0.225"
    graph = export(tmp_path / "run", tmp_path / "w.onnx", show_progress=False)
    assert graph.description.mean == (0.5, 0.5, 0.5)


def test_a_file_that_is_wrong_is_not_written(run, tmp_path, monkeypatch):
    folder, _ = run
    out = tmp_path / "model.onnx"
    out.write_bytes(b"an earlier one")
    monkeypatch.setitem(export_module.LEAST_COSINE, "fp32", 1.5)
    with pytest.raises(HrfrError, match=r"was not written: on 36 faces .* is 1\.0000.* more than 1\.5 is needed"):
        export(folder, out, show_progress=False)
    assert out.read_bytes() == b"an earlier one" and [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_checkpoint_itself_is_never_the_output(run, tmp_path):
    weights = run[0] / "checkpoints" / "last.safetensors"
    before = weights.read_bytes()
    for out, message in ((weights, "the checkpoint that is exported"), (tmp_path, "a folder")):
        with pytest.raises(UsageError, match=message):
            export(run[0], out, format="safetensors", show_progress=False)
    assert weights.read_bytes() == before


def test_pictures_that_are_given_are_what_it_is_checked_on(run, tiny_tree, tmp_path):
    folder, _ = run
    identity = sorted((tiny_tree / "highres").iterdir())[0]
    out = tmp_path / "w.safetensors"
    result = export(folder, out, format="safetensors", check=[identity], show_progress=False)
    assert result.faces == str(identity) and result.count == len(list(identity.iterdir()))


def test_thresholds_come_from_the_pairs_of_the_data_where_nothing_is_recorded(tiny_packed, tmp_path):
    write_run(tmp_path / "run", SMALL, tiny_packed)
    result = export(tmp_path / "run", tmp_path / "w.safetensors", format="safetensors", show_progress=False)
    pairs = open_packed(tiny_packed).pairs["hres"]
    assert result.description.threshold_pairs == f"{len(pairs)} test pairs hres"
    assert [threshold.far for threshold in result.description.thresholds] == [0.1, 0.01, 0.001]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"format": "caffe"}, "give onnx, torch-export, safetensors"),
        ({"input": "bgr"}, "give uint8 or normalised"),
        ({"precision": "bf16"}, "onnx has fp32, fp16, int8"),
        ({"precision": "int8", "format": "safetensors"}, "safetensors has fp32, fp16"),
        ({"flip_sum": True, "format": "safetensors"}, "weights alone"),
        ({"data": "nowhere"}, "no such directory"),
        ({"out": "m.pt2"}, "ending of another format than --format onnx"),
        ({"out": "m.onnx", "format": "safetensors"}, "ending of another format than --format safetensors"),
    ],
)
def test_what_cannot_be_exported_is_told(run, tmp_path, options, message):
    out = tmp_path / options.pop("out", "model")
    with pytest.raises(UsageError, match=message):
        export(run[0], out, show_progress=False, **options)
    assert not list(tmp_path.iterdir())


def test_the_folder_of_the_file_is_made(run, tmp_path):
    assert export(run[0], tmp_path / "new/m.safetensors", format="safetensors", show_progress=False).out.is_file()


def test_int8_without_real_faces_is_refused(tmp_path):
    write_run(tmp_path / "run", SMALL)
    with pytest.raises(UsageError, match="calibrated with real faces"):
        export(tmp_path / "run", tmp_path / "model.onnx", precision="int8", show_progress=False)
