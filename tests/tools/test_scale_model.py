"""The model of very large sets: its arithmetic by hand, and that the page shows what it says."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hrfr_fast.model.backbone import BackboneSettings
from tools import scale_model
from tools.scale_model import Cluster, Job, Model, Network, saved_bytes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model():
    return Model(Job(faces=1e6, people=1e5, batch=64), Cluster(2, 2), Network(10_000_000, 1e7, 0.010), 0.5)


def test_memory_and_traffic_are_those_of_a_hand_calculation(model):
    assert model.disk_bytes(1000) == 1e6 * (1000 + 24 + 24 + 4)
    assert model.head_bytes == 3 * 4 * 1e5 * 512 / 4 and model.backbone_bytes == 3 * 4 * 1e7
    assert model.activation_bytes == 64 * 1e7 and model.pixel_bytes == 1e6 * 3 * 112 * 112 / 4
    assert model.gradient_bytes == pytest.approx(2 * 3 / 4 * 4 * 1e7), "each link of a ring of 4"
    # Gathered: 3 others' 64 x 512 numbers. Summed: twice 3/4 of all 256 x 512. Vectors: three sums of 256 numbers.
    numbers = 3 * 64 * 512 + 2 * 3 / 4 * (256 * 512 + 3 * 256)
    assert model.head_exchange_bytes == pytest.approx(4 * numbers)


def test_a_step_takes_the_measured_rate_or_the_share_of_the_roofline(model):
    head = 6 * 64 * 1e5 * 512 / 790e12
    assert model.head_seconds == pytest.approx(head), "whatever the number of cards"
    assert model.step_seconds == pytest.approx((0.010 + head) / 0.5)
    measured = Model(model.job, model.cluster, model.network, measured_rate=3200)
    assert measured.step_seconds == 64 / 3200 and measured.rate == 3200


def test_saved_activations_are_those_that_autograd_keeps():
    """At twice the side four times the maps; a network of half the width keeps half."""
    small = saved_bytes(BackboneSettings(input_size=32, width=8, embedding_size=16))
    large = saved_bytes(BackboneSettings(input_size=64, width=8, embedding_size=16))
    wide = saved_bytes(BackboneSettings(input_size=32, width=16, embedding_size=16))
    assert large / small == pytest.approx(4, rel=0.1) and wide / small == pytest.approx(2, rel=0.15)
    assert small > 8 * 32 * 32 * 2, "at least the first maps, in bf16"


def test_one_machine_has_no_network_between_machines():
    alone = Model(Job(), Cluster(1, 1), Network(10_000_000, 1e7, 0.010))
    assert alone.gradient_bytes == 0 == alone.head_exchange_bytes
    assert not any("between" in what for _, what, _, _ in alone.traffic())
    assert all("Ethernet" not in what for what, *_ in alone.limits())


def test_the_page_shows_the_tables():
    made = CliRunner().invoke(scale_model.app, [])
    assert made.exit_code == 0, made.output
    page = (ROOT / "docs/explanation/scale.md").read_text(encoding="utf-8")
    assert made.stdout.strip() in page, "python tools/scale_model.py has other tables than docs/explanation/scale.md"
