"""BatchNorm's counters, counted together, are those that each layer counts."""

import pytest
import torch

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.backbones import base


def counters(name, together, checkpointing, monkeypatch):
    monkeypatch.setattr(base, "counts_one_by_one", lambda _: together)
    torch.manual_seed(0)
    network = build_backbone(BackboneSettings(name=name, input_size=32, width=8, embedding_size=8))
    network.activation_checkpointing = checkpointing
    network.train()
    network.body[0].eval()
    for _ in range(2):
        network(torch.randn(2, 3, 32, 32)).sum().backward()
    state = network.state_dict()
    return {key: value for key, value in state.items() if "num_batches" in key or "running" in key}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_same_counters_and_statistics(checkpointing, monkeypatch):
    one_by_one = counters("irse18", False, checkpointing, monkeypatch)
    together = counters("irse18", True, checkpointing, monkeypatch)
    counted = [int(value) for key, value in together.items() if "num_batches" in key]
    assert set(counted) == {0, 2} and counted.count(2) > 20
    assert one_by_one.keys() == together.keys()
    assert all(torch.equal(together[key], value) for key, value in one_by_one.items())


def test_counters_are_back_after_an_error(monkeypatch):
    monkeypatch.setattr(base, "counts_one_by_one", lambda _: True)
    network = build_backbone(BackboneSettings(name="irse18", input_size=32, width=8, embedding_size=8)).train()
    with pytest.raises(RuntimeError):
        network(torch.randn(2, 4, 32, 32))
    assert all(int(value) == 0 for key, value in network.state_dict().items() if "num_batches" in key)
    assert "stem.1.num_batches_tracked" in network.state_dict()


def test_on_a_cpu_layers_count_for_themselves():
    assert not base.counts_one_by_one(torch.zeros(1))
