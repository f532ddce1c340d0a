import numpy as np
import pytest

from hrfr_fast.analysis import cpd, maps
from hrfr_fast.analysis.alignment import METHODS, evaluate_map, fit_maps
from hrfr_fast.analysis.pairing import fitting_half, identity_pairs
from hrfr_fast.runtime.errors import UsageError

ortho_group = pytest.importorskip("scipy.stats").ortho_group
pycpd = pytest.importorskip("pycpd")


def cloud(count, dimensions, seed=0):
    """A lopsided cloud, so that only one map fits."""
    random = np.random.default_rng(seed)
    return random.gamma(2.0, 1.0, (count, dimensions)) * np.linspace(1, 2, dimensions)


def rotation(dimensions, angle):
    """A turn by ``angle`` (radians) in each plane of neighbouring axes."""
    turn = np.eye(dimensions)
    for axis in range(dimensions - 1):
        step = np.eye(dimensions)
        step[axis : axis + 2, axis : axis + 2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turn = turn @ step
    return turn


@pytest.mark.parametrize("outliers", [0.0, 0.2])
@pytest.mark.parametrize("dimensions", [3, 6])
def test_our_affine_drift_is_pycpds_step_for_step(dimensions, outliers):
    source = cloud(80, dimensions)
    target = cloud(90, dimensions, seed=1) @ rotation(dimensions, 0.2) + 0.3
    reference = pycpd.AffineRegistration(X=target, Y=source, w=outliers, max_iterations=12, tolerance=0)
    reference.register()
    matrix, offset = reference.get_registration_parameters()
    ours = cpd.affine(target, source, outliers=outliers, iterations=12, tolerance=0, chunk=32)
    assert ours.matrix == pytest.approx(matrix, abs=1e-6)
    assert ours.offset == pytest.approx(np.ravel(offset), abs=1e-6)
    assert ours.sigma2 == pytest.approx(reference.sigma2, rel=1e-6)


def test_drift_finds_a_known_affine_map_without_being_told_the_pairs():
    source = cloud(150, 4)
    matrix = rotation(4, 0.15) * 1.1
    target = (source @ matrix + 0.5)[np.random.default_rng(0).permutation(150)]
    found = cpd.affine(target, source, outliers=0.0, iterations=300, tolerance=1e-9)
    assert found.matrix == pytest.approx(matrix, abs=1e-3) and found.offset == pytest.approx(np.full(4, 0.5), abs=5e-3)


def test_rigid_drift_finds_a_known_rotation_in_three_dimensions():
    source = cloud(120, 3)
    turn = rotation(3, 0.3)
    found = cpd.with_pycpd((source @ turn + 1)[::-1], source, "rigid", outliers=0.0)
    assert found.matrix == pytest.approx(turn, abs=0.02)


def test_procrustes_recovers_a_rotation_and_the_linear_map_any_map():
    source = cloud(200, 8)
    turn = ortho_group.rvs(8, random_state=0)
    fresh = cloud(50, 8, seed=5)
    assert maps.procrustes(source, source @ turn + 2)(fresh) == pytest.approx(fresh @ turn + 2)
    skewed = np.random.default_rng(1).standard_normal((8, 8))
    assert maps.linear(source, source @ skewed - 1)(fresh) == pytest.approx(fresh @ skewed - 1, abs=1e-3)
    assert np.abs(maps.procrustes(source, source @ skewed)(fresh) - fresh @ skewed).max() > 0.5


def test_the_controls_move_what_they_say():
    source, target = cloud(3000, 5), cloud(3000, 5, seed=1) @ rotation(5, 0.7) - 4
    moved = maps.translation(source, target)(source)
    assert moved.mean(axis=0) == pytest.approx(target.mean(axis=0))
    assert np.cov(moved.T) == pytest.approx(np.cov(source.T))
    recoloured = maps.coral(source, target)(source)
    assert recoloured.mean(axis=0) == pytest.approx(target.mean(axis=0))
    assert np.cov(recoloured.T) == pytest.approx(np.cov(target.T), abs=0.1)


def test_a_map_of_few_axes_leaves_the_others_alone():
    points = cloud(60, 10)
    shift = cpd.Affine(np.eye(3), np.array([1.0, 2.0, 3.0]), 1, 0.1)
    reduced = maps.coherent_point_drift(points, points + 1, 3, lambda target, source: shift)
    moved = reduced(points) - points
    assert moved == pytest.approx(np.tile(reduced.axes @ [1, 2, 3], (60, 1)))
    assert reduced.project(moved + reduced.mean) == pytest.approx(np.tile([1.0, 2, 3], (60, 1)))


def test_every_method_on_a_gap_that_a_shift_closes():
    """Faces in a second view, moved far along one axis: unaligned they all look alike; every map must help."""
    random = np.random.default_rng(0)
    identities = np.repeat(np.arange(60), 3)
    faces = random.standard_normal((60, 12))[identities]
    hr = maps.unit(faces + 0.4 * random.standard_normal(faces.shape))
    lr = maps.unit(hr + 0.2 * random.standard_normal(hr.shape) / np.sqrt(12) + 2.0 * np.eye(12)[0])
    fitted = fitting_half(identities)
    methods = fit_maps(lr[fitted], hr[fitted])
    held_out = identities[~fitted]
    pairs = identity_pairs(held_out, ordered=True)
    numbers = {
        name: evaluate_map(hr[~fitted], lr[~fitted], mapped, pairs, held_out)[0] for name, mapped in methods.items()
    }
    assert set(numbers) == set(METHODS)
    assert numbers["none"]["probe_auc"] > 0.99 and numbers["none"]["auc"] < 0.95
    assert numbers["linear map"]["auc"] > 0.97 and numbers["translation (control)"]["probe_auc"] < 0.8
    for name in set(METHODS) - {"none"}:
        assert numbers[name]["same_picture_cosine"] > numbers["none"]["same_picture_cosine"], name


def test_pairs_and_halves():
    identities = np.array([3, 3, 1, 1, 1, 2, 0])
    pairs = identity_pairs(identities, ordered=False)
    genuine = set(zip(pairs.first[pairs.same].tolist(), pairs.second[pairs.same].tolist(), strict=True))
    assert genuine == {(0, 1), (2, 3), (2, 4), (3, 4)} and (~pairs.same).sum() == 4
    across = identity_pairs(identities, ordered=True)
    assert across.same.sum() == 8 and (across.first != across.second).all()
    first, second = across.identities[0::2], across.identities[1::2]
    assert ((first == second) == across.same).all() and (first == identities[across.first]).all()
    people = np.repeat(np.arange(9), 4)
    fitted = fitting_half(people)
    assert len(set(people[fitted])) == 4 and not set(people[fitted]) & set(people[~fitted])
    with pytest.raises(UsageError, match="two pictures of one"):
        identity_pairs(np.arange(5), ordered=True)
    with pytest.raises(UsageError, match="too few"):
        fitting_half(np.arange(3))
