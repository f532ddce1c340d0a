"""What is kept of a run's embedding space, and the rates made of it, on clouds of known position."""

import numpy as np
import pytest

from hrfr_fast.analysis.maps import unit
from hrfr_fast.study.space import CPD, LINEAR, NONE, SpaceResult, arrays_of, space_of

pytest.importorskip("sklearn")  # here, for its import sets environment variables, which no test may leave behind
IDENTITIES = np.repeat(np.arange(40), 3)


def clouds(seed, shift):
    """High- and low-resolution views [120, 8] of 40 people; the latter moved by ``shift`` along one axis."""
    rng = np.random.default_rng(seed)
    people = np.repeat(rng.standard_normal((40, 8)), 3, axis=0)
    high = people + 0.4 * rng.standard_normal((120, 8))
    return unit(high), unit(high + 0.2 * rng.standard_normal((120, 8)) + shift * np.eye(8)[0])


@pytest.fixture(scope="module")
def found():
    spaces = {
        label: {seed: arrays_of(*clouds(seed, shift), IDENTITIES) for seed in range(3)}
        for label, shift in (("lowres144", 0.0), ("highlow144", 3.0))
    }
    return space_of(spaces | {"crossres144": {0: {}}}, IDENTITIES)


def test_a_shifted_cloud_is_told_apart_and_a_linear_map_brings_it_back(found):
    assert set(found.regimes) == {"lowres144", "highlow144"}, "what was not measured is left out"
    methods = found.regimes["highlow144"].methods
    before, after = (methods[name].probe_auc.value for name in (NONE, LINEAR))
    assert before > 0.85 and after < 0.75, (before, after)
    assert methods[LINEAR].accuracy_gain.interval[0] > 0 and methods[LINEAR].d_prime_gain.interval[0] > 0
    assert methods[NONE].accuracy_gain.value == 0 and len(methods[CPD].accuracy.by_seed) == 3
    assert found.regimes["lowres144"].methods[NONE].probe_auc.value < 0.7


def test_the_overlap_of_two_regimes_is_compared_pairwise(found):
    gain, regimes = found.overlap_gain, found.regimes
    assert gain.value == pytest.approx(regimes["highlow144"].overlap.value - regimes["lowres144"].overlap.value)
    assert gain.interval[0] > 0 and set(regimes["lowres144"].effective_rank) == {"0", "1", "2"}


def test_too_few_people_leave_out_what_needs_more():
    high, low = clouds(0, 1.0)
    assert arrays_of(high[:3], low[:3], IDENTITIES[:3]) == {}, "one person forms no pair of two"
    few = arrays_of(high[:9], low[:9], IDENTITIES[:9])
    assert set(few) == {"across", "effective rank"}
    assert space_of({"highlow144": {0: few}}, IDENTITIES[:9]).regimes["highlow144"].methods == {}
    names = np.repeat(np.arange(8), 2)
    pairs = arrays_of(high[:16], low[:16], names)
    assert space_of({"highlow144": {0: pairs}}, names).regimes["highlow144"].methods == {}, "8 genuine pairs"
    assert space_of({"lowres32": {0: {}}}, IDENTITIES) == SpaceResult({}, None)
