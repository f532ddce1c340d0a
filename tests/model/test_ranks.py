"""Layers and heads over several ranks against one process that has the whole batch and all classes."""

import re
from functools import cache

import numpy as np
import pytest
import rank_cases
import torch
from rank_program import run_over_ranks
from torch import nn

from hrfr_fast.model import class_shards
from hrfr_fast.model.class_shards import ClassShard, rows_of
from hrfr_fast.model.heads import build_head
from hrfr_fast.model.partial_fc import ClassSampling, class_words, sample_classes
from hrfr_fast.model.peers import Peers
from hrfr_fast.model.row_files import read_rows, write_with_rows
from hrfr_fast.model.sync_batchnorm import convert_sync_batchnorm
from hrfr_fast.runtime.errors import DamageFound, HrfrError, UsageError
from hrfr_fast.runtime.philox import CLASS_SAMPLING, philox
from hrfr_fast.runtime.ranks import Ranks
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.sharding import class_shard

SIZES = (2, 3)


@pytest.fixture(scope="module")
def over_ranks(tmp_path_factory):
    return run_over_ranks("model.rank_cases", SIZES, tmp_path_factory.mktemp("ranks"))


@cache
def normalised_alone(case):
    return rank_cases.normalised(*rank_cases.NORMS[case], Peers())


@pytest.mark.parametrize("case", rank_cases.NORMS)
@pytest.mark.parametrize("size", SIZES)
def test_synchronised_batchnorm_is_one_process_on_the_whole_batch(over_ranks, size, case):
    expected = normalised_alone(case)
    ranks = [found[f"norm: {case}"] for found in over_ranks[size]]
    tolerance = 0.06 if "bfloat16" in case else 1e-5
    for name, value in expected.items():
        of_part = name.startswith(("outputs", "by images"))
        found = torch.cat([rank[name] for rank in ranks]) if of_part else ranks[-1][name]
        assert found.shape == value.shape and found.dtype == value.dtype
        error = (found.double() - value.double()).norm() / value.double().norm().clamp(min=1e-3)
        assert error < tolerance, (name, error)
    assert ranks[0].keys() == expected.keys()


def test_a_copy_of_a_synchronised_model(over_ranks):
    assert all(found["copies"] == {"equal": True, "own": True} for ranks in over_ranks.values() for found in ranks)


def test_one_process_keeps_torchs_batchnorm_to_the_bit():
    model, images = rank_cases.network(), torch.randn(6, 3, 8, 8)
    expected = model(images)
    converted = convert_sync_batchnorm(rank_cases.network())
    assert torch.equal(converted(images), expected)
    assert isinstance(converted[1], nn.BatchNorm2d) and converted.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(converted.buffers(), model.buffers(), strict=True))


def together(ranks, name):
    """A result that is the same on all ranks, or the rows of all of them."""
    if name.startswith(("loss ", "buffer", "random")):
        assert all(torch.equal(rank[name], ranks[0][name]) for rank in ranks)
        return ranks[0][name]
    return torch.cat([rank[name] for rank in ranks])


@cache
def head_alone(case):
    return rank_cases.sharded_head(*rank_cases.HEADS[case], Peers())


@pytest.mark.parametrize("case", rank_cases.HEADS)
@pytest.mark.parametrize("size", SIZES)
def test_a_sharded_head_is_the_whole_head(over_ranks, size, case):
    """101 classes over 2 and 3 ranks: 50 + 51, 33 + 34 + 34. The same initial weights to the bit, too."""
    ranks = [found[f"head: {case}"] for found in over_ranks[size]]
    expected = head_alone(case)
    assert ranks[0].keys() == expected.keys()
    for name, value in expected.items():
        found = together(ranks, name)
        if name in ("weight", "random number"):
            assert torch.equal(found, value)
            continue
        tolerance = 3e-3 if "bfloat16" in case and name.startswith("by") else 1e-5
        assert found.shape == value.shape and value.norm() > 0
        assert (found - value).norm() < tolerance * value.norm(), name


