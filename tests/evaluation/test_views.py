"""Views, cross-resolution verification, accuracy by resolution and identification, on the tiny tree."""

import numpy as np
import pytest
import torch
from torch import nn

from hrfr_fast.evaluation.embedding import embed, pair_scores
from hrfr_fast.evaluation.gallery import gallery_and_probes, identify_split
from hrfr_fast.evaluation.identification import identify, ranks
from hrfr_fast.evaluation.resolution import cross_resolution_scores, scores_by_resolution
from hrfr_fast.evaluation.views import HR, LR36, pair_views
from hrfr_fast.format.reader import open_packed
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import UsageError

top_k_accuracy_score = pytest.importorskip("sklearn.metrics").top_k_accuracy_score


class Pixels(nn.Module):
    """The mean-free 16 x 16 thumbnail as embedding: good enough to recognise synthetic faces."""

    def forward(self, images):
        small = nn.functional.adaptive_avg_pool2d(images.float(), 16).flatten(1)
        return small - small.mean(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def packed(tiny_packed):
    return open_packed(tiny_packed)


@pytest.fixture(scope="module")
def compute():
    return choose_compute("cpu", "fp32")


def test_scores_of_views_are_those_of_verification(packed, compute):
    pairs = packed.pairs["hres"]
    views = pair_views(Pixels(), pairs, 144, compute, (HR, LR36))
    assert np.allclose(views.scores(HR), pair_scores(Pixels(), pairs, 144, compute))
    assert np.allclose(views.scores(LR36), pair_scores(Pixels(), pairs, 144, compute, degrade=36))
    mixed = views.scores(HR, LR36)
    left = pair_views(Pixels(), pairs, 144, compute, (HR,)).embeddings[HR][views.rows[0]]
    right = views.embeddings[LR36][views.rows[1]]
    assert mixed[0] == pytest.approx(float(left @ right), abs=1e-6)


def test_cross_resolution_and_resolution_curve(packed, compute):
    pairs = packed.pairs["hres"]
    views = pair_views(Pixels(), pairs, 144, compute, (HR, 2, LR36))
    crossed = cross_resolution_scores(views)
    assert list(crossed) == ["HR-HR", "HR-LR", "LR-LR"]
    assert np.array_equal(crossed["HR-LR"], views.scores(HR, LR36))
    curve = scores_by_resolution(views, (HR, 2, LR36))
    assert list(curve) == [2, 36, 144]
    assert np.array_equal(curve[36], crossed["LR-LR"]) and np.array_equal(curve[144], crossed["HR-HR"])
    assert not np.allclose(curve[2], curve[144], atol=0.01), "two pixels show something else"


def test_faces_have_no_accuracy_at_more_pixels_than_they_have(packed, compute):
    pairs = packed.pairs["dev-lowres"] if "dev-lowres" in packed.pairs else packed.pairs["hres"]
    stored = pairs.split.size
    resolutions = (2, stored, stored + 1, 500, HR)
    curve = scores_by_resolution(pair_views(Pixels(), pairs, stored, compute, resolutions), resolutions)
    assert list(curve) == [2, stored]


def test_ranks_against_scikit_learn():
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((30, 8)).astype(np.float32)
    labels = np.sort(rng.permutation(100)[:30]).astype(np.int64)
    own = rng.integers(0, 30, 200)
    probes = gallery[own] + 1.5 * rng.standard_normal((200, 8)).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    found = ranks(probes, labels[own], gallery, labels)
    rates = identify(probes, labels[own], gallery, labels)
    for k in (1, 5):
        reference = top_k_accuracy_score(own, probes @ gallery.T, k=k, labels=np.arange(30))
        assert (found <= k).mean() == rates[f"rank{k}"] == pytest.approx(reference)
        low, high = rates[f"rank{k}_ci"]
        assert low < reference < high


def test_a_tie_counts_against_the_probe():
    gallery = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    assert ranks(gallery[:1], np.array([5]), gallery, np.array([5, 6, 7])).tolist() == [2]


def test_identification_of_the_tiny_tree(packed, compute):
    split = packed.splits["highres_eval"]
    gallery, probes = gallery_and_probes(split.labels)
    assert len(gallery) == split.identities and len(gallery) + len(probes) == split.samples
    found = identify_split(Pixels(), split, 144, compute)
    assert found["gallery"] == 12 and found["probes"] == 24
    for name, view in (("HR", 0), ("LR", 36)):
        rows = embed(Pixels(), split, 144, compute, degrade=view)
        shelf = embed(Pixels(), split, 144, compute)[gallery]
        best = [split.labels[gallery[np.argmax(shelf @ row)]] for row in rows[probes]]
        assert found[name]["rank1"] == pytest.approx(np.mean(best == split.labels[probes]))
        assert found[name]["rank1"] <= found[name]["rank5"]


def test_identification_needs_a_second_picture(packed, compute, monkeypatch):
    split = packed.splits["highres_eval"]
    monkeypatch.setattr(
        "hrfr_fast.evaluation.gallery.gallery_and_probes", lambda labels: (np.arange(3), np.empty(0, np.int64))
    )
    with pytest.raises(UsageError, match="second picture"):
        identify_split(Pixels(), split, 144, compute)


def test_torch_is_left_as_it_was(packed, compute):
    model = Pixels().train()
    pair_views(model, packed.pairs["hres"], 144, compute, (HR,))
    assert model.training and torch.is_grad_enabled()
