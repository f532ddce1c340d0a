"""Contrast, BatchNorm by resolution and distillation in real runs: off they change no bit, on they train and resume."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stopped_runs import run

from hrfr_fast import regimes
from hrfr_fast.deployment.export import export
from hrfr_fast.deployment.records import record_pixels
from hrfr_fast.evaluation.embedder import open_embedder
from hrfr_fast.evaluation.embedding import embed
from hrfr_fast.evaluation.evaluate import evaluate, load_backbone
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model import checkpoint
from hrfr_fast.model.backbone import BackboneSettings
from hrfr_fast.model.domain_norm import HIGH, LOW, domains_of, in_domain
from hrfr_fast.model.lineage import trained_on
from hrfr_fast.regimes import REGIMES, REMEDIES, Regime, in_order
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.ranks import ALONE, Ranks
from hrfr_fast.sampling.augmentation import no_augmentation
from hrfr_fast.settings import DegradationSettings, TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.data_parallel import DataParallel
from hrfr_fast.training.references import EMPTY, dealt, in_order_of_age
from hrfr_fast.training.resuming import resumed_settings
from hrfr_fast.training.trainer import train
from hrfr_fast.training.two_views import with_domains

pytest.importorskip("safetensors.torch")


@pytest.fixture(scope="module", autouse=True)
def smaller():
    """The same regimes at 48 instead of 144 px."""
    with pytest.MonkeyPatch.context() as patch:
        for name, regime in REGIMES.items():
            patch.setitem(REGIMES, name, regime.replaced(input_size=min(regime.input_size, 48)))
        yield


@pytest.fixture(scope="module")
def settings(tiny_packed):
    return TrainSettings(
        regime="crossres144-views", data=str(tiny_packed), steps=3, batch_size=8, width=8, embedding_size=16,
        device="cpu", eval_every=0, log_every=1, learning_rate=0.05, highres_share=0.5, dropout=0.1, precision="fp32",
        contrast_queue=12,
    )  # fmt: skip


@pytest.fixture(scope="module")
def teacher(settings, tmp_path_factory):
    """A directory of runs with the teacher of remedy-distillation."""
    runs = tmp_path_factory.mktemp("runs")
    train(settings.replaced(regime="highres144", highres_share=-1.0, out=str(runs / "highres144")), show_progress=False)
    return runs


def weights(trainer):
    setup = trainer.setup
    return {**setup.backbone.state_dict(), **{f"head.{name}": value for name, value in setup.head.state_dict().items()}}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("regime", ["remedy-contrast", "remedy-distillation"])
def test_a_term_of_weight_0_leaves_every_bit_as_it_is(settings, tmp_path, regime):
    off = {"contrast": 0.0, "distillation": 0.0}
    views = run(settings.replaced(out=str(tmp_path / "views")))
    without = run(settings.replaced(out=str(tmp_path / "off"), regime=regime, **off))
    assert without.setup.objective is without.setup.head and without.setup.references is None
    assert without.setup.teacher is None and equal(weights(views), weights(without))


def test_the_networks_to_compare_with_draw_nothing_and_move_nothing(settings, tmp_path):
    """With a weight that rounds away the run is the one without: dropout, statistics and order are untouched."""
    views = run(settings.replaced(out=str(tmp_path / "views")))
    faint = run(settings.replaced(out=str(tmp_path / "faint"), regime="remedy-contrast", contrast=1e-30))
    assert faint.state.references.copy is not None and equal(weights(views), weights(faint))


@pytest.mark.parametrize("head", ["arcface", "adaface"])
@pytest.mark.parametrize("regime", [remedy.name for remedy in REMEDIES])
def test_a_remedy_resumes_with_the_same_bits(settings, teacher, tmp_path, regime, head):
    changes = {"regime": regime, "teacher": str(teacher / "highres144"), "head": head}
    whole = run(settings.replaced(out=str(tmp_path / "whole"), **changes))
    out = settings.replaced(out=str(tmp_path / "halves"), **changes)
    run(out, stop_after=2)
    halves = run(out, resume=True)
    assert equal(weights(whole), weights(halves))
    assert whole.setup.regime == REGIMES[regime] == regimes.load_regime(tmp_path / "whole" / "regime.toml")
    first, second = (trainer.state.references for trainer in (whole, halves))
    if regime == "remedy-contrast":
        assert equal(first.state(DataParallel()), second.state(DataParallel()))
        labels = first.copy.queue_labels  # 4 native and 2 sharp rows a step: the newest 12 of 18
        assert (labels >= 0).all() and not torch.equal(labels, torch.full_like(labels, labels[0].item()))
        torch.testing.assert_close(first.copy.queue.norm(dim=1), torch.ones(12))


def test_queues_of_all_ranks_are_dealt_out_again():
    """As many ranks get what each had, fewer the newest of all, and more a part of it behind places that are empty."""
    queues = torch.arange(8).view(2, 4)  # rank 0: 0 to 3, the newest last; rank 1: 4 to 7
    rows = in_order_of_age(queues)
    empty = torch.full((4,), EMPTY)
    of = {n: [dealt(rows, Ranks(rank, n, rank, n), empty).tolist() for rank in range(n)] for n in (1, 2, 4)}
    assert of == {
        1: [[2, 6, 3, 7]],
        2: [[0, 1, 2, 3], [4, 5, 6, 7]],
        4: [[-1, -1, 0, 2], [-1, -1, 4, 6], [-1, -1, 1, 3], [-1, -1, 5, 7]],
    }
    assert dealt(rows, Ranks(0, 1, 0, 1), empty[:0]).tolist() == []


def test_each_term_stands_in_the_log(settings, teacher, tmp_path):
    """The loss of every line is the margin loss and the terms with their weights."""
    out = settings.replaced(
        out=str(tmp_path / "run"), regime="remedy-distillation", teacher=str(teacher / "highres144"), contrast=0.2,
        consistency=0.5, distillation=0.7, accumulate=2,
    )  # fmt: skip
    result = train(out, show_progress=False)
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    factors = {"margin": 1.0, "consistency": 0.5, "contrast": 0.2, "distillation": 0.7, "relations": 2.8}
    for line in trained:
        assert line["loss"] == pytest.approx(sum(factors[name] * line[f"loss_{name}"] for name in factors), rel=1e-5)
    assert len(trained) == 3 and "contrast" in (result.run / "report" / "report.html").read_text()


def test_the_teacher_is_known_by_its_digest_and_its_people_count_as_seen(settings, teacher, tmp_path):
    trainer = run(settings.replaced(regime="remedy-distillation", out=str(teacher / "student")))
    setup = trainer.setup
    vectors = checkpoint.load_tensor(setup.teacher.weights, "head.weight")
    fresh = build(settings.replaced(regime="remedy-distillation", out=str(teacher / "other"))).head.weight
    first = setup.stream.splits[0].identities
    cosine = torch.nn.functional.cosine_similarity(fresh[first:], vectors)
    assert len(vectors) == setup.stream.splits[1].identities and cosine.min() > 1 - 1e-6
    metadata = checkpoint.read_metadata(setup.checkpoint("last.safetensors"))
    assert metadata["teacher"]["regime"] == "highres144" and {"lowres", "highres"} == set(trained_on(metadata))
    assert in_order(["remedy-distillation"]) == ["highres144", "remedy-distillation"]
    other = settings.replaced(regime="remedy-distillation", out=str(teacher / "student"))
    moved = teacher / "moved"
    (teacher / "highres144").rename(moved)
    try:
        with pytest.raises(UsageError, match="the teacher was not found"):
            resumed_settings(other)
        with pytest.raises(UsageError, match="learns from highres144"):
            build(settings.replaced(regime="remedy-distillation", out=str(teacher / "third")))
        assert resumed_settings(other.replaced(teacher=str(moved))).loss.teacher == str(moved)
    finally:
        moved.rename(teacher / "highres144")


def test_what_does_not_fit_is_refused_in_words(settings, teacher, tmp_path):
    distilled = settings.replaced(
        regime="remedy-distillation", teacher=str(teacher / "highres144"), out=str(tmp_path / "run")
    )
    with pytest.raises(UsageError, match="--embedding-size 16"):
        build(distilled.replaced(embedding_size=32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGIMES, "remedy-distillation", REGIMES["remedy-distillation"].replaced(input_size=32))
        with pytest.raises(UsageError, match="takes 48 px .* 32 px; .*input_size = 48"):
            build(distilled)
    with pytest.raises(UsageError, match="contrast is 0.1; regime highlow144 has no second view"):
        build(settings.replaced(regime="highlow144", contrast=0.1))
    with pytest.raises(UsageError, match="has no teacher"):
        build(settings.replaced(regime="crossres144", distillation=1.0))
    with pytest.raises(UsageError, match="two faces of high resolution"):
        build(settings.replaced(regime="remedy-norm", accumulate=2, out=str(tmp_path / "run")))
    for fields, words in (
        ({"contrast": 0.1}, "contrast needs second_view"), ({"domain_norm": "separate"}, "needs second_view"),
        ({"teacher": "highres144"}, "teacher needs second_view"),
        ({"second_view": True, "distillation": 1.0}, "distillation needs a teacher"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            Regime(name="wrong", sources=("lowres", "highres"), input_size=48, **fields)


def test_two_resolutions_of_one_size_cannot_be_told_apart(settings):
    same = (SimpleNamespace(size=144),) * 2
    with pytest.raises(UsageError, match="lowres is packed at 144 px, highres at 144: pack lowres smaller"):
        with_domains(BackboneSettings(48, 8, 16), REGIMES["remedy-norm"], same, [], settings, ALONE)


@pytest.mark.parametrize("side_max,limit", [(0.5, 72), (0.8, 115), (1.0, 143)])
def test_what_trains_as_low_resolution_counts_as_such_by_its_size(settings, side_max, limit):
    """Above the geometric mean of 36 and 144 px, too, but for sharp faces' own size."""
    sizes, shape = (SimpleNamespace(size=36), SimpleNamespace(size=144)), BackboneSettings(48, 8, 16)
    regime = REGIMES["remedy-norm"].replaced(degradation="native")
    native = settings.replaced(degradation=DegradationSettings(side_max=side_max))
    assert with_domains(shape, regime, sizes, [], native, ALONE).domain_limit == limit


