import numpy as np
import pytest

from hrfr_fast.face_templates import ARCFACE
from hrfr_fast.resampling.similarity import similarity_transform, warped


def test_a_known_transform_is_found_again_and_noise_is_averaged():
    rng = np.random.default_rng(0)
    angle, scale, shift = 0.4, 1.7, np.array([13.0, -5.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    template = np.array(ARCFACE.landmarks)
    matrix = similarity_transform(template, template @ turn.T + shift)
    assert np.allclose(matrix, np.column_stack([turn, shift]))
    noisy = template + rng.normal(size=template.shape)
    matrix = similarity_transform(noisy, template)

    def error(a, b, x, y):
        moved = noisy @ np.array([[a, b], [-b, a]]) + (x, y)
        return ((moved - template) ** 2).sum()

    best = [matrix[0, 0], matrix[1, 0], *matrix[:, 2]]
    for step in np.concatenate([np.eye(4), -np.eye(4)]) * 1e-3:
        assert error(*(np.array(best) + step)) > error(*best), "no other turn, scale and shift fits better"


def test_a_mirrored_face_is_not_mirrored_back():
    template = np.array(ARCFACE.landmarks)
    matrix = similarity_transform(template * (-1, 1), template)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_the_warp_puts_landmarks_on_the_template():
    template = np.array(ARCFACE.landmarks)
    points = np.round(template[:, ::-1] * (-1.5, 1.5) + (180, 20))  # a face on its side, half as large again
    image = np.zeros((220, 220, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(220), np.arange(220)[:, None]  # red says x, green says y
    matrix = similarity_transform(points, template)
    aligned = warped(image, matrix, 112, 112)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    for x, y in np.round(template).astype(int):
        expected = inverse @ (x, y, 1)
        assert np.abs(aligned[y, x, :2] - expected[:2]).max() < 1.5
    assert aligned.shape == (112, 112, 3)


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan)], ids=["one point", "no numbers"])
def test_landmarks_that_say_nothing_are_refused(points):
    with pytest.raises(ValueError, match="landmarks are one point, or no numbers"):
        similarity_transform(points, ARCFACE.landmarks)
