import re

import pytest

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import TrainSettings, augment_fields, flat_fields, load_settings


def test_saved_settings_load_as_they_were(tmp_path):
    settings = TrainSettings(regime="lowres32", steps=5, learning_rate=0.3).updated({"augment": {"flip": 0.0}}, "test")
    settings.save(tmp_path / "settings.toml")
    assert load_settings(tmp_path / "settings.toml") == settings


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    (tmp_path / "mine.toml").write_text('batch_size = "auto"\nseed = 4\nmargin = 1\n[augment]\nblur = 0.25\n')
    settings = load_settings(tmp_path / "mine.toml").updated({"seed": 9, "batch_size": "96"}, "command line")
    assert (settings.seed, settings.sampling.batch_size, settings.loss.margin) == (9, 96, 1.0)
    assert settings.augment == TrainSettings().augment.replaced(blur=0.25)
    assert load_settings(tmp_path / "mine.toml").sampling.batch_size is None


def test_what_was_given_is_known_be_it_the_default():
    given = TrainSettings(log_every=10, regime="lowres32").updated({"engine": "auto"}, "test")
    assert given.given == {"log_every", "regime", "engine"} and given.logging.log_every == 10
    assert given.replaced(augment={"flip": 0.1}).augment.flip == 0.1


@pytest.mark.parametrize(
    "text,message",
    [
        ("sed = 1", "mine.toml: there is no 'sed'; there are .*seed"),
        ("seed = 1.5", "mine.toml: seed is 1.5; it must be a valid integer"),
        ("seed = -1", "seed is -1; it must be greater than or equal to 0"),
        ("width = 12", "width is 12; it must be a multiple of 8"),
        ("graphs = true", "graphs is True; it must be 'auto', 'on' or 'off'"),
        ('head = "arc"', "head is 'arc'; it must be 'arcface', "),
        ('batch_size = "many"', "batch_size is 'many'; it must be auto or a whole number"),
        ("batch_size = 10\naccumulate = 3", "10 is not a multiple of accumulate 3"),
        ("batch_size = 8\naccumulate = 8", "BatchNorm needs 2 samples in each"),
        ("augment = 3", "augment must be a table"),
        ("[augment]\nflop = 1", "augmentation: there is no 'flop'"),
        ("[augment]\nshift = 0.9", "augmentation: shift is 0.9; it must be less than or equal to 0.5"),
        ("[augment]\ndegrade_min = 60", "degrade_min is 60 and degrade_max 48"),
        ("seed =", "cannot be read as settings"),
    ],
)
def test_a_wrong_file_is_told_what_and_where(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_settings(tmp_path / "mine.toml")


def test_every_setting_has_a_flag_help_and_its_default():
    from typer.testing import CliRunner

    from hrfr_fast.cli import app

    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    settings = [*flat_fields(), *augment_fields()]
    words = re.sub(r"[^\w(:]+", " ", shown)
    for field in settings:
        flag = field.name if field.group != "augment" else f"augment-{field.name}"
        assert f"--{flag.replace('_', '-')}" in shown, field.name
        start = re.sub(r"[^\w(:]+", " ", str(field.info.description)).strip()[:25]
        assert start in words, f"{field.name}: {start}"
    assert shown.count("(default:") == len(settings)
