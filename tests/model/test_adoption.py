"""Public checkpoints: read safely, told by their names, whole or refused, and computing what they computed."""

import argparse
import zipfile
from pathlib import Path

import pytest
import torch
from model_cases import write_run
from public_checkpoints import picture, public_state_dict
from torch import nn

from hrfr_fast.evaluation.evaluate import load_backbone
from hrfr_fast.model.adoption.layouts import LAYOUTS
from hrfr_fast.model.adoption.onnx_weights import read_onnx
from hrfr_fast.model.adoption.reading import read_tensors
from hrfr_fast.model.adoption.translation import translate
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.training.adopt import adopt

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

needs_onnx = pytest.mark.skipif(onnxruntime is None, reason="needs onnxruntime")
COMPUTE = choose_compute("cpu", "fp32")


def loaded(run):
    return load_backbone(run / "checkpoints" / "last.safetensors", COMPUTE)


def saved(tensors, path):
    torch.save(tensors, path)
    return path


GOLDEN = {
    "arcface_torch, iresnet18": ("arcface_torch", "ir18", "rgb", (0.014284, 0.070568, 0.069998, 0.025851)),
    "arcface_torch, mbf": ("arcface_torch", "mobilefacenet", "rgb", (-0.018573, -0.001295, 0.009392, -0.032111)),
    "AdaFace, ir_18": ("adaface", "ir18", "bgr", (-0.042591, -0.018811, -0.00412, 0.049854)),
    "face.evoLVe, IR_SE_50": ("face.evoLVe", "irse50", "rgb", (-0.031473, -0.011387, -0.011299, 0.075757)),
}
"""The first numbers of the unit embedding that the public implementation computes of ``picture(112)``."""


@pytest.mark.parametrize("layout,backbone,colours,values", GOLDEN.values(), ids=GOLDEN)
def test_embeddings_are_those_of_the_public_code(layout, backbone, colours, values):
    found = translate(Path("w.pth"), public_state_dict(layout, backbone, input_size=112, width=64, embedding_size=512))
    assert (found.layout, found.settings.name, found.settings.input_size) == (layout, backbone, 112)
    assert LAYOUTS[layout].colours == colours
    network = build_backbone(found.settings).eval()
    network.load_state_dict(found.tensors)
    with torch.inference_mode():
        embedding = nn.functional.normalize(network(picture(112)))[
            0
        ]  # its channels are in the order of the public code
    torch.testing.assert_close(embedding[:4], torch.tensor(values), rtol=0, atol=1e-5)


HEAD = {"head.kernel": torch.zeros(16, 3)}
WRAPPED = {
    "plain": ("arcface_torch", "", lambda tensors: tensors),
    "DataParallel": ("face.evoLVe", "module.", lambda tensors: tensors),
    "Lightning": ("adaface", "model.", lambda tensors: {"state_dict": tensors | HEAD, "hyper_parameters": {"lr": 0.1}}),
    "training script": ("arcface_torch", "module.", lambda tensors: {"epoch": 3, "state_dict_backbone": tensors}),
    "head beside it": ("cavaface", "", lambda tensors: tensors | HEAD),
    "half precision": ("cvlface", "net.", lambda tensors: {k: v.half() if v.ndim else v for k, v in tensors.items()}),
}


@pytest.mark.parametrize("layout,prefix,wrap", WRAPPED.values(), ids=WRAPPED)
def test_however_it_is_wrapped(layout, prefix, wrap, tmp_path):
    bare = public_state_dict(layout, "ir18")
    expected = translate(tmp_path, bare, layout=layout)
    file = saved(wrap({prefix + key: tensor for key, tensor in bare.items()}), tmp_path / "w.ckpt")
    found = translate(file, read_tensors(file))
    assert (found.layout, found.settings) == (
        layout,
        BackboneSettings(32, 8, 16, name="ir18", variant=found.settings.variant),
    )
    tolerance = 1e-3 if wrap is WRAPPED["half precision"][2] else 0.0
    torch.testing.assert_close(found.tensors, expected.tensors, rtol=0, atol=tolerance)
    assert all(key.endswith("head.kernel") for key in found.ignored)


