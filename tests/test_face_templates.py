"""Where the eyes lie in each template, and the crop that brings them a third of the side apart."""

import math

import pytest

from hrfr_fast.face_templates import ARCFACE, HRFR, SPHEREFACE, TEMPLATES, UNKNOWN, crop_box, template_named
from hrfr_fast.runtime.errors import UsageError


def eyes_in(box, template, side):
    """The eyes of a picture of ``template``, in px of its crop ``box`` at ``side`` px."""
    scale = side / box.side
    return [((x + 0.5 - box.x0) * scale, (y + 0.5 - box.y0) * scale) for x, y in template.landmarks[:2]]


def test_the_crop_of_a_112_px_face():
    box = crop_box(112, 112, ARCFACE)
    assert box.side == pytest.approx(3 * 35.2376, abs=2e-3)  # sqrt(35.2372^2 + 0.1949^2), by hand
    assert box.outside(112, 112) == 0
    assert (box.x0 + box.x1) / 2 == pytest.approx((38.2946 + 73.5318) / 2 + 0.5)
    assert (box.y0 + 4 / 9 * box.side) == pytest.approx((51.6963 + 51.5014) / 2 + 0.5)


@pytest.mark.parametrize("side", [36, 144])
def test_eyes_are_a_third_apart_at_four_ninths_of_the_height(side):
    for template, width, height in [(ARCFACE, 112, 112), (ARCFACE, 224, 224), (SPHEREFACE, 96, 112)]:
        scaled = template.scaled(width)
        (left_x, left_y), (right_x, right_y) = eyes_in(crop_box(width, height, template), scaled, side)
        assert math.hypot(right_x - left_x, right_y - left_y) == pytest.approx(side / 3)
        assert ((left_x + right_x) / 2, (left_y + right_y) / 2) == pytest.approx((side / 2, side * 4 / 9))


def test_the_studys_own_template_is_the_whole_frame():
    assert HRFR.inter_eye == pytest.approx(48)
    assert HRFR.scaled(36).inter_eye == pytest.approx(12)
    assert HRFR.between_eyes == pytest.approx((72, 64))
    for size in (36, 112, 144):
        assert crop_box(size, size, HRFR) == pytest.approx((0, 0, size, size))


CROPS = {
    "a tight crop is moved into the frame": (dict(width=112, height=112, inter_eye=112 / 3), (0, 0, 112, 112)),
    "too far apart for the frame": (dict(width=90, height=90, template=UNKNOWN, inter_eye=40), (-15, -15, 105, 105)),
    "nothing known: the centre square": (dict(width=100, height=80, template=UNKNOWN), (10, 0, 90, 80)),
    "only the distance known": (dict(width=112, height=112, template=UNKNOWN, inter_eye=20), (26, 26, 86, 86)),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected"), CROPS.values(), ids=CROPS.keys())
def test_crops(arguments, expected):
    assert crop_box(**arguments) == pytest.approx(expected)


def test_the_96_px_template_leaves_its_frame_at_the_sides_only():
    box = crop_box(96, 112, SPHEREFACE)
    assert box.x0 < 0 and box.x1 > 96 and box.y0 > 0 and box.y1 < 112
    assert box.outside(96, 112) == pytest.approx(max(-box.x0, box.x1 - 96))
    assert box.shares(96, 112) == pytest.approx((box.x0 / 96, box.y0 / 112, box.x1 / 96, box.y1 / 112))


MISTAKES = {
    "shape": (lambda: crop_box(112, 112, SPHEREFACE), "112x112 px is not of the template sphereface, which is 96x112"),
    "distance": (lambda: crop_box(112, 112, ARCFACE, 0.0), "distance between the eyes is 0 px"),
    "too far apart": (lambda: crop_box(112, 112, ARCFACE, 112.0), "less than the picture's width, 112 px"),
    "name": (lambda: template_named("arcfase"), "there is no 'arcfase'; there are arcface, hrfr, sphereface, unknown"),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_names_are_keys():
    assert all(template.name == name == template_named(name).name for name, template in TEMPLATES.items())
