"""Every regime trains and resumes; what is frozen stays, to the bit; fused and paired models are verified."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stopped_runs import StopAfter, run
from torch import nn

from hrfr_fast import regimes
from hrfr_fast.evaluation.evaluate import evaluate, load_backbone
from hrfr_fast.model.checkpoint import read_metadata
from hrfr_fast.model.fused import Fused
from hrfr_fast.regimes import REGIMES, TABLE, Phase, in_order
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import Execution, build
from hrfr_fast.training.metrics import read_metrics
from hrfr_fast.training.phases import batchnorms
from hrfr_fast.training.plateau import Plateau
from hrfr_fast.training.trainer import Trainer, train

load_file = pytest.importorskip("safetensors.torch").load_file

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module", autouse=True)
def smaller():
    """The same regimes at 48 instead of 144 px: a ninth of the work, through the same code."""
    with pytest.MonkeyPatch.context() as patch:
        for name, regime in REGIMES.items():
            patch.setitem(REGIMES, name, regime.replaced(input_size=min(regime.input_size, 48)))
        yield


@pytest.fixture(scope="module")
def settings(tiny_packed):
    return TrainSettings(
        regime="lowres32", data=str(tiny_packed), steps=3, batch_size=8, width=8, embedding_size=16,
        device="cpu", eval_every=0, log_every=2, learning_rate=0.05, highres_share=0.5, dropout=0.1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def parents(settings, tmp_path_factory):
    """A directory of runs with the three regimes that others start from; lowres32 has a width and size of its own."""
    runs = tmp_path_factory.mktemp("runs")
    for regime in ("lowres32", "lowres144", "highres144"):
        shape = {"width": 16, "embedding_size": 24} if regime == "lowres32" else {}
        run(settings.replaced(regime=regime, out=str(runs / regime), **shape))
    return runs


@pytest.fixture
def runs(parents, tmp_path):
    """The parents, and room for the runs of one test beside them."""
    for parent in parents.iterdir():
        (tmp_path / parent.name).symlink_to(parent)
    return tmp_path


def weights(directory, prefix=""):
    tensors = load_file(Path(directory) / "checkpoints" / "last.safetensors")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("backbone", ["ir18", "vit-s"])
def test_other_networks_resume_in_the_same_bits_and_are_fine_tuned_and_fused(settings, tmp_path, backbone):
    """With stochastic depth, an average and layer-wise decay, whose random numbers and tensors a checkpoint holds."""
    more = {"backbone": backbone, "drop_path": 0.5, "ema": 0.8, "layer_decay": 0.9, "optimizer": "adamw"}
    settings = settings.replaced(steps=4, weight_decay=0.1, learning_rate=0.01, **more)
    for regime in ("lowres32", "lowres144"):
        run(settings.replaced(regime=regime, out=str(tmp_path / regime)))
    parts = settings.replaced(out=str(tmp_path / "parts"))
    run(parts, stop_after=2)
    trainer = run(TrainSettings(out=parts.out, device="cpu"), resume=True)
    one, other = weights(tmp_path / "lowres32"), weights(parts.out)
    assert one.keys() == other.keys() and not moved(one, other)
    average, trained = trainer.state.average.backbone.state_dict(), trainer.setup.backbone.state_dict()
    assert not moved(average, weights(parts.out, "backbone.")) and moved(average, trained), (
        "the average is what is kept"
    )
    metadata = read_metadata(tmp_path / "parts" / "checkpoints" / "last.safetensors")
    assert metadata["ema"] == 0.8 and metadata["backbone"]["name"] == backbone

    plain = {"ema": 0.0, "drop_path": -1.0, "layer_decay": 1.0, "optimizer": "auto", "learning_rate": 0.0}
    start = settings.replaced(**plain | {"weight_decay": -1.0, "backbone": "irse18"})
    for regime in ("lowres144-finetuned", "fused-output"):
        trainer = run(start.replaced(regime=regime, out=str(tmp_path / regime)))
        optimizer = "adamw" if backbone == "vit-s" else "sgd"
        assert trainer.setup.settings.optimizer.optimizer == optimizer, "of the parents' network"
        assert trainer.setup.settings.model.drop_path == (0.05 if backbone == "vit-s" and "tuned" in regime else 0)
    before, after = weights(tmp_path / "lowres32", "backbone."), weights(tmp_path / "fused-output", "backbone.small.")
    assert moved(before, after) and all(name.startswith("output.") for name in moved(before, after))


@pytest.mark.parametrize("regime", [one.name for one in TABLE if one.name not in ("lowres32", "lowres144")])
def test_a_resumed_run_of_every_regime_ends_in_the_same_bits(settings, runs, regime):
    whole, parts = (settings.replaced(regime=regime, out=str(runs / name)) for name in ("whole", "parts"))
    run(whole)
    run(parts, stop_after=1)  # with two phases of three steps: exactly between them
    run(TrainSettings(out=parts.out, device="cpu"), resume=True)
    one, other = weights(whole.out), weights(parts.out)
    assert one.keys() == other.keys() and not moved(one, other)
    assert regimes.load_regime(runs / "whole" / "regime.toml") == REGIMES[regime]


def test_finetuning_keeps_statistics_and_moves_every_layer(settings, runs):
    run(settings.replaced(regime="lowres144-finetuned", out=str(runs / "child")))
    before, after = weights(runs / "lowres144", "backbone."), weights(runs / "child", "backbone.")
    statistics = {name for name in before if name.endswith(STATISTICS)}
    assert moved(before, after) == before.keys() - statistics
    run(settings.replaced(regime="lowres144-finetuned", out=str(runs / "free"), batchnorm="moving"))
    assert moved(before, weights(runs / "free", "backbone.")) == before.keys()


def test_the_first_phase_moves_the_head_alone(settings, runs):
    out = str(runs / "child")
    trainer = run(settings.replaced(regime="lowres144-finetuned", out=out, dropout=0.5), stop_after=1)
    assert not moved(weights(runs / "lowres144", "backbone."), weights(out, "backbone."))
    assert not any(part.training for part in trainer.setup.backbone.modules() if part is not trainer.setup.backbone)
    assert trainer.log.rate == pytest.approx(0.05)
    assert run(TrainSettings(out=out, device="cpu"), resume=True).log.rate == pytest.approx(0.1 * 0.05 * 0.5)


def test_what_could_not_be_compiled_in_one_phase_is_not_tried_in_the_next(settings, runs):
    setup = build(settings.replaced(regime="lowres144-finetuned", out=str(runs / "once")))
    with Trainer(replace(setup, execution=Execution("auto", "auto")), False) as trainer:
        trainer.state.enter_phase(0)
        trainer.state.execution.compile = trainer.state.execution.graphs = "off"  # as a step does that gave up
        trainer.state.enter_phase(1)
        assert (trainer.state.execution.compile, trainer.state.execution.graphs) == ("off", "off")


def test_the_control_of_finetuning_keeps_the_parents_head(settings, runs):
    trainer = Trainer(build(settings.replaced(regime="lowres144-continued", out=str(runs / "child"))), False)
    assert torch.equal(weights(runs / "lowres144", "head.")["weight"], trainer.setup.head.weight.detach())
    assert not moved(weights(runs / "lowres144", "backbone."), trainer.setup.backbone.state_dict())


@pytest.mark.parametrize("regime", ["fused-head", "fused-output"])
def test_fused_bodies_stay_to_the_bit(settings, runs, regime):
    trainer = run(settings.replaced(regime=regime, out=str(runs / "child")))
    assert isinstance(trainer.setup.backbone, Fused)
    for branch, parent in (("large", "lowres144"), ("small", "lowres32")):
        before, after = weights(runs / parent, "backbone."), weights(runs / "child", f"backbone.{branch}.")
        output = {name for name in before if name.startswith("output.")}
        assert moved(before, after) == (output if regime == "fused-output" else set())
        module = getattr(trainer.setup.backbone, branch)
        assert not any(norm.training for norm in batchnorms(nn.ModuleList([module.stem, module.body])))
    start = Trainer(build(settings.replaced(regime=regime, out=str(runs / "child"))), False)
    fusion = {name: tensor for name, tensor in start.setup.backbone.state_dict().items() if name.startswith("fusion.")}
    assert moved(fusion, weights(runs / "child", "backbone.")) == fusion.keys()


def test_a_fused_model_is_verified_like_any_other(settings, runs):
    child = settings.replaced(regime="fused-output", out=str(runs / "child"))
    result = train(child, show_progress=False)
    assert evaluate(child.out, device="cpu")["hres"].to_json() == result.results["hres"].to_json()
    metadata = read_metadata(runs / "child" / "checkpoints" / "last.safetensors")
    assert [parent["regime"] for parent in metadata["parents"]] == ["lowres144", "lowres32"]
    assert metadata["backbone"]["input_size"] == 48 and "fused-output" in result.report.read_text()


def test_the_untrained_fusion_is_the_two_embeddings_side_by_side(settings, runs):
    trainer = run(settings.replaced(regime="fused-untrained", out=str(runs / "child")))
    assert trainer.setup.total_steps == 0
    compute = choose_compute("cpu", "fp32")
    model, metadata = load_backbone(runs / "child" / "checkpoints" / "last.safetensors", compute)
    large, small = (
        load_backbone(runs / name / "checkpoints" / "last.safetensors", compute)[0]
        for name in ("lowres144", "lowres32")
    )
    images = torch.rand(2, 3, 48, 48) * 2 - 1
    with torch.inference_mode():
        both = model(images)
        torch.testing.assert_close(both[:, :16], nn.functional.normalize(large(images)))
        torch.testing.assert_close(both[:, 16:], nn.functional.normalize(small(model.downsample(images))))
    assert metadata["backbone"]["embedding_size"] == both.shape[1] == 40


def test_parents_are_found_beside_the_run_or_named(settings, runs, parents, tmp_path_factory):
    elsewhere = settings.replaced(regime="lowres144-finetuned", out=str(tmp_path_factory.mktemp("other") / "child"))
    with pytest.raises(UsageError, match=r"starts from lowres144.*no such checkpoint.*(\n|.)*--init"):
        Trainer(build(elsewhere), False)
    assert Trainer(build(elsewhere.replaced(init=str(parents / "lowres144"))), False).setup.settings.model.width == 8
    with pytest.raises(
        UsageError, match="--init names 2 checkpoints; regime lowres144-finetuned starts from lowres144"
    ):
        Trainer(build(elsewhere.replaced(init=f"{parents}/lowres144,{parents}/lowres32")), False)
    smaller = elsewhere.replaced(init=str(parents / "lowres32"))
    with pytest.raises(UsageError, match="takes 32 px; lowres144-finetuned needs 48 px; --resample-parent"):
        Trainer(build(smaller), False)
    resampled = build(smaller.replaced(resample_parent=True)).backbone
    assert resampled.settings.input_size == 48 and resampled.output[3].in_features == 8 * 16 * 3**2
    with pytest.raises(UsageError, match="branches of 48 px"):
        init = f"{parents}/lowres32,{parents}/lowres144"
        Trainer(build(elsewhere.replaced(regime="fused-head", init=init)), False)
    with pytest.raises(UsageError, match="has no parent"):
        Trainer(build(elsewhere.replaced(regime="lowres32", batchnorm="frozen")), False)
    with pytest.raises(UsageError, match="has no second view"):
        Trainer(build(elsewhere.replaced(regime="highlow144", consistency=1.0)), False)


def test_lambda_is_the_regimes_or_a_setting(settings, tmp_path):
    """crossres144-views is crossres144 with lambda 0; the stream is the same, so are its shares."""

    def built(regime, **changes):
        return build(settings.replaced(regime=regime, out=str(tmp_path / "run"), **changes))

    pulled, views = built("crossres144"), built("crossres144-views", highres_share=-1.0, batch_size=40)
    assert (pulled.objective.terms[0].weight, pulled.objective.pairs) == (1.0, 2)
    assert views.objective is views.head and views.stream.pairs == 4, "a fifth of 40 rows, two rows a face"
    assert built("crossres144-views", consistency=0.5).objective.terms[0].weight == 0.5
    assert built("crossres144", consistency=0.0).objective is not None
    assert built("crossres144", accumulate=2).objective.pairs == 1
    with pytest.raises(UsageError, match="highres_share must be above 0"):
        built("crossres144", highres_share=0.0)


def test_a_run_that_reached_its_third_plateau_takes_no_step_when_resumed(settings, tmp_path):
    trainer = Trainer(build(settings.replaced(out=str(tmp_path / "run"), plateau=1, eval_every=1.0)), False)
    trainer.state.plateau.plateaus = 3
    with trainer:
        trainer.start()
        trainer.loop(StopAfter(0))
    assert trainer.state.step == 0


def test_fewer_highres_identities_are_the_first_ones(settings, tmp_path):
    some = Trainer(
        build(settings.replaced(regime="highres32", out=str(tmp_path / "a"), highres_identities=0.25)), False
    )
    every = Trainer(build(settings.replaced(regime="highres32", out=str(tmp_path / "b"))), False)
    part, whole = some.setup.stream.splits[0], every.setup.stream.splits[0]
    assert (part.identities, part.samples) == (3, int((whole.labels < 3).sum()))
    last = part.samples - 1
    assert np.array_equal(part.read(last), whole.read(last)) and len(part.verify()) == 0
    assert some.setup.head.weight.shape[0] == 3


def test_at_most_so_many_identities_of_each_split(settings, tmp_path):
    some = Trainer(build(settings.replaced(regime="highlow144", out=str(tmp_path / "a"), most_identities=4)), False)
    assert [split.identities for split in some.setup.stream.splits] == [4, 4] and some.setup.head.weight.shape[0] == 8


def test_plateaus_cut_the_rate_and_end_the_run(settings, tmp_path):
    """With a rate too small to gain anything every look is stale: three plateaus of one look each."""
    stuck = settings.replaced(
        out=str(tmp_path / "stuck"), steps=1000, plateau=1, eval_every=0.05, learning_rate=1e-9, warmup=0.0
    )
    trainer = run(stuck)
    assert 3 < trainer.state.step < 30 and trainer.state.plateau.over
    assert trainer.log.rate == pytest.approx(1e-11)


def test_losses_of_earlier_phases_are_no_measure_of_plateaus(settings, tmp_path):
    """A look after step 6, of two phases with 4 steps each: it judges steps 5 and 6."""
    regime = tmp_path / "two.toml"
    phases = (Phase(train=("head",), share=0.5), Phase(train=("body", "output", "head"), share=0.5))
    REGIMES["lowres32"].replaced(name="two", phases=phases).save(regime)
    two = settings.replaced(regime=str(regime), steps=8, plateau=5, eval_every=0.33)
    trainer = run(two.replaced(out=str(tmp_path / "run"), log_every=3))
    assert trainer.setup.phases[-1].start == 4 and trainer.setup.stream.epoch_length == 144
    every = run(two.replaced(out=str(tmp_path / "every"), log_every=1))
    lines = read_metrics(every.setup.run / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert trainer.state.plateau.best == pytest.approx((losses[4] + losses[5]) / 2)
    assert trainer.state.plateau.losses == pytest.approx(losses[6:])


def test_a_plateau_is_a_gain_of_less_than_a_hundredth():
    plateau = Plateau(patience=2)
    for value, factor in ((1.0, 1), (0.995, 1), (0.985, 1), (0.98, 1), (0.984, 0.1), (0.97, 0.1), (0.1, 0.1)):
        plateau.look(value)
        assert plateau.factor == factor
    plateau.losses += [0.2, 0.4]
    plateau.look(None)
    assert plateau.stale == 1 and plateau.losses == [] and plateau == Plateau(**plateau.state())


def test_parents_come_first_and_once():
    order = in_order(["fused-output", "lowres144-finetuned", "crossres144"])
    assert order == ["lowres144", "lowres32", "fused-output", "lowres144-finetuned", "crossres144"]
    with pytest.raises(UsageError, match="no regime is called 'highres'"):
        in_order(["highres"])


OWN = """
sources = ["highres"]
input_size = 48
summary = "lowres144 with a new output layer"
parents = ["lowres144"]
batchnorm = "frozen"