def test_safetensors_and_transformers(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = public_state_dict("arcface_torch", "vit-s", input_size=112) | {"mask_token": torch.zeros(1, 1, 64)}
    safetensors.save_file(tensors, tmp_path / "w.safetensors")
    adopted = adopt(tmp_path / "w.safetensors", tmp_path / "run")
    assert adopted.settings.name == "vit-s" and adopted.settings.input_size == 112
    assert adopted.notes == ("not of the backbone, and left out: 1 tensor of mask_token",)


def without(name, tensors):
    return {key: tensor for key, tensor in tensors.items() if key != name}


REFUSED = {
    "missing": (lambda t: without("layer2.1.bn3.running_var", t), {}, r"1 parameter missing \(body.3.residual.5"),
    "left over": (lambda t: t | {"layer5.0.conv1.weight": t["conv1.weight"]}, {}, r"left over \(layer5.0.conv1"),
    "other shape": (lambda t: t | {"fc.weight": torch.zeros(16, 100)}, {}, r"output.3.weight.*is \[16, 100\]; ir18"),
    "too small": (lambda t: t | {"conv1.weight": torch.zeros(4, 3, 3, 3)}, {}, "width is 4"),
    "not finite": (lambda t: t | {"fc.bias": torch.full((16,), torch.nan)}, {}, "no finite"),
    "another network": (lambda t: t, {"backbone": "ir50"}, "it holds ir18 .arcface_torch., not ir50"),
    "another layout": (lambda t: t, {"layout": "adaface"}, "no network in the layouts known: adaface"),
    "other names": (lambda t: {f"x{key}": one for key, one in t.items()}, {}, "its keys .xconv1.weight"),
    "no tensors": (lambda t: {"state_dict": {"epoch": 3}, "config": {}}, {}, "no state dict in it; it holds state"),
    "unknown layout": (lambda t: t, {"layout": "caffe"}, "there is no layout 'caffe'"),
    "onnx only": (lambda t: t, {"layout": "insightface.onnx"}, "is that of .onnx files"),
    "repeated": (lambda t: t | {"fc.bias": torch.zeros(1).expand(16)}, {}, "fc.bias is a sparse, quantised"),
    "no pairs": (lambda t: t, {"check": "nowhere"}, "nowhere"),
    "an object": (lambda t: t | {"hparams": argparse.Namespace(lr=1)}, {}, r"object of argparse.Namespace.*state_dict"),
}  # fmt: skip


@pytest.mark.parametrize("change,options,message", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(change, options, message, tmp_path):
    file = saved(change(public_state_dict("arcface_torch", "ir18")), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=message):
        adopt(file, tmp_path / "run", **options)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_transformer_with_other_heads_is_refused(tmp_path):
    """arcface_torch's vit_t has the shapes of a narrow vit-s, but 8 heads of 32 channels."""
    with pytest.raises(UsageError, match="it is vit_t by its width; its attention has heads of 32 channels"):
        translate(tmp_path, public_state_dict("arcface_torch", "vit-s", width=32))


def test_files_that_are_no_checkpoints(tmp_path):
    for name, message in (("a.pth", "did not write it"), ("a.safetensors", "not a readable"), ("a.txt", "ends in")):
        (tmp_path / name).write_bytes(b"no checkpoint")
        with pytest.raises(UsageError, match=message):
            adopt(tmp_path / name, tmp_path / "run")
    with pytest.raises(UsageError, match="no such file"):
        adopt(tmp_path / "none.pth", tmp_path / "run")


def test_what_hrfr_fast_has_written_needs_no_adoption(tmp_path):
    write_run(tmp_path / "own", BackboneSettings(32, 8, 16))
    with pytest.raises(
        UsageError, match="hrfr-fast has written it; evaluate, train --init and export take it as it is"
    ):
        adopt(tmp_path / "own/checkpoints/last.safetensors", tmp_path / "run")


def test_a_torchscript_archive_is_told_what_it_is(tmp_path, recwarn):
    """torch.load's own message advises to read it with weights_only=False."""
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "model.pt")
    recwarn.clear()
    with pytest.raises(UsageError, match=r"model.pt: a TorchScript archive.*torch.jit.load\('.*model.pt'\).state_dict"):
        adopt(tmp_path / "model.pt", tmp_path / "run")
    assert not len(recwarn)


def flipped(content, at, bit):
    return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


def entry(content, part):
    """Where the directory of a zip speaks of ``part``."""
    return content.rindex(b"PK\x01\x02", 0, content.rindex(part))


DAMAGED = {
    "a bit of a tensor": (lambda c: flipped(c, c.index(torch.arange(1.0, 7).numpy().tobytes()), 1), "data/0 does not"),
    "marked as a folder": (lambda c: flipped(c, entry(c, b"data/0") + 38, 0x10), "data/0 is marked as a folder"),
    "a later zip": (lambda c: flipped(c, entry(c, b"data/1") + 6, 0x80), "zip file version"),
}


@pytest.mark.parametrize("damage,message", DAMAGED.values(), ids=DAMAGED)
def test_one_flipped_bit_is_refused(damage, message, tmp_path):
    file = saved({"a": torch.arange(1.0, 7), "b": torch.zeros(2)}, tmp_path / "w.pth")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError, match=f"w.pth: it is damaged.*{message}.*Take another copy"):
        read_tensors(file)