@pytest.fixture(scope="module")
def normalised(settings, tmp_path_factory):
    """A finished run with BatchNorm by resolution."""
    out = tmp_path_factory.mktemp("norm") / "remedy-norm"
    return train(settings.replaced(regime="remedy-norm", out=str(out), steps=12), show_progress=False)


def test_faces_are_embedded_by_their_recorded_resolution(normalised, tiny_packed):
    """Views of 36 px and native low resolution take the low statistics, sharp ones the high; a swap is another one."""
    compute = choose_compute("cpu", "fp32")
    backbone, metadata = load_backbone(normalised.run / "checkpoints" / "last.safetensors", compute)
    assert metadata["backbone"]["domain_norm"] == "statistics" and metadata["backbone"]["domain_limit"] == 72
    norm = next(part for part in backbone.modules() if hasattr(part, "high_mean"))
    assert not torch.equal(norm.running_mean, norm.high_mean)
    faces = open_packed(tiny_packed).splits["highres_eval"]
    seen = {}
    for name, more in (("sharp", {}), ("degraded", {"degrade": 36}), ("swapped", {"swap_domain": True})):
        seen[name] = embed(backbone, faces, 48, compute, records=np.arange(4), **more)
    embedder = open_embedder(normalised.run, device="cpu", precision="fp32")
    pixels = record_pixels(faces, np.arange(4), 48)
    np.testing.assert_allclose(embedder.embed(pixels, [144] * 4), seen["sharp"], atol=1e-5)
    np.testing.assert_allclose(embedder.embed(pixels, [36] * 4), seen["swapped"], atol=1e-5)
    mixed = embedder.embed(pixels, [36, 144, 36, 144])
    np.testing.assert_allclose(mixed, np.where([[1], [0], [1], [0]], seen["swapped"], seen["sharp"]), atol=1e-5)
    assert np.abs(seen["sharp"] - seen["swapped"]).max() > 1e-3
    drawn = no_augmentation(4, degrade=36)  # as match-degradation shows sharp faces
    drawn_views = embed(backbone, faces, 48, compute, records=np.arange(4), augmentation=drawn)
    np.testing.assert_array_equal(drawn_views, seen["degraded"])
    drawn.degrade[0] = 0
    with pytest.raises(ValueError, match="some of these pictures are degraded"):
        embed(backbone, faces, 48, compute, records=np.arange(4), augmentation=drawn)
    with in_domain(backbone, LOW):
        assert domains_of(backbone).of_all == LOW
    assert domains_of(backbone).of_all == ""


