import numpy as np
import pytest

from hrfr_fast.evaluation import bootstrap, verification
from hrfr_fast.evaluation.rates import resampled_rates
from hrfr_fast.evaluation.thresholds import thresholds_at_fars

metrics = pytest.importorskip("sklearn.metrics")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 40, 300)
    second = np.where(rng.random(300) < 0.5, first, (first + rng.integers(1, 40, 300)) % 40)
    same = first == second
    scores = np.round(rng.normal(same.astype(float), 1.0), 1)  # with ties
    return scores, same, np.stack([first, second], axis=1).reshape(-1).astype(np.int32)


def test_each_resample_is_what_scikit_learn_gives_for_its_weights(data):
    scores, same, identities = data
    found = resampled_rates(scores, same, identities, resamples=130)
    for resample in (0, 99, 100, 129):
        weights = bootstrap.pair_weights(same, identities, resample, 1, 0)[0]
        assert found["auc"][resample] == pytest.approx(metrics.roc_auc_score(same, scores, sample_weight=weights))
        far, tar, _ = metrics.roc_curve(same, scores, sample_weight=weights, drop_intermediate=False)
        assert found["0.1"][resample] == pytest.approx(tar[far <= 0.1].max())
        at = np.linspace(0, 1, 100_001)
        gap = np.interp(at, far, far) - (1 - np.interp(at, far, tar))
        assert found["eer"][resample] == pytest.approx(at[np.argmin(np.abs(gap))], abs=2e-3)


def test_unit_weights_give_the_verification_itself(data, monkeypatch):
    scores, same, identities = data
    weights = "hrfr_fast.evaluation.rates.weights_of_both_kinds"
    monkeypatch.setattr(weights, lambda s, i, start, n, seed: np.ones((n, len(s))))
    found = resampled_rates(scores, same, identities, resamples=1)
    result = verification.verify(scores, same, identities, resamples=0)
    assert found["auc"][0] == pytest.approx(result.auc)
    assert found["eer"][0] == pytest.approx(result.eer)
    assert {far: found[far][0] for far in result.tar_at_far} == pytest.approx(result.tar_at_far)


def test_a_resample_without_impostor_pairs_does_not_lower_the_rates():
    """Of three people a ninth of the resamples draws one alone: there is no impostor pair of which to have a rate."""
    genuine = [(person, person) for person in range(3)] * 10
    impostor = [(person, (person + 1) % 3) for person in range(3)] * 10
    identities = np.array(genuine + impostor, np.int32).reshape(-1)
    same = np.arange(60) < 30
    found = resampled_rates(np.where(same, 0.9, 0.1), same, identities, resamples=200)
    assert found["auc"].min() == 1 and found["0.1"].min() == 1 and found["eer"].max() == 0
    (threshold,) = thresholds_at_fars(np.where(same, 0.9, 0.1), same, identities, fars=[0.1], resamples=200)
    assert threshold.low == threshold.threshold == threshold.high == 0.5
