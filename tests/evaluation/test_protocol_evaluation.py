"""From a protocol's pictures to its measures: framing, the crop rule, intervals, caveats and the comparison of two."""

import json
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from hrfr_fast.evaluation.bootstrap import accuracy_interval, resampled_means
from hrfr_fast.evaluation.embedder import open_embedder
from hrfr_fast.evaluation.onnx_embedder import OnnxFlags
from hrfr_fast.evaluation.protocols.compare import compare_models
from hrfr_fast.evaluation.protocols.cropping import choose_crop, crop_note, described_template
from hrfr_fast.evaluation.protocols.embedding import Crop, embed_pictures, framed
from hrfr_fast.evaluation.protocols.evaluate import evaluate_protocol, evaluate_set
from hrfr_fast.evaluation.protocols.form import Pictures, PicturesInMemory, TestSet, VerificationPairs
from hrfr_fast.evaluation.published_folds import contiguous_folds
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.checkpoint import save_weights
from hrfr_fast.model.lineage import data_record
from hrfr_fast.runtime.errors import HrfrError, Interrupted, UsageError
from tests.picture_trees import jpeg, picture
from tests.reference import matrix, separable


class MeanColour:
    """An embedder whose embeddings are known: the mean colour of a picture, as a unit vector."""

    name, size, dimension = "mean colour", 8, 3

    def embed(self, images):
        means = images.reshape(len(images), -1, 3).mean(axis=1).astype(np.float32)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def describe(self):
        return {"kind": "test"}


def run_on(packed, out, seed, splits=("lowres",)):
    """A checkpoint of an untrained network that says it was trained on ``splits`` of ``packed``."""
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneSettings(input_size=32, width=8, embedding_size=16)).eval()
    shape = {"input_size": 32, "width": 8, "embedding_size": 16, "dropout": 0.0}
    metadata = {"backbone": shape, "data": data_record(open_packed(packed), splits, out), "regime": "lowres32"}
    (out / "checkpoints").mkdir(parents=True)
    save_weights(out / "checkpoints" / "last.safetensors", backbone, torch.nn.Identity(), metadata)
    return out


def people(groups, each, noise):
    """Encoded pictures of one colour, more or less: ``each`` of every person, with their subjects."""
    rng = np.random.default_rng(0)
    encoded, subjects = [], []
    for person in range(groups):
        colour = rng.integers(30, 220, 3)
        for _ in range(each):
            shade = np.clip(colour + rng.normal(0, noise, 3), 0, 255).astype(np.uint8)
            encoded.append(jpeg(np.broadcast_to(shade, (16, 16, 3)).copy()))
            subjects.append(person)
    return encoded, np.array(subjects)


