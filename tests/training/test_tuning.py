"""What of a parent trains: its output layer alone, or adapters beside frozen weights, resumed and merged."""

from pathlib import Path

import pytest
import torch

from hrfr_fast.evaluation.evaluate import load_backbone
from hrfr_fast.model.checkpoint import load_state, read_metadata
from hrfr_fast.regimes import HEAD_FIRST, REGIMES, Regime
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.trainer import Trainer
from hrfr_fast.training.tuning import count_trained

load_file = pytest.importorskip("safetensors.torch").load_file
CPU = torch.device("cpu")

CHILD = Regime(
    name="child", sources=("highres",), input_size=32, parents=("lowres32",), phases=HEAD_FIRST, batchnorm="frozen"
)


def run(settings, *, stop_after=None, resume=False):
    """Train without verification; ``stop_after``: as if the process had ended after so many steps."""
    with Trainer(build(settings), show_progress=False) as trainer:
        if resume:
            trainer.state.restore()
        trainer.start()
        steps = stop_after or trainer.setup.total_steps
        batch_size = trainer.setup.stream.batch_size
        for batch in trainer.setup.engine.batches(trainer.state.samples, steps * batch_size):
            trainer.step(batch)
        trainer.save()
    return trainer


@pytest.fixture(scope="module")
def settings(tiny_packed, tmp_path_factory):
    """Of a child, beside its parent's run."""
    runs = tmp_path_factory.mktemp("runs")
    parent = TrainSettings(
        regime="lowres32", data=str(tiny_packed), out=str(runs / "lowres32"), steps=2, batch_size=8, width=8,
        embedding_size=16, device="cpu", eval_every=0, learning_rate=0.05, precision="fp32",
    )  # fmt: skip
    run(parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGIMES, "child", CHILD)
        yield parent.replaced(regime="child", steps=5, learning_rate=1.0, lora_rank=2)


def weights(out):
    return load_file(f"{out}/checkpoints/last.safetensors")


def moved(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def backbone_of(tensors):
    return {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}


def test_a_regime_says_what_is_tuned_unless_the_settings_do(settings, tmp_path):
    own = tmp_path / "adapters.toml"
    CHILD.replaced(name="adapters", tune="lora").save(own)
    by_regime = settings.replaced(regime=str(own), out=str(tmp_path / "regime"), init=settings.out)
    assert build(by_regime).settings.tuning.tune == "lora"
    assert build(by_regime.replaced(tune="full")).settings.tuning.tune == "full"
    assert build(settings).settings.tuning.tune == "full"  # as every regime without a parent
    with pytest.raises(UsageError, match="tune = .output. keeps the weights of a parent"):
        REGIMES["lowres32"].replaced(name="wrong", tune="output")


def test_output_alone(settings, tmp_path):
    child = settings.replaced(tune="output", out=str(tmp_path / "child"), init=settings.out)
    trainer = run(child)
    before, after = backbone_of(weights(settings.out)), backbone_of(weights(child.out))
    assert moved(before, after) == {
        f"backbone.output.{name}" for name in ("0.weight", "0.bias", "3.weight", "3.bias", "4.weight", "4.bias")
    }
    output = trainer.setup.backbone.output
    assert count_trained(trainer.setup.backbone).trained == sum(p.numel() for p in output.parameters())


def test_adapters_move_weights_alone_and_resume(settings, tmp_path):
    """The checkpoint is a plain network with the adapters merged; the state to resume from keeps them apart."""
    whole, parts = (settings.replaced(tune="lora", out=str(tmp_path / name), init=settings.out) for name in "ab")
    trainer = run(whole)
    before, after = weights(settings.out), weights(whole.out)
    matrices = {
        name for name, tensor in backbone_of(before).items()
        if tensor.ndim > 1 and min(len(tensor), tensor[0].numel()) > 2
    }  # fmt: skip
    assert moved(backbone_of(before), backbone_of(after)) == matrices and len(matrices) > 20
    state = load_state(tmp_path / "a" / "checkpoints" / "last.state.pt", CPU)["backbone"]
    original = state["stem.0.parametrizations.weight.original"]
    assert torch.equal(original, before["backbone.stem.0.weight"]), "the parent's weights stay to the bit"
    run(parts, stop_after=3)
    run(parts, resume=True)
    assert not moved(after, weights(parts.out))
    compute = choose_compute("cpu", "fp32")
    plain, metadata = load_backbone(tmp_path / "a" / "checkpoints" / "last.safetensors", compute)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(plain(images), trainer.setup.backbone.eval()(images))
    assert metadata["tuning"] == {"tune": "lora", "lora_rank": 2, "lora_layers": "all"}
    assert "tuning" not in read_metadata(Path(settings.out) / "checkpoints" / "last.safetensors")


@pytest.mark.parametrize("layers,first", [("body", "stem."), ("output", "output.")])
def test_adapters_where_they_are_wanted(settings, tmp_path, layers, first):
    child = settings.replaced(tune="lora", lora_layers=layers, out=str(tmp_path / "child"), init=settings.out)
    setup = build(child)
    with Trainer(setup, show_progress=False):
        trained = [name for name, parameter in setup.backbone.named_parameters() if parameter.requires_grad]
        frozen = setup.backbone.output if layers == "body" else setup.backbone.body
        assert not any(part.training for part in frozen.modules()), "no dropout, and statistics stay"
    assert trained[0].startswith(first) and all("parametrizations.weight.0" in name for name in trained)
    assert any(name.startswith("output.") for name in trained) == (layers == "output")


REFUSED = {
    "no parent": ({"regime": "lowres32", "tune": "lora"}, "lowres32 has no parent"),
    "not trained": ({"regime": "fused-untrained", "tune": "output"}, "fused-untrained is not trained"),
    "rank too large": ({"tune": "lora", "lora_rank": 5000}, "no layer is larger than that"),
}


@pytest.mark.parametrize("changes,message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_tuned_is_refused(settings, tmp_path, changes, message):
    init = {} if "regime" in changes else {"init": settings.out}
    if changes.get("regime") == "fused-untrained":
        init = {"init": f"{settings.out},{settings.out}"}
    with pytest.raises(UsageError, match=message):
        build(settings.replaced(out=str(tmp_path / "x"), **init, **changes))


def test_a_phase_of_the_body_alone_has_no_output_layer_to_train(settings, tmp_path, monkeypatch):
    body_first = (CHILD.phases[0].replaced(train=("body",)), CHILD.phases[1])
    monkeypatch.setitem(REGIMES, "child", CHILD.replaced(phases=body_first))
    with pytest.raises(UsageError, match="trains the body alone"):
        build(settings.replaced(tune="output", out=str(tmp_path / "x"), init=settings.out))
