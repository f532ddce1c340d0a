"""Distances, sphere, kernels, drift and failures on data whose answers are known."""

import numpy as np
import pytest

from hrfr_fast.analysis import distances, drift, failures, kernels, uniformity
from hrfr_fast.analysis.intervals import sample_value
from hrfr_fast.analysis.maps import unit
from hrfr_fast.analysis.models import Model
from hrfr_fast.evaluation.verification import verify

stats = pytest.importorskip("scipy.stats")


def test_overlap_and_d_prime_of_two_normal_distributions():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(2, 1, 40_000), random.normal(0, 1, 40_000)])
    same = np.arange(80_000) < 40_000
    assert sample_value(distances.d_prime_statistic(values, same), len(values)) == pytest.approx(2, abs=0.03)
    assert sample_value(distances.overlap_statistic(values, same), len(values)) == pytest.approx(
        2 * stats.norm.cdf(-1), abs=0.01
    )


def test_weights_count_as_repetitions():
    random = np.random.default_rng(0)
    values, same = random.standard_normal(50), np.arange(50) < 20
    values[[0, -1]] = -3.0, 3.0  # the range, and so the bins, of both
    weights = random.integers(1, 4, 50)
    for statistic in (distances.overlap_statistic, distances.d_prime_statistic):
        weighted = statistic(values, same)(weights[None].astype(float))[0]
        assert weighted == pytest.approx(
            sample_value(statistic(values.repeat(weights), same.repeat(weights)), weights.sum())
        )


def test_euclidean_is_the_distance_of_unit_vectors():
    a, b = uniformity.uniform_points(50, 7, 0), uniformity.uniform_points(50, 7, 1)
    assert distances.euclidean((a * b).sum(axis=1)) == pytest.approx(np.linalg.norm(a - b, axis=1))


def test_a_uniform_sphere_is_accepted_as_often_as_promised():
    clouds = [uniformity.uniform_points(200, 3, seed) for seed in range(400)]
    p_values = np.array([[uniformity.rayleigh(cloud), uniformity.bingham(cloud)] for cloud in clouds])
    assert (p_values < 0.05).mean(axis=0) == pytest.approx([0.05, 0.05], abs=0.035)


def test_points_that_are_not_uniform_are_rejected_each_by_the_test_made_for_it():
    random = np.random.default_rng(0)
    leaning = stats.vonmises_fisher([0, 0, 1], 1.0, seed=random).rvs(300)
    assert uniformity.rayleigh(leaning) < 1e-6
    axial = leaning * np.sign(random.standard_normal((300, 1)))  # no mean direction any more
    ring = unit(random.standard_normal((300, 3)) * [1, 1, 0.3])
    assert uniformity.rayleigh(ring) > 1e-3 and uniformity.bingham(ring) < 1e-6
    assert uniformity.rayleigh(axial) > 1e-3
    clumps = unit(np.repeat(uniformity.uniform_points(60, 3, 2), 5, axis=0) + 0.02 * random.standard_normal((300, 3)))
    ratio, p = uniformity.nearest_neighbours(clumps, draws=199)
    assert ratio < 0.5 and p <= 0.01
    assert uniformity.occupancy(leaning)["uniform_p"] < 0.01


def test_nearest_neighbours_of_uniform_points_and_of_a_lattice():
    ratio, p = uniformity.nearest_neighbours(uniformity.uniform_points(200, 3, 12), draws=199)
    assert ratio == pytest.approx(1, abs=0.15) and p > 0.01
    number = np.arange(200) + 0.5
    up, around = 1 - 2 * number / 200, np.pi * (1 + 5**0.5) * number  # Fibonacci lattice: as even as can be
    flat = np.sqrt(1 - up**2)
    lattice = np.stack([flat * np.cos(around), flat * np.sin(around), up], axis=1)
    ratio, p = uniformity.nearest_neighbours(lattice, draws=199)
    assert ratio > 1.5 and p <= 0.01


def test_uniformity_alignment_and_effective_rank():
    assert uniformity.uniformity(np.tile([[1.0, 0, 0]], (20, 1))) == pytest.approx(0)
    # Uniform on the 2-sphere: |x - y|^2 is uniform on [0, 4], so the mean of exp(-2 d) is (1 - exp(-8)) / 8.
    assert uniformity.uniformity(uniformity.uniform_points(4000, 3)) == pytest.approx(
        np.log((1 - np.exp(-8)) / 8), abs=0.01
    )
    assert uniformity.alignment(np.array([1.0, 0.5])) == pytest.approx(0.5)
    random = np.random.default_rng(0)
    assert uniformity.effective_rank(random.standard_normal((5000, 10)) + 7) == pytest.approx(10, abs=0.05)
    assert uniformity.effective_rank(np.outer(random.standard_normal(50), np.ones(6)) + 3) == pytest.approx(1)