def class_set(step, classes, labels, rate=rank_cases.RATE):
    """Who takes part, by the definition: the batch's labels, and every class whose word is small."""
    numbers = np.arange(classes)
    words = philox(rank_cases.SEED, step, numbers // 4, purpose=CLASS_SAMPLING)[numbers, numbers % 4]
    return np.union1d(np.flatnonzero(words < round(rate * 2**32)), labels)


def test_sampled_classes_are_those_of_the_definition_on_any_number_of_ranks(over_ranks):
    alone = rank_cases.partial_fc(Peers())
    for ranks in ([alone], *([found["partial"] for found in over_ranks[size]] for size in SIZES)):
        assert all(rank["keys"] == ["weight"] for rank in ranks)
        for step in range(4):
            _, labels = rank_cases.partial_batch(step)
            expected = class_set(step, rank_cases.MANY, labels.numpy())
            assert torch.cat([rank[f"took part {step}"] for rank in ranks]).tolist() == expected.tolist()


def reference_partial_fc(steps=4):
    """A whole head over the classes that take part, and SGD on their rows, written out."""
    torch.manual_seed(7)
    weight = build_head("arcface", rank_cases.DIMENSIONS, rank_cases.MANY).weight.detach()
    momentum, losses = torch.zeros_like(weight), []
    for step in range(steps):
        embeddings, labels = rank_cases.partial_batch(step)
        rows = torch.from_numpy(class_set(step, rank_cases.MANY, labels.numpy()))
        head = build_head("arcface", rank_cases.DIMENSIONS, len(rows))
        head.weight.data.copy_(weight[rows])
        loss = head(embeddings, torch.searchsorted(rows, labels))
        loss.backward()
        losses.append(loss.detach())
        momentum[rows] = 0.9 * momentum[rows] + head.weight.grad + 0.01 * weight[rows]
        weight[rows] -= 0.5 * momentum[rows]
    return losses, weight, momentum


def test_partial_fc_trains_the_rows_that_take_part_and_leaves_the_others(over_ranks):
    losses, weight, momentum = reference_partial_fc()
    for ranks in ([rank_cases.partial_fc(Peers())], *([f["partial"] for f in over_ranks[size]] for size in SIZES)):
        for step, loss in enumerate(losses):
            torch.testing.assert_close(together(ranks, f"loss {step}"), loss, rtol=1e-5, atol=1e-5)
        for name, expected in {"weight": weight, "all_rows.momentum_buffer": momentum}.items():
            assert (together(ranks, name) - expected).norm() < 1e-5 * expected.norm()


def test_adamw_keeps_its_two_averages_of_each_row():
    found = rank_cases.partial_fc(Peers(), steps=3, optimizer=torch.optim.AdamW)
    seen = torch.cat([found[f"took part {step}"] for step in range(3)]).unique()
    for name in ("exp_avg", "exp_avg_sq"):
        moved = found[f"all_rows.{name}"].abs().sum(1).nonzero()[:, 0]
        assert moved.tolist() == seen.tolist()
    torch.manual_seed(7)
    initial = build_head("arcface", rank_cases.DIMENSIONS, rank_cases.MANY).weight
    assert (found["weight"] != initial).any(1).nonzero()[:, 0].tolist() == seen.tolist()


def test_where_more_classes_are_drawn_than_fit_the_batchs_own_come_first():
    shard = ClassShard(400, Peers())
    head = build_head("arcface", 8, 400, shard=shard)
    sampling = ClassSampling(0.5, 0, 4)
    sampling.places = lambda rows: 100
    sample_classes(head, sampling)
    labels = torch.tensor([399, 0, 200, 200])
    sampling.choose(head, labels, 3)
    assert not head.left_out.any() and set(labels.tolist()) <= set(head.sampled_rows.tolist())
    words = class_words(0, 3, range(400), labels.device)
    words[labels] = -1
    assert head.sampled_rows.tolist() == words.argsort()[:100].sort().values.tolist()


def test_the_block_is_large_enough_and_not_much_larger():
    sampling = ClassSampling(0.1, 1, 64)
    places = sampling.places(10_000)
    drawn = [(class_words(1, step, range(10_000), torch.device("cpu")) < 2**32 // 10).sum() for step in range(300)]
    assert max(drawn) + 64 < places < 1.3 * 1000
    assert abs(np.mean(drawn) - 1000) < 10
    assert ClassSampling(0.1, 1, 500).places(300) == 300


@pytest.mark.parametrize("ranks", [2, 7])
def test_rows_are_those_of_the_whole_matrix(ranks, monkeypatch):
    """Drawn in pieces: 101 rows in pieces of 16, the last of 16 to 31."""
    monkeypatch.setattr(class_shards, "ROWS_AT_A_TIME", 16)
    torch.manual_seed(1)
    whole, after = class_shards.initial_rows(101, 5, range(101)), torch.rand(1)
    parts = []
    for rank in range(ranks):
        torch.manual_seed(1)
        parts.append(class_shards.initial_rows(101, 5, rows_of(rank, ranks, 101)))
        assert torch.rand(1) == after
    assert torch.equal(torch.cat(parts), whole) and {len(part) for part in parts} <= {101 // ranks, 101 // ranks + 1}


def test_a_step_that_draws_no_other_class_teaches_nothing():
    shard = ClassShard(1000, Peers())
    head = build_head("arcface", 8, 1000, shard=shard)
    sample_classes(head, ClassSampling(1e-9, 0, 4))
    labels, embeddings = torch.full((4,), 700), torch.randn(4, 8, requires_grad=True)
    shard.sampling.choose(head, labels, 0)
    assert (~head.left_out).sum() == 1 and head.sampled_rows[~head.left_out] == 700
    head(embeddings, labels).backward()
    assert (embeddings.grad == 0).all() and (head.sampled.grad == 0).all()


@pytest.mark.parametrize("rate", [0.0, 1.0, 1.5])
def test_rates_that_cannot_be(rate):
    head = build_head("arcface", 8, 100, shard=ClassShard(100, Peers()))
    with pytest.raises(UsageError, match=f"partial_fc is {rate}"):
        sample_classes(head, ClassSampling(rate, 0, 16))


def test_gradients_are_clipped_by_their_norm_over_all_ranks(over_ranks):
    torch.manual_seed(5)
    rows, layer = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((21, 8), (3, 3)))
    rows.grad, layer.grad = torch.randn(21, 8), torch.randn(3, 3)
    torch.nn.utils.clip_grad_norm_([rows, layer], 2.0)
    for ranks in over_ranks.values():
        found = [rank["clipped"] for rank in ranks]
        torch.testing.assert_close(together(found, "rows"), rows.grad)
        assert all(torch.equal(rank["layer"], found[0]["layer"]) for rank in found)
        torch.testing.assert_close(found[0]["layer"], layer.grad)


def test_a_step_that_one_rank_has_to_skip_is_skipped_by_all(over_ranks):
    assert all(found["overflown"] == {"kept": True, "scale": 4.0} for ranks in over_ranks.values() for found in ranks)


def test_files_of_rows_are_safetensors_and_read_in_slices(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    rows, shard = torch.randn(11, 3), ClassShard(11, Peers())
    others = {"count": torch.tensor(3), "odd": torch.tensor([True, False, True]), "mean": torch.randn(2)}
    path = tmp_path / "rows.safetensors"
    write_with_rows(path, others, {"weight": rows, "momentum": 2 * rows}, shard, {"format": "x"})
    found = safetensors.load_file(path)
    assert found.keys() == {*others, "weight", "momentum"} and torch.equal(found["momentum"], 2 * rows)
    assert all(torch.equal(found[name], value) for name, value in others.items())
    assert torch.equal(read_rows(path, "momentum", range(4, 9)), 2 * rows[4:9])
    for name, wanted in (("weight", range(8, 12)), ("velocity", range(2))):
        with pytest.raises(HrfrError, match=f"rows .* of {name} cannot be read"):
            read_rows(path, name, wanted)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.raises(DamageFound, match="bytes of tensors, its header says"):
        read_rows(path, "momentum", range(8, 11))
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamageFound, match="do not match their checksum"):
        read_rows(path, "momentum", range(8, 11))


@pytest.mark.parametrize(
    "classes,options,sharded",
    [
        (52_500, {}, None),
        (600_000, {}, "the head's 600,000 identities .1.2 GB. are shared out among 2 ranks"),
        (600_000, {"shard_head": "off"}, None),
        (100, {"shard_head": "on"}, ""),
        (100, {"partial_fc": 0.5}, "the head's 100 identities"),
    ],
)
def test_auto_shards_where_it_is_worth_it_and_says_so(classes, options, sharded):
    said = []
    shard = class_shard(TrainSettings(**options), classes, Ranks(0, 2, 0, 2), said.append)
    assert (shard is None) == (sharded is None)
    assert bool(said) == bool(sharded) and re.match(sharded or "", "".join(said))
    alone = class_shard(TrainSettings(**options), classes, Ranks(), said.append)
    assert (alone is not None) == ("partial_fc" in options)


def test_sampled_identities_are_sharded():
    with pytest.raises(UsageError, match="--partial-fc on several ranks"):
        class_shard(TrainSettings(partial_fc=0.5, shard_head="off"), 100, Ranks(0, 2, 0, 2), print)


def test_more_ranks_than_classes():
    with pytest.raises(UsageError, match="8 ranks cannot share a head of 5 identities"):
        rows_of(0, 8, 5)
