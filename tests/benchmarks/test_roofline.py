import pytest
import torch
from network_size import flops_per_image, parameter_count
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.roofline import by_kind, roofline_seconds, step_operations
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.training.speed import training_flops


@pytest.mark.parametrize("size,width,classes", [(32, 64, 0), (144, 64, 100), (48, 16, 7), (80, 8, 0)])
def test_operations_are_those_torch_counts(size, width, classes):
    """Forward and backward on meta tensors, the squeeze's 1x1 convolutions included."""
    settings = BackboneSettings(size, width=width, embedding_size=96)
    network = build_backbone(settings).to("meta")
    with FlopCounterMode(display=False) as counter:
        embeddings = network(torch.empty(4, 3, size, size, device="meta"))
        if classes:
            embeddings = embeddings @ torch.empty(96, classes, device="meta", requires_grad=True)
        embeddings.sum().backward()
    counted = sum(item.flops for item in step_operations(settings, classes, 4))
    assert counted == pytest.approx(counter.get_total_flops(), rel=1e-9)
    assert counted / 4 == pytest.approx(3 * flops_per_image(settings) + 6 * 96 * classes, rel=0.03)


@pytest.mark.parametrize("name", ["ir18", "irse50", "mobilefacenet", "vit-s"])
def test_operations_of_other_networks_are_those_torch_counts(name):
    settings = BackboneSettings(112, width=16, embedding_size=96, name=name)
    with torch.device("meta"):
        network = build_backbone(settings)
    operations = step_operations(settings, 0, 4, momenta=2)
    assert sum(item.flops for item in operations) / 4 == pytest.approx(training_flops(network, 112), rel=1e-9)
    assert operations[-1].bytes == 32 * parameter_count(network)


@pytest.mark.parametrize("size,gflop,megabytes", [(32, 1.27, 11), (144, 25.7, 228)])
def test_the_first_byte_model_was_right(size, gflop, megabytes):
    """The estimate made before any code: BatchNorm passes and convolutions of one training image."""
    operations = [item for item in step_operations(BackboneSettings(size), 0, 1024) if item.kind != "optimiser"]
    assert sum(item.flops for item in operations) / 1024 == pytest.approx(gflop * 1e9, rel=0.01)
    assert sum(item.bytes for item in operations) / 1024 == pytest.approx(megabytes * 1e6, rel=0.07)


def test_the_optimiser_moves_every_weight():
    settings = BackboneSettings(48, width=16, embedding_size=64)
    last = step_operations(settings, 50, 8)[-1]
    assert last.kind == "optimiser" and last.bytes == 24 * (parameter_count(build_backbone(settings)) + 50 * 64)


def test_time_is_the_larger_of_both_for_each_operation():
    operations = step_operations(BackboneSettings(32), 1000, 64)
    compute_only = roofline_seconds(operations, 1e12, 1e30)
    memory_only = roofline_seconds(operations, 1e30, 1e12)
    assert compute_only == pytest.approx(sum(item.flops for item in operations) / 1e12)
    assert memory_only == pytest.approx(sum(item.bytes for item in operations) / 1e12)
    both = roofline_seconds(operations, 1e12, 1e10)
    assert max(compute_only, 100 * memory_only) < both < compute_only + 100 * memory_only
    summed = by_kind(operations)
    assert sum(item.bytes for item in summed.values()) == pytest.approx(sum(item.bytes for item in operations))
    with pytest.raises(ValueError, match="ceilings must be positive"):
        roofline_seconds(operations, 0, 1)


def test_bigger_batches_only_share_the_weights():
    """Maps grow with the batch; weights, head matrix and optimiser do not."""
    one, two, three = (
        sum(item.bytes for item in step_operations(BackboneSettings(32), 1000, batch)) for batch in (256, 512, 768)
    )
    assert two - one == pytest.approx(three - two) and two < 2 * one
