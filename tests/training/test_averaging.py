import torch
from torch import nn

from hrfr_fast.model.heads import build_head
from hrfr_fast.training.averaging import WeightAverage


def test_the_average_follows_its_formula():
    """Against the recurrence in float64, warm-up included; integers are copied, and the trained weights stay."""
    torch.manual_seed(0)
    backbone, head = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), build_head("adaface", 4, 5)
    average = WeightAverage(backbone, head, 0.6)
    expected = {name: tensor.double() for name, tensor in backbone.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for parameter in (*backbone.parameters(), *head.parameters()):
                parameter.add_(torch.randn_like(parameter))
            backbone(torch.randn(8, 3))
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        average.update(step)
        assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
        decay = min(0.6, (1 + step) / (10 + step))
        expected = {name: decay * value + (1 - decay) * before[name].double() for name, value in expected.items()}
    found = average.backbone.state_dict()
    assert found.pop("1.num_batches_tracked") == 12
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not average.backbone.training and not any(p.requires_grad for p in average.backbone.parameters())
    assert not torch.equal(average.head.weight, head.weight)


def test_an_average_goes_on_from_its_state():
    torch.manual_seed(0)
    backbone, head = nn.Linear(3, 4), build_head("arcface", 4, 5)
    average = WeightAverage(backbone, head, 0.9)
    backbone.weight.data.normal_()
    average.update(0)
    other = WeightAverage(backbone, head, 0.9)
    other.load_state_dict(average.state_dict())
    for one in (average, other):
        one.update(1)
    assert torch.equal(average.backbone.weight, other.backbone.weight)
    assert not torch.equal(average.backbone.weight, backbone.weight)