def test_training_rows_are_told_apart_as_the_stream_composes_them(settings, tmp_path):
    """Every micro-batch: as many native rows in front as the network was told, then sharp and degraded of one face."""
    setup = build(settings.replaced(regime="remedy-norm", batch_size=16, accumulate=2, out=str(tmp_path / "run")))
    domains, spec = domains_of(setup.backbone), setup.stream.batch_spec(16)
    assert (domains.native, domains.pairs, domains.of_all) == (4, 2, "")
    for labels in spec.labels.reshape(2, 8):
        high = labels >= setup.stream.splits[0].identities
        assert high.tolist() == [False] * 4 + [True] * 4 and (labels[4::2] == labels[5::2]).all()


def test_the_price_of_a_wrong_flag_is_reported(normalised):
    for result in evaluate(normalised.run, device="cpu").values():
        found = result.to_json()
        assert 0 <= found["accuracy_swapped"] <= 1 and any("statistics swapped" in note for note in found["notes"])
    known = json.loads((normalised.run / "results.json").read_text())
    assert all("accuracy_swapped" in entry for entry in known.values())


def test_an_exported_file_holds_one_domain(normalised, tmp_path):
    with pytest.raises(UsageError, match="--domain low and once with --domain high"):
        export(normalised.run, tmp_path / "model.safetensors", format="safetensors")
    results = [
        export(normalised.run, tmp_path / f"{domain}.safetensors", format="safetensors", domain=domain)
        for domain in (LOW, HIGH)
    ]
    assert min(result.least_cosine for result in results) > 0.9999
    low, high = (checkpoint.load_tensor(result.out, "stem.1.running_mean") for result in results)
    whole = normalised.run / "checkpoints" / "last.safetensors"
    assert torch.equal(low, checkpoint.load_tensor(whole, "backbone.stem.1.running_mean"))
    assert torch.equal(high, checkpoint.load_tensor(whole, "backbone.stem.1.high_mean"))
    with pytest.raises(UsageError, match="give low or high"):
        export(normalised.run, tmp_path / "model.safetensors", format="safetensors", domain="middle")


