"""Which of two orders of colours tells people apart better."""

import numpy as np
import pytest

from hrfr_fast.evaluation.colour_order import compared

SAME = np.arange(400) % 2 == 0


@pytest.mark.parametrize("first,second,wrong", [(0.3, 2.0, True), (2.0, 0.3, False), (1.0, 1.0, False)])
def test_the_clearly_better_order_is_told(first, second, wrong):
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(2, 400))
    check = compared(noise[0] + first * SAME, noise[1] + second * SAME, SAME)
    assert check.wrong == wrong and check.pairs == 400
    assert ("clearly better" in str(check), ": the order of colours is right" in str(check)) == (wrong, first > second)


def test_areas_and_their_standard_error_are_those_of_resampling():
    generator = np.random.default_rng(1)
    face = generator.normal(size=400)  # what both orders find hard alike
    first, second = (face + generator.normal(size=400) + 1.2 * SAME for _ in range(2))

    def area(scores, same):
        genuine, impostors = scores[same], scores[~same]
        return (genuine[:, None] > impostors).mean() + 0.5 * (genuine[:, None] == impostors).mean()

    check = compared(first, second, SAME)
    assert check.as_adopted == pytest.approx(area(first, SAME)) and check.swapped == pytest.approx(area(second, SAME))
    differences = []
    for _ in range(200):
        drawn = np.concatenate([generator.choice(np.flatnonzero(kind == SAME), 200) for kind in (True, False)])
        differences.append(area(second[drawn], SAME[drawn]) - area(first[drawn], SAME[drawn]))
    expected = (check.swapped - check.as_adopted) / np.std(differences)
    assert check.z == pytest.approx(expected, rel=0.2, abs=0.1)


def test_equal_scores_tell_nothing():
    scores = np.linspace(-1, 1, 400)
    assert compared(scores, scores, SAME).z == 0 and "do not tell" in str(compared(scores, scores, SAME))