def test_bits_of_the_directory_change_no_tensor(tmp_path):
    """Every 13th bit of a zip's directory, which no checksum covers: refused in words, or the same tensors."""
    tensors = {"a": torch.arange(1.0, 7), "b": torch.arange(3.0)}
    file, refused = saved(tensors, tmp_path / "w.pth"), 0
    content = file.read_bytes()
    for bit in range(8 * content.index(b"PK\x01\x02"), 8 * len(content), 13):
        file.write_bytes(flipped(content, bit // 8, 1 << bit % 8))
        try:
            found = read_tensors(file)
        except UsageError:
            refused += 1
        else:
            assert {name: found[name].tolist() for name in found} == {name: tensors[name].tolist() for name in tensors}
    assert refused > 50


def test_a_checkpoint_that_was_packed_anew_is_refused(tmp_path):
    """torch.load takes the compressed bytes, which it maps into memory, for the tensors."""
    tensors = {"a": torch.arange(1.0, 7), "b": torch.zeros(200)}
    with (
        zipfile.ZipFile(saved(tensors, tmp_path / "w.pth")) as file,
        zipfile.ZipFile(tmp_path / "z.pth", "w", zipfile.ZIP_DEFLATED) as anew,
    ):
        for part in file.infolist():
            anew.writestr(part.filename, file.read(part))
    with pytest.raises(UsageError, match="z.pth: .*not stored as it was written"):
        read_tensors(tmp_path / "z.pth")


def test_checkpoints_without_checksums_are_read(tmp_path):
    tensors = {"a": torch.arange(1.0, 7), "b": torch.zeros(2)}
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        saved(tensors, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("old.pth", "w.pth"):
        assert torch.equal(read_tensors(tmp_path / name)["a"], tensors["a"])


def test_a_run_is_not_overwritten(tmp_path):
    file = saved(public_state_dict("arcface_torch", "ir18"), tmp_path / "w.pth")
    adopt(file, tmp_path / "run")
    with pytest.raises(UsageError, match="holds a run already"):
        adopt(file, tmp_path / "run")


def test_colours_and_normalisation_become_part_of_the_network(tmp_path):
    file = saved(public_state_dict("face.evoLVe", "irse50"), tmp_path / "w.pth")
    adopt(file, tmp_path / "plain")
    adopt(file, tmp_path / "other", colours="bgr", normalisation="imagenet")
    plain, other = loaded(tmp_path / "plain")[0], loaded(tmp_path / "other")[0]
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalised = ((images + 1) / 2 - mean) / std
    with torch.inference_mode():
        torch.testing.assert_close(other(images), plain(normalised.flip(1)), rtol=0, atol=1e-5)
        assert not torch.allclose(other(images), plain(normalised), atol=1e-4)


def test_names_that_two_layouts_share_are_told(tmp_path):
    file = saved(public_state_dict("adaface", "ir18"), tmp_path / "w.pth")
    [note] = adopt(file, tmp_path / "run").notes
    assert note.startswith("cvlface has the same names but other colours than adaface (bgr)") and "--check" in note
    assert adopt(file, tmp_path / "chosen", colours="rgb").notes == ()


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """ir18 in its two variants, exported with BatchNorm folded where it follows a convolution; and the networks."""
    folder, made = tmp_path_factory.mktemp("graphs"), {}
    for layout in ("arcface_torch", "adaface"):
        found = translate(folder, public_state_dict(layout, "ir18"))
        network = build_backbone(found.settings).eval()
        network.load_state_dict(found.tensors)
        path = folder / f"{layout}.onnx"
        torch.onnx.export(network, (torch.zeros(1, 3, 32, 32),), str(path), dynamo=False, opset_version=13)
        made[layout] = path, network
    return made


@needs_onnx
@pytest.mark.parametrize("layout", ["arcface_torch", "adaface"])
def test_graphs_by_the_order_of_their_layers(graph, layout, tmp_path):
    path, network = graph[layout]
    adopted = adopt(path, tmp_path / "run")
    assert adopted.settings == network.settings and "--batchnorm frozen" in adopted.notes[0]
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(loaded(adopted.run)[0](images), network(images), rtol=1e-5, atol=1e-5)


@needs_onnx
def test_graphs_that_prepare_pixels_themselves(graph, tmp_path):
    """As MXNet's: (pixel - 127.5) * 0.0078125 before the first convolution."""
    import onnx
    from onnx import helper, numpy_helper

    path, network = graph["arcface_torch"]
    model = onnx.load(str(path))
    given = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["prepared" if name == given else name for name in node.input]
    for name, value in (("mean", 127.5), ("scale", 0.0078125)):
        model.graph.initializer.append(numpy_helper.from_array(torch.tensor(value).numpy(), name))
    model.graph.node.insert(0, helper.make_node("Sub", [given, "mean"], ["centred"]))
    model.graph.node.insert(1, helper.make_node("Mul", ["centred", "scale"], ["prepared"]))
    onnx.save(model, str(tmp_path / "pixels.onnx"))
    adopt(tmp_path / "pixels.onnx", tmp_path / "run")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        expected = network(images * 127.5 * 0.0078125)
        torch.testing.assert_close(loaded(tmp_path / "run")[0](images), expected, rtol=1e-5, atol=1e-5)


@needs_onnx
def test_graphs_of_other_networks_are_refused(tmp_path):
    other = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.PReLU(8), nn.Sigmoid(), nn.Flatten(), nn.Linear(8 * 256, 16))
    torch.onnx.export(other.eval(), (torch.zeros(1, 3, 16, 16),), str(tmp_path / "a.onnx"), dynamo=False)
    with pytest.raises(UsageError, match="it has a layer Sigmoid"):
        adopt(tmp_path / "a.onnx", tmp_path / "run")
    (tmp_path / "b.onnx").write_bytes(b"no graph")
    with pytest.raises(UsageError, match="not an ONNX file"):
        adopt(tmp_path / "b.onnx", tmp_path / "run")


@needs_onnx
@pytest.mark.parametrize("where", ["constant", "initializer", "list", "sparse"])
@pytest.mark.parametrize("location", ["weights", "/etc/passwd", "../weights", ""])
def test_graphs_read_no_other_file(tmp_path, monkeypatch, where, location):
    """Neither of the working directory, which the library takes for the graph's own, nor of anywhere else."""
    import onnx
    from onnx import TensorProto, helper

    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(b"mine")
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    node = helper.make_node("Constant", [], ["w"])
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("w", TensorProto.UINT8, [4])])
    if where == "initializer":
        graph.initializer.append(tensor)
    elif where == "sparse":
        graph.sparse_initializer.add().values.CopyFrom(tensor)
    else:
        attribute = graph.node[0].attribute.add(name="value")
        (attribute.tensors.add() if where == "list" else attribute.t).CopyFrom(tensor)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    monkeypatch.setattr(onnx.numpy_helper, "to_array", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(UsageError, match="it keeps its weights in other files"):
        read_onnx(tmp_path / "folder" / "a.onnx")


@needs_onnx
@pytest.mark.parametrize("domain", ["evil", "com.microsoft", ""])
def test_graphs_with_operators_of_somebody_are_refused(tmp_path, domain):
    from onnx import TensorProto, helper

    body = helper.make_node("Identity", ["a"], ["b"])
    function = helper.make_function(domain, "Conv", ["a"], ["b"], [body], [helper.make_opsetid("", 13)])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x"], ["y"], domain=domain)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    model = helper.make_model(graph, functions=[function])
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="it has operators of"):
        read_onnx(tmp_path / "a.onnx")