def test_an_onnx_file_gives_the_embeddings_of_its_resolution_and_says_which_it_is(normalised, tiny_packed, tmp_path):
    """Two files, one of each; a file of both is refused, for a graph does not see how large a face was."""
    pytest.importorskip("onnxruntime")
    from hrfr_fast.evaluation.onnx_embedder import OnnxEmbedder

    with pytest.raises(UsageError, match="--domain low and once with --domain high"):
        export(normalised.run, tmp_path / "model.onnx", show_progress=False)
    assert not (tmp_path / "model.onnx").exists()
    own = open_embedder(normalised.run, device="cpu", precision="fp32")
    pixels = record_pixels(open_packed(tiny_packed).splits["highres_eval"], np.arange(4), 48)
    found = {}
    for domain, side, words in ((LOW, 36, "at most 72 px"), (HIGH, 144, "more than 72 px")):
        result = export(normalised.run, tmp_path / f"{domain}.onnx", domain=domain, show_progress=False)
        assert f"for pictures of {words} alone" in result.lines()
        exported = OnnxEmbedder(tmp_path / f"{domain}.onnx")
        assert (exported.description.domain, exported.description.domain_limit) == (domain, 72)
        found[domain] = exported.embed(pixels)
        np.testing.assert_allclose(found[domain], own.embed(pixels, [side] * 4), atol=2e-5)
    assert np.abs(found[LOW] - found[HIGH]).max() > 1e-3
    for domain, split in ((LOW, "lowres of"), (HIGH, "highres of")):
        small = export(
            normalised.run, tmp_path / f"{domain}-int8.onnx", domain=domain, precision="int8", show_progress=False
        )
        assert any(f"faces ({split}" in note for note in small.notes), "calibrated with faces of its resolution alone"
        assert bool(small.cost) == (domain == HIGH)


CHILD = Regime(
    name="remedy-child", sources=("lowres", "highres"), input_size=48, parents=("crossres144-views",), second_view=True,
    highres_share=0.2, contrast=0.2, domain_norm="statistics", teacher="highres144", distillation=1.0, tune="lora",
    budget="lowres",
)  # fmt: skip


def test_adapters_and_all_remedies_at_once(settings, teacher):
    """A fine-tuned run with low-rank adapters and AdaFace takes every remedy on top, and resumes with the same bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGIMES, "remedy-child", CHILD)
        run(settings.replaced(out=str(teacher / "crossres144-views")))
        tuned = settings.replaced(regime="remedy-child", head="adaface", lora_rank=2)
        whole = run(tuned.replaced(out=str(teacher / "remedy-child")))
        halves = tuned.replaced(out=str(teacher / "remedy-child-halves"))
        run(halves, stop_after=2)
        assert equal(weights(whole), weights(run(halves, resume=True)))
        assert set(whole.setup.objective.names) == {"margin", "contrast", "distillation", "relations"}
        assert in_order(["remedy-child"]) == ["crossres144-views", "highres144", "remedy-child"]