@pytest.fixture(scope="module")
def two_groups():
    """240 pairs of 40 people, in two groups; group "a" are the first 20."""
    encoded, subjects = people(40, 3, noise=25)
    rng = np.random.default_rng(1)
    first, second, groups = [], [], []
    for group in range(2):
        members = np.flatnonzero(subjects // 20 == group)
        for _ in range(60):
            person = rng.integers(20) + 20 * group
            first += [3 * person, rng.choice(members)]
            second += [3 * person + 1 + rng.integers(2), rng.choice(members)]
            groups += [group, group]
    first, second, groups = np.array(first), np.array(second), np.array(groups)
    same = subjects[first] == subjects[second]
    pairs = VerificationPairs(first, second, same, np.tile(contiguous_folds(120), 2), groups, ("a", "b"))
    return TestSet("colours", None, Pictures(PicturesInMemory("memory", encoded), subjects), (pairs,))


def test_measures_of_each_group_and_their_spread(two_groups):
    """Every number against a few lines on the same embeddings."""
    result = evaluate_set(MeanColour(), two_groups, None, resamples=200, show_progress=False)
    embeddings = embed_pictures(MeanColour(), two_groups.pictures, show_progress=False).astype(np.float64)
    plain = evaluate_set(MeanColour(), two_groups, None, resamples=0, show_progress=False)
    for part, without in zip(result.parts, plain.parts, strict=True):
        assert [(one.name, one.value, None) for one in part.measures] == [
            (one.name, one.value, one.interval) for one in without.measures
        ]
    (pairs,) = two_groups.verification
    drawn, shares = [], []
    for number, part in enumerate(result.parts[:2]):
        chosen = pairs.groups == number
        same, first, second = pairs.same[chosen], pairs.first[chosen], pairs.second[chosen]
        cosine = (embeddings[first] * embeddings[second]).sum(axis=1)
        people = len(np.unique(two_groups.pictures.subjects[[*first, *second]]))
        assert part.part == "ab"[number]
        assert part.counts == {"pairs": 120, "genuine": int(same.sum()), "people": people}
        published, exact, ours = (one for one in part.measures if one.name == "accuracy")
        thresholds = np.arange(0, 4, 0.01)
        folds = []
        for fold in range(10):
            held_out = pairs.folds[chosen] == fold
            right = [((2 - 2 * cosine[~held_out] < t) == same[~held_out]).sum() for t in thresholds]
            folds.append(((2 - 2 * cosine[held_out] < thresholds[np.argmax(right)]) == same[held_out]).mean())
        assert published.value == pytest.approx(np.mean(folds)) and published.deviation == pytest.approx(np.std(folds))
        assert (
            "grid" in published.method
            and exact.method == "list's folds, exact"
            and abs(exact.value - published.value) < 0.1
        )
        correct = part.decisions.correct
        assert ours.value == correct.mean()
        assert ours.interval == accuracy_interval(correct.astype(float), same, part.decisions.identities, resamples=200)
        above = cosine[same][:, None] > cosine[~same]
        ties = cosine[same][:, None] == cosine[~same]
        assert part.measure("AUC").value == pytest.approx((above + ties / 2).mean(), abs=1e-4)
        for name in ("AUC", "EER", "TAR@FAR 0.1"):
            low, high = part.measure(name).interval
            assert low <= part.measure(name).value <= high and low < high
        shares.append(correct.mean())
        drawn.append(
            resampled_means(correct.astype(float), same, part.decisions.identities, resamples=200, seed=number)
        )
    largest, deviation = result.parts[2].measures
    assert largest.value == pytest.approx(abs(shares[0] - shares[1])) and deviation.value == pytest.approx(
        np.std(shares)
    )
    assert largest.interval == pytest.approx(np.quantile(np.abs(drawn[0] - drawn[1]), [0.025, 0.975]))
    assert result.parts[2].part == "between groups" and result.parts[2].decisions is None
    assert result.pictures == {"16x16": 120}


def test_without_subjects_the_interval_says_that_pairs_were_drawn(two_groups):
    unknown = replace(two_groups, pictures=replace(two_groups.pictures, subjects=None))
    part = evaluate_set(MeanColour(), unknown, None, resamples=50, show_progress=False).parts[0]
    assert part.interval_level == "pair" and any("no identities known" in text for text in part.warnings)


@pytest.mark.parametrize(
    "shape, crop, not_square, box",
    [
        ((20, 20), None, "stretch", (0, 0, 20, 20)),
        ((20, 20), Crop(20, (2.5, 1, 17.5, 16)), "stretch", (2.5, 1, 17.5, 16)),
        ((20, 20), Crop(20, (-2, -3, 19, 18)), "stretch", (-2, -3, 19, 18)),
        ((22, 22), Crop(20, (2.5, 1, 17.5, 16)), "stretch", (0, 0, 22, 22)),
        ((26, 14), None, "stretch", (0, 0, 14, 26)),
        ((14, 26), None, "stretch", (0, 0, 26, 14)),
        ((13, 26), None, "centre", (6.5, 0, 19.5, 13)),
        ((26, 13), Crop(26, (1, 1, 20, 20)), "centre", (0, 6.5, 13, 19.5)),
    ],
)
def test_a_picture_is_framed_by_the_one_definition_of_resampling(shape, crop, not_square, box):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    (height, width), (x0, y0, x1, y1) = shape, box
    axes = matrix(y0 / height, y1 / height, height, 16), matrix(x0 / width, x1 / width, width, 16)
    expected = np.clip(separable(image.astype(np.float64), *axes), 0, 255)
    assert np.abs(framed(image, 16, crop, not_square) - expected).max() < 1.5


@pytest.mark.parametrize(
    "choice, splits, crops, why",
    [
        ("auto", ["lowres"], True, "trained on lowres, whose eyes"),
        ("auto", ["highres", "lowres"], True, "trained on highres and lowres"),
        ("auto", ["faces"], False, "trained on faces, pictures as they are published"),
        ("auto", ["faces", "lowres"], False, "as they are published"),
        ("auto", None, False, "nothing is known"),
        ("auto", ["data"], False, "nothing is known"),
        ("template", ["faces"], True, "as --crop template says"),
        ("none", ["lowres"], False, "as --crop none says"),
    ],
)
def test_the_model_s_training_pictures_decide_about_the_crop(choice, splits, crops, why):
    crop, text = choose_crop(choice, {"trained_on": splits})
    assert (crop is not None) == crops and why in text
    if crop is not None:
        x0, y0, x1, y1 = crop.box
        left, right = (38.2946, 51.6963), (73.5318, 51.5014)  # the eyes of the template
        apart = float(np.hypot(right[0] - left[0], right[1] - left[1]))
        assert apart / (x1 - x0) == pytest.approx(1 / 3) == apart / (y1 - y0)
        assert crop.side == 112 and min(x0, y0) >= 0 and max(x1, y1) <= 112
        assert crop_note(crop, {"112x112": 3}) == "" and "5 of 8" in crop_note(crop, {"112x112": 3, "96x112": 5})


@pytest.mark.parametrize(
    "trained, shown, crops", [("hrfr", "", True), ("arcface", "", False), ("hrfr", "hrfr", False), ("", "hrfr", False)]
)
def test_recorded_templates_win_over_the_splits(trained, shown, crops):
    for splits in (["faces"], ["lowres"]):
        assert (choose_crop("auto", {"trained_on": splits}, trained, shown)[0] is not None) == crops


@pytest.mark.parametrize(
    "alignment, template",
    [("hrfr, aligned by mtcnn 1.0", "hrfr"), ("arcface", "arcface"), ("unknown", ""), ("", ""), ("somebody's", "")],
)
def test_an_exported_model_is_cropped_for_as_its_run_is(alignment, template):
    assert described_template({"alignment": alignment, "trained_on": ["faces"]}) == template


def test_an_unknown_crop_is_refused():
    with pytest.raises(UsageError, match="auto, template, none"):
        choose_crop("eyes", {})


@pytest.mark.parametrize("damage", [b"", b"GIF89a", None])
def test_a_picture_that_does_not_decode_is_named(damage):
    good = jpeg(picture(0, 16))
    source = PicturesInMemory("lfw.bin", [good] * 5 + [good[:-40] if damage is None else damage])
    with pytest.raises(HrfrError, match=r"lfw.bin, picture 5: .*another test"):
        embed_pictures(MeanColour(), Pictures(source), show_progress=False)


def test_ctrl_c_ends_between_two_batches(monkeypatch):
    import os
    import signal

    class Stopped(MeanColour):
        def embed(self, images):
            os.kill(os.getpid(), signal.SIGINT)
            return super().embed(images)

    source = PicturesInMemory("lfw.bin", [jpeg(picture(0, 16))] * 300)
    with pytest.raises(Interrupted, match="stopped after 128 of 300 faces"):
        embed_pictures(Stopped(), Pictures(source), show_progress=False)


def test_pictures_of_a_set_are_prepared_and_counted():
    encoded = [jpeg(picture(seed, side)) for seed, side in enumerate((16, 24, 24))]
    sizes = Counter()
    pictures = Pictures(PicturesInMemory("a", encoded), prepare=lambda number, image: image[: 16 + number])
    embed_pictures(MeanColour(), pictures, show_progress=False, sizes=sizes)
    assert sizes == {"16x16": 1, "24x17": 1, "24x18": 1}


@pytest.fixture(scope="module")
def two_runs(tiny_packed, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return run_on(tiny_packed, root / "first", 0), run_on(tiny_packed, root / "second", 1)


@pytest.fixture(scope="module")
def bin_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("bins") / "tiny.bin"
    encoded = [jpeg(picture(number // 2, 112)) for number in range(80)]
    encoded[1::4] = encoded[3::4]
    path.write_bytes(pickle.dumps((encoded, [number % 2 == 0 for number in range(40)]), 2))
    return path


def test_a_run_is_judged_by_the_command(two_runs, bin_file, capsys):
    from hrfr_fast.cli import app

    run, _ = two_runs
    for more in (["--json"], []):
        with pytest.raises(SystemExit) as ended:
            app(["evaluate", str(run), "--protocol", "bin", str(bin_file), "--device", "cpu", *more])
        assert ended.value.code == 0
        if more:
            values = json.loads(capsys.readouterr().out)
    printed = capsys.readouterr().out
    result = evaluate_protocol(run, bin_file, device="cpu", show_progress=False)
    assert values == json.loads(json.dumps(result.to_json()))
    part = result.sets["tiny"].parts[0]
    assert values["model"]["digest"] and values["model"]["normalisation"] and values["protocol"] == "bin"
    assert f"{part.measures[0].value:.2%}" in printed and "cropped to 105.7 px" in printed
    assert "no identities known" in printed and "its training pictures have another size (36 px)" in printed


def test_a_run_embeds_as_evaluation_of_packed_pairs_does(two_runs, tiny_packed):
    from hrfr_fast.evaluation.embedding import embed
    from hrfr_fast.evaluation.evaluate import load_backbone
    from hrfr_fast.runtime.device import choose_compute

    split = open_packed(tiny_packed).splits["highres_eval"]
    embedder = open_embedder(two_runs[0], device="cpu", precision="fp32")
    images = np.stack([framed(image, 32, None, "stretch") for image in split.read(np.arange(6))])
    compute = choose_compute("cpu", "fp32")
    backbone, _ = load_backbone(two_runs[0] / "checkpoints" / "last.safetensors", compute)
    expected = embed(backbone, split, 32, compute, records=np.arange(6))
    assert np.allclose(embedder.embed(images), expected, atol=1e-5)
    assert (embedder.name, embedder.size, embedder.dimension) == ("first", 32, 16)


def test_two_models_are_compared_decision_by_decision(two_runs, bin_file):
    comparison = compare_models(*two_runs, bin_file, device="cpu", resamples=200, show_progress=False)
    (one,) = comparison.contrasts
    a, b = (result.sets["tiny"].parts[0].decisions.correct for result in (comparison.a, comparison.b))
    assert one.contrast.difference == pytest.approx(a.mean() - b.mean()) and one.measure == "accuracy"
    low, high = one.contrast.interval
    assert low <= one.contrast.difference <= high and one.contrast.level == "pair"
    assert one.mcnemar[:2] == ((a & ~b).sum(), (b & ~a).sum())
    assert {one.contrast.a, one.contrast.b} == {"first", "second"} and "these two checkpoints" in one.contrast.sentence
    values = json.loads(json.dumps(comparison.to_json()))
    assert values["contrasts"][0]["difference"] == one.contrast.difference and values["a"]["model"]["name"] == "first"
    with pytest.raises(UsageError, match="given twice"):
        compare_models(two_runs[0], two_runs[0], bin_file)
    with pytest.raises(UsageError, match="asked of ONNX files"):
        compare_models(*two_runs, bin_file, flags=OnnxFlags(colour_order="bgr"))


def test_pictures_that_were_trained_on_are_counted(tiny_packed, tmp_path):
    """Of a .bin of 36-px pictures half are those of lowres, in a lossless format."""
    import cv2

    run = run_on(tiny_packed, tmp_path / "run", 0)
    known = open_packed(tiny_packed).splits["lowres"].read(np.arange(20))
    faces = [*known, *(picture(900 + number, 36) for number in range(20))]
    encoded = [cv2.imencode(".png", face[..., ::-1])[1].tobytes() for face in faces] * 2
    path = tmp_path / "some.bin"
    path.write_bytes(pickle.dumps((encoded, [True, False] * 20), 4))
    result = evaluate_protocol(run, path, device="cpu", resamples=20, show_progress=False)
    assert any(
        "20 pictures of 40 are among those it was trained on (lowres)" in one for one in result.sets["some"].notes
    )


def test_options_of_the_other_kind_of_evaluation_are_refused(two_runs, bin_file):
    from hrfr_fast.cli.judging import evaluate

    with pytest.raises(UsageError, match="give the folder of the protocol"):
        evaluate(two_runs[0], protocol="lfw")
    with pytest.raises(UsageError, match="for pair sets, not for a protocol's folder"):
        evaluate(two_runs[0], bin_file, view="lr36")