def test_matching_recovers_a_permutation_that_noise_hides():
    random = np.random.default_rng(0)
    first = random.standard_normal((16, 3, 3, 3))
    order = random.permutation(16)
    second = np.empty_like(first)
    second[order] = 2.5 * first + 0.2 * random.standard_normal(first.shape)
    columns, cosines = kernels.match(first, second)
    assert (columns == order).all() and cosines.min() > 0.9
    assert kernels.compare_filters(first, second)["rotated_control_p"] < 0.01
    unrelated = kernels.compare_filters(first, random.standard_normal((16, 3, 3, 3)))
    assert unrelated["rotated_control_p"] > 0.01 and unrelated["matched_cosine"] > unrelated["unmatched_cosine"]


def test_filters_of_plain_colour_have_all_of_their_power_there():
    colour = np.ones((1, 3, 3, 3)) * np.array([1.0, -2, 0.5])[:, None, None]
    edge = np.zeros((1, 3, 3, 3))
    edge[0, :, 0], edge[0, :, 2] = 1, -1
    shares = [kernels.plain_share(filters) for filters in (colour, edge, np.concatenate([colour, edge]))]
    assert shares == pytest.approx([1, 0, 0.5])
    assert kernels.spectrum(colour)[0] < 0.4, "mean power by frequency is another quantity"


def test_initial_similarity_follows_from_seed_shape_and_parents(tmp_path):
    def model(seed, width=8, parents=()):
        metadata = {"backbone": {"width": width}, "parents": list(parents)}
        return Model("m", tmp_path, metadata, {} if seed is None else {"seed": seed})

    assert kernels.initial_similarity(model(0), model(0)) == "same initialisation"
    assert (
        kernels.initial_similarity(model(0), model(1))
        == kernels.initial_similarity(model(0), model(0, width=16))
        == "independent"
    )
    assert kernels.initial_similarity(model(0), model(1, parents=["lowres144"])) == "fine-tuned"
    assert kernels.initial_similarity(model(0), model(None)) == "unknown"


def test_the_spectrum_separates_plain_from_striped_filters():
    plain = np.ones((4, 3, 3, 3))
    striped = np.ones((4, 3, 3, 3)) * np.array([1.0, -2.0, 1.0])
    assert kernels.spectrum(plain)[:4].sum() > 0.9 and kernels.spectrum(striped)[:4].sum() < 0.1
    assert kernels.spectrum(plain).argmax() == 0
    assert kernels.spectrum(plain).sum() == pytest.approx(1)


def test_cka_ignores_rotation_scale_and_shift_and_is_centred_kernel_alignment():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((120, 6)), random.standard_normal((120, 9))
    assert drift.linear_cka(x, 3 * x @ stats.ortho_group.rvs(6, random_state=1) + 5) == pytest.approx(1)
    centring = np.eye(120) - 1 / 120
    k, m = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring  # by its definition on kernel matrices
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert drift.linear_cka(x, y) == pytest.approx(expected)
    assert drift.cka_of_chance(x, y) == pytest.approx(expected, abs=0.05)


def test_an_old_gallery_serves_rotated_probes_only_after_procrustes():
    random = np.random.default_rng(0)
    identities = np.repeat(np.arange(50), 3)
    old = unit(random.standard_normal((50, 12))[identities] + 0.3 * random.standard_normal((150, 12)))
    new = old @ stats.ortho_group.rvs(12, random_state=2)
    numbers, results, pairs = drift.compare_spaces(old, new, identities)
    assert numbers["cka"] == pytest.approx(1) and abs(numbers["mean_cosine"]) < 0.3
    accuracy = {name: entry["accuracy"] for name, entry in numbers["verification"].items()}
    assert accuracy["old gallery, new probes"] < 0.7
    assert accuracy["the same after Procrustes"] == pytest.approx(accuracy["old with old"], abs=0.02)
    assert accuracy["the same after linear map"] > 0.9
    assert results["old with old"].scores == pytest.approx(results["new with new"].scores)
    other, nothing, _ = drift.compare_spaces(old, new[:, :5], identities)
    assert other["dimensions"] == [12, 5] and not nothing


def test_failures_and_flips():
    random = np.random.default_rng(0)
    same = np.arange(400) < 200
    base = same * 2.0 + random.standard_normal(400)
    first, second = verify(base, same, resamples=0), verify(base + 0.8 * random.standard_normal(400), same, resamples=0)
    tally = failures.counts(first)
    assert tally["false_accepts"] + tally["false_rejects"] == (~first.correct).sum()
    worst = failures.hardest(first, same=False)
    assert not same[worst].any() and (np.diff(first.scores[worst]) <= 0).all() and not first.correct[worst].any()
    assert failures.hardest(first, same=True)[0] == np.flatnonzero(same)[first.scores[same].argmin()]
    changed = failures.flips(first, second)
    lost, won = changed["lost"], changed["won"]
    assert first.correct[lost].all() and not second.correct[lost].any() and second.correct[won].all()
    assert len(won) - len(lost) == second.correct.sum() - first.correct.sum()
    moved = failures.margins(second) - failures.margins(first)
    assert (np.diff(moved[lost]) >= 0).all() and (np.diff(moved[won]) <= 0).all()