[[phases]]
train = ["output", "head"]
"""


def test_a_regime_of_ones_own_trains_and_resumes_from_its_copy(settings, runs):
    file = runs / "own.toml"
    file.write_text(OWN)
    assert in_order([str(file)]) == ["lowres144", str(file)]
    child = settings.replaced(regime=str(file), out=str(runs / "child"))
    run(child, stop_after=2)
    file.unlink()
    run(TrainSettings(out=child.out, device="cpu"), resume=True)
    before, after = weights(runs / "lowres144", "backbone."), weights(child.out, "backbone.")
    wanted = {name for name in before if name.startswith("output.") and not name.endswith(STATISTICS)}
    assert moved(before, after) == wanted
    assert read_metadata(runs / "child" / "checkpoints" / "last.safetensors")["regime"] == "own"


@pytest.mark.parametrize(
    "old,new,message",
    [
        ('"highres"', '"hires"', "sources are .'hires'.; one or two of lowres, highres, faces"),
        ("input_size = 48", "input_size = 100", "input_size is 100; it must be a multiple of 16"),
        ("input_size = 48", "", "input_size is missing"),
        ("input_size", "inputsize", "there is no 'inputsize'; there are .*, sources"),
        ("input_size = 48", 'input_size = "48"', "input_size is '48'; it must be a valid integer"),
        ('"output", "head"', '"fusion", "head"', "a phase trains fusion; a single model has body, output, head"),
        ('"output", "head"', '"output"', "head would stay random"),
        ('train = ["output", "head"]', 'train = ["head"]\nshare = 0.5', "shares sum to 0.5"),
        ('parents = ["lowres144"]', "", "needs a parent"),
        ('parents = ["lowres144"]', 'parents = ["lowres144", "lowres32"]', "a single model has at most one parent"),
        ('parents = ["lowres144"]', 'parents = ["lowres144"]\nconsistency = 1', "consistency needs second_view"),
        ("summary", "name = 'lowres32'\nsummary", "the name lowres32 is taken"),
        ("[[phases]]", "[phases]", "phases is .*; it must be a valid list"),
        ("[[phases]]", "[[phases", "cannot be read as a regime"),
    ],
)
def test_what_is_wrong_in_a_regime_file_is_said(tmp_path, old, new, message):
    file = tmp_path / "own.toml"
    assert old in OWN
    file.write_text(OWN.replace(old, new))
    with pytest.raises(UsageError, match=message) as error:
        regimes.regime_named(str(file))
    assert str(file) in str(error.value)
