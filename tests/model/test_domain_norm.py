"""BatchNorm by resolution against two ordinary ones, in training and evaluation; networks with it, and their files."""

import pytest
import torch
from torch import nn

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.domain_norm import (
    HIGH,
    LOW,
    Domains,
    add_domains,
    domain_limit,
    domains_of,
    in_domain,
    keep_domain,
)
from hrfr_fast.runtime.errors import UsageError

NATIVE, PAIRS = 3, 2
ROWS_LOW, ROWS_HIGH = [0, 1, 2, 4, 6], [3, 5]  # native, then sharp, degraded, sharp, degraded


def normalised(kind, features, dimensions):
    """A network of one BatchNorm with domains, told of the rows, and an ordinary one for each domain."""
    torch.manual_seed(1)
    plain = (nn.BatchNorm2d if dimensions == 4 else nn.BatchNorm1d)(features)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    low, high = type(plain)(features), type(plain)(features)
    for norm in (low, high):
        norm.load_state_dict(plain.state_dict())
    network = nn.Sequential(plain)
    domains = add_domains(network, kind)
    domains.native, domains.pairs = NATIVE, PAIRS
    return network, domains, low, high


@pytest.mark.parametrize("kind", ["statistics", "separate"])
@pytest.mark.parametrize("shape", [(7, 4, 3, 3), (7, 4)])
def test_it_is_two_ordinary_batchnorms(kind, shape):
    """Outputs, statistics and gradients over three steps, then evaluation; "statistics" adds up weights' gradients."""
    network, domains, low, high = normalised(kind, 4, len(shape))
    for step in range(3):
        torch.manual_seed(step)
        rows = torch.randn(shape) * (1 + step) + step
        ours, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        made = domains.restored(network(domains.ordered(ours)))
        expected = torch.empty_like(rows)
        expected[ROWS_LOW], expected[ROWS_HIGH] = low(theirs[ROWS_LOW]), high(theirs[ROWS_HIGH])
        torch.testing.assert_close(made, expected)
        pull = torch.randn(shape)
        (made * pull).sum().backward()
        (expected * pull).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
    norm = network[0]
    torch.testing.assert_close((norm.running_mean, norm.running_var), (low.running_mean, low.running_var))
    torch.testing.assert_close((norm.high_mean, norm.high_var), (high.running_mean, high.running_var))
    assert norm.num_batches_tracked == 3
    if kind == "separate":
        torch.testing.assert_close((norm.weight.grad, norm.high_bias.grad), (low.weight.grad, high.bias.grad))
    else:
        torch.testing.assert_close(norm.weight.grad, low.weight.grad + high.weight.grad)
        assert not hasattr(norm, "high_weight")
    for part in (network, low, high):
        part.eval()
    for domain, plain in ((LOW, low), (HIGH, high)):
        with in_domain(network, domain):
            torch.testing.assert_close(network(rows), plain(rows))
        kept = nn.Sequential(norm)
        keep_domain(kept, domain)
        assert type(kept[0]) is type(plain) and torch.equal(kept[0](rows), plain(rows))


def test_channels_last_stays():
    network, domains, _, _ = normalised("statistics", 8, 4)
    rows = torch.randn(7, 8, 3, 3).to(memory_format=torch.channels_last)
    assert network(domains.ordered(rows)).is_contiguous(memory_format=torch.channels_last)


def test_the_order_is_undone():
    domains = Domains()
    domains.native, domains.pairs = NATIVE, PAIRS
    rows = torch.arange(7)
    assert domains.ordered(rows).tolist() == ROWS_LOW + ROWS_HIGH
    assert torch.equal(domains.restored(domains.ordered(rows)), rows)
    domains.of_all = HIGH
    assert torch.equal(domains.ordered(rows), rows) and domains.low_rows(7) == 0


def network_of(kind, name="irse18"):
    torch.manual_seed(0)
    return build_backbone(
        BackboneSettings(32, 8, 16, name=name, domain_norm=kind, domain_limit=72 * (kind != "shared"))
    )


@pytest.mark.parametrize("name", ["irse18", "mobilefacenet"])
def test_a_network_begins_as_the_ordinary_one_and_reads_its_checkpoint(name):
    """The same weights by the same seed, keys added and none renamed; an ordinary checkpoint starts both domains."""
    plain, ours = network_of("shared", name), network_of("separate", name)
    before, now = plain.state_dict(), ours.state_dict()
    assert set(before) < set(now) and all(torch.equal(before[key], now[key]) for key in before)
    assert all(".high_" in key for key in set(now) - set(before))
    plain(torch.randn(4, 3, 32, 32))  # moves its statistics
    ours.load_state_dict(plain.state_dict())
    images = torch.randn(3, 3, 32, 32)
    expected = plain.eval()(images)
    for domain in (LOW, HIGH):
        with in_domain(ours.eval(), domain):
            torch.testing.assert_close(ours(images), expected)


def test_nobody_is_embedded_without_a_domain():
    network = network_of("statistics").eval()
    with pytest.raises(RuntimeError, match="was not told the resolution"):
        network(torch.randn(2, 3, 32, 32))
    assert domains_of(network_of("shared")) is None and domain_limit(36, 144) == 72


def test_a_network_without_batchnorm_in_its_blocks_is_refused():
    with pytest.raises(UsageError, match="vit-s has no BatchNorm in its blocks"):
        BackboneSettings(32, 64, 16, name="vit-s", domain_norm="statistics")
