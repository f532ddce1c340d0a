"""ONNX files of other people: what must be said about them, what they compute then, and what is refused."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from model_cases import linear_onnx, write_run

from hrfr_fast.evaluation.description import EmbedderDescription
from hrfr_fast.evaluation.embedder import open_embedder
from hrfr_fast.evaluation.onnx_embedder import OnnxEmbedder, OnnxFlags
from hrfr_fast.evaluation.thresholds import Threshold
from hrfr_fast.model.adoption.onnx_check import refuse_other_embeddings
from hrfr_fast.model.backbone import BackboneSettings
from hrfr_fast.runtime.errors import UsageError

PIXELS = np.random.default_rng(2).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
HALF = OnnxFlags(normalisation="0.5")


def expected(matrix, pixels=PIXELS, mean=0.5, std=0.5, bgr=False, nhwc=False, flips=True):
    """normalise(x M + flip(x) M) with (value / 255 - mean) / std, mean and std of RGB."""
    total = 0
    for side in (pixels, pixels[:, :, ::-1]) if flips else (pixels,):
        values = (side / 255 - np.array(mean)) / np.array(std)
        values = values[..., ::-1] if bgr else values
        total = total + (values if nhwc else values.transpose(0, 3, 1, 2)).reshape(len(pixels), -1) @ matrix
    return total / np.linalg.norm(total, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "flags,reference",
    [
        (HALF, {}),
        (OnnxFlags(normalisation="0.5", colour_order="bgr"), {"bgr": True}),
        (OnnxFlags(normalisation="imagenet"), {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
        (OnnxFlags(mean="0.1 0.2 0.3", std="0.4,0.5,0.6", colour_order="bgr"),
         {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "bgr": True}),
        (OnnxFlags(normalisation="none"), {"mean": 0, "std": 1 / 255}),
        (OnnxFlags(normalisation="0.5", flip_sum=False), {"flips": False}),
    ],
    ids=["half", "bgr", "imagenet", "mean and std", "none", "no flip"],
)  # fmt: skip
def test_flags_say_how_pictures_are_prepared(tmp_path, flags, reference):
    matrix = linear_onnx(tmp_path / "m.onnx")
    embedder = OnnxEmbedder(tmp_path / "m.onnx", flags)
    np.testing.assert_allclose(embedder.embed(PIXELS), expected(matrix, **reference), atol=1e-5)
    assert (embedder.size, embedder.dimension, embedder.name) == (8, 5, "m")


def test_pixel_values_need_no_normalisation(tmp_path):
    matrix = linear_onnx(tmp_path / "m.onnx", dtype=2, nhwc=True)
    found = OnnxEmbedder(tmp_path / "m.onnx").embed(PIXELS)
    np.testing.assert_allclose(found, expected(matrix, mean=0, std=1 / 255, nhwc=True), atol=1e-5)


def test_a_fixed_batch_is_filled_up(tmp_path):
    matrix = linear_onnx(tmp_path / "m.onnx", batch=2)
    np.testing.assert_allclose(OnnxEmbedder(tmp_path / "m.onnx", HALF).embed(PIXELS), expected(matrix), atol=1e-5)


def test_metadata_of_our_own_are_taken_and_flags_win(tmp_path):
    threshold = Threshold(0.01, 0.4, 0.3, 0.5, 100)
    own = EmbedderDescription(
        input_size=8, colour_order="bgr", mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), embedding_size=5, flip_sum=True,
        threshold_pairs="some pairs", thresholds=(threshold,),
    )  # fmt: skip
    assert EmbedderDescription.from_text(own.to_text()) == own
    matrix = linear_onnx(tmp_path / "m.onnx", metadata=own.to_text())
    embedder = OnnxEmbedder(tmp_path / "m.onnx")
    one_side = expected(matrix, mean=(0.1, 0.2, 0.3), bgr=True, flips=False)
    np.testing.assert_allclose(embedder.embed(PIXELS), one_side, atol=1e-5)
    assert embedder.description == own
    red_first = OnnxEmbedder(tmp_path / "m.onnx", OnnxFlags(colour_order="rgb"))
    np.testing.assert_allclose(red_first.embed(PIXELS), expected(matrix, mean=(0.1, 0.2, 0.3), flips=False), atol=1e-5)


@pytest.mark.parametrize(
    "made,flags,message",
    [
        ({}, OnnxFlags(), "metadata do not say how pictures are normalised; give --normalisation"),
        ({}, OnnxFlags(input_size=16, normalisation="0.5"), "it takes pictures of 8 px, not of 16"),
        ({"side": 8, "batch": "n", "inputs": 2}, HALF, "it has 2 inputs"),
        ({"output_shape": ["n", 5, 1, 1]}, HALF, r"its output is \[\?, 5, 1, 1\]; embeddings are"),
        ({"domain": "evil.ops"}, HALF, "operators of 'evil.ops'"),
        ({"location": "../matrix.bin"}, HALF, "outside of its folder"),
        ({"location": "/etc/passwd"}, HALF, "outside of its folder"),
        ({"location": "gone.bin"}, HALF, "external data are missing"),
        ({"location": "short.bin"}, HALF, "end beyond the end of"),
        ({"location": "short.bin", "length": "9" * 5000}, HALF, "no usable offset and length"),
        ({"batch": 100_000}, HALF, "it wants 100,000 pictures at once"),
        ({"dtype": 6}, HALF, "is not a batch of RGB pictures"),
        ({}, OnnxFlags(mean="0.5"), "--mean and --std belong together"),
        ({}, OnnxFlags(mean="0.5", std="0"), "--std 0: give one number"),
        ({}, OnnxFlags(normalisation="vgg"), "--normalisation vgg: give 0.5, imagenet, none"),
        ({}, OnnxFlags(normalisation="0.5", colour_order="grey"), "colour_order is 'grey'"),
        ({"metadata": {"format": "hrfr-fast embedder 1", "input_size": "-8"}}, OnnxFlags(), "metadata are damaged"),
        ({"metadata": {"format": "hrfr-fast embedder 1", "input_size": "8", "embedding_size": "5", "flip_sum": "true"}},
         OnnxFlags(flip_sum=False), "--no-flip-sum: the file itself returns"),
        ({"metadata": {"format": "hrfr-fast embedder 1", "input_size": "8", "embedding_size": "5",
                       "thresholds": "[{}]"}}, OnnxFlags(), "not a threshold"),
        ({"metadata": {"format": "hrfr-fast embedder 1", "input_size": "8", "embedding_size": "5", "mean": "0 nan 0"}},
         OnnxFlags(), "mean"),
        ({"metadata": {"format": "hrfr-fast embedder 1", "input_size": "8", "embedding_size": "5", "std": "1 0 1"}},
         OnnxFlags(), "std"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_usable_embedder_is_one_line(tmp_path, made, flags, message):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "short.bin").write_bytes(b"1234")
    (tmp_path / "matrix.bin").write_bytes(bytes(4000))
    linear_onnx(folder / "m.onnx", **made)
    with pytest.raises(UsageError, match=message) as told:
        OnnxEmbedder(folder / "m.onnx", flags)
    assert str(told.value).startswith(str(folder / "m.onnx")) and "\n" not in str(told.value)


def test_external_data_are_looked_for_beside_a_link_as_onnx_runtime_does(tmp_path):
    """Where a model is a link, the data that are checked are those that are opened."""
    for folder in ("models", "links"):
        (tmp_path / folder).mkdir()
    matrix = linear_onnx(tmp_path / "models" / "m.onnx", location="matrix.bin")
    (tmp_path / "models" / "matrix.bin").write_bytes(matrix.tobytes())
    link, data = tmp_path / "links" / "m.onnx", tmp_path / "links" / "matrix.bin"
    link.symlink_to(tmp_path / "models" / "m.onnx")
    with pytest.raises(UsageError, match="external data are missing"):
        OnnxEmbedder(link, HALF)
    data.symlink_to(tmp_path / "models" / "matrix.bin")
    np.testing.assert_allclose(OnnxEmbedder(link, HALF).embed(PIXELS), expected(matrix), atol=1e-5)
    (tmp_path / "elsewhere.bin").write_bytes(matrix.tobytes())
    data.unlink(), data.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(UsageError, match="outside of its folder"):
        OnnxEmbedder(link, HALF)


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(range(256)) * 8], ids=["empty", "text", "noise"])
def test_what_is_no_onnx_file_is_told(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UsageError, match="not an ONNX file"):
        open_embedder(tmp_path / "m.onnx", device="cpu", flags=HALF)


def test_flags_are_not_for_runs(tmp_path):
    with pytest.raises(UsageError, match="a run knows its own"):
        open_embedder(tmp_path, device="cpu", flags=HALF)


def test_a_run_is_compared_with_a_file_that_flags_describe(tmp_path, capsys):
    from hrfr_fast.cli import app

    write_run(tmp_path / "run", BackboneSettings(32, 8, 16))
    linear_onnx(tmp_path / "other.onnx")
    faces = np.random.default_rng(3).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    encoded = [cv2.imencode(".png", face)[1].tobytes() for face in faces]
    (tmp_path / "pairs.bin").write_bytes(pickle.dumps((encoded * 2, [True, False] * 20), 4))
    given = [str(tmp_path / name) for name in ("run", "other.onnx", "pairs.bin")] + ["--device", "cpu", "--json"]
    with pytest.raises(SystemExit) as ended:
        app(["compare", *given, "--normalisation", "imagenet", "--colour", "bgr", "--no-flip-sum"])
    assert ended.value.code == 0
    values = json.loads(capsys.readouterr().out)
    run, other = values["a"]["model"], values["b"]["model"]
    assert (other["colour_order"], other["normalisation"]["mean"][0]) == ("bgr", 0.485)
    assert (run["colour_order"], run["flip_sum"], other["flip_sum"]) == ("rgb", False, False)


def test_names_in_a_graph_do_not_reach_the_terminal_by_themselves(tmp_path, capfd):
    """ONNX Runtime's own log has them as they are; here a layer that fails when it runs is called by a sequence that
    clears the screen."""
    import torch
    from onnx import helper, numpy_helper

    node = helper.make_node("Reshape", ["x", "shape"], ["y"], name="\x1b[2J\x1b]0;owned\x07")
    values = [helper.make_tensor_value_info(*of) for of in (("x", 1, [None, 3, 16, 16]), ("y", 1, [None, 8]))]
    shape = numpy_helper.from_array(np.array([5, 5]), "shape")
    graph = helper.make_graph([node], "g", values[:1], values[1:], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="cannot be embedded"):
        OnnxEmbedder(tmp_path / "a.onnx", OnnxFlags(normalisation="0.5"), "cpu")
    with pytest.raises(UsageError, match="cannot run it"):
        refuse_other_embeddings(tmp_path / "a.onnx", torch.nn.Flatten(), 16, takes_pixels=False)
    assert capfd.readouterr() == ("", "")


def test_onnx_runtime_sends_and_keeps_nothing(tmp_path):
    """Since 1.29 it makes a number for the machine, and a file of what it sends to its makers, when it is imported."""
    linear_onnx(tmp_path / "m.onnx")
    program = (
        "import numpy as np\n"
        "from hrfr_fast.evaluation.onnx_embedder import OnnxEmbedder, OnnxFlags\n"
        "embedder = OnnxEmbedder('m.onnx', OnnxFlags(normalisation='0.5'))\n"
        "embedder.embed(np.zeros((2, 8, 8, 3), np.uint8))\n"
    )
    # Where CI is set it keeps silent by itself.
    removed = {"CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    (tmp_path / "home").mkdir()
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, check=True)
    assert not list((tmp_path / "home").rglob("*onnxruntime*"))
