import re
import tomllib
from dataclasses import fields, replace

import pytest

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import AugmentSettings, TrainSettings, load_settings


def test_saved_settings_load_as_they_were(tmp_path):
    settings = TrainSettings(regime="lowres32", steps=5, learning_rate=0.3).updated({"augment": {"flip": 0.0}}, "test")
    settings.save(tmp_path / "settings.toml")
    assert load_settings(tmp_path / "settings.toml") == settings


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    (tmp_path / "mine.toml").write_text('batch_size = "auto"\nseed = 4\nmargin = 1\n[augment]\nblur = 0.25\n')
    settings = load_settings(tmp_path / "mine.toml").updated({"seed": 9, "batch_size": "96"}, "command line")
    assert (settings.seed, settings.batch_size, settings.margin) == (9, 96, 1.0)
    assert settings.augment == replace(TrainSettings().augment, blur=0.25)
    assert load_settings(tmp_path / "mine.toml").batch_size == 0


@pytest.mark.parametrize(
    "text,message",
    [
        ("sed = 1", "mine.toml: there is no setting 'sed'; there are .*seed"),
        ("seed = 1.5", "mine.toml: seed must be int, it is 1.5"),
        ("seed = -1", "seed is -1; that is out of range"),
        ('head = "arc"', "head is 'arc'; it must be one of arcface"),
        ('batch_size = "many"', "batch_size must be auto or a whole number"),
        ("batch_size = 10\naccumulate = 3", "10 is not a multiple of accumulate 3"),
        ("batch_size = 8\naccumulate = 8", "BatchNorm needs 2 samples in each"),
        ("augment = 3", "augment must be a table"),
        ("[augment]\nflop = 1", "there is no augmentation 'flop'"),
        ("[augment]\nshift = 0.9", r"augmentation shift is 0.9; it must lie in \[0, 0.5\]"),
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
    for name in tomllib.loads(_as_toml()):
        if name != "augment":
            assert f"--{name.replace('_', '-')}" in shown, name
    settings = [*fields(TrainSettings), *fields(AugmentSettings)]
    words = re.sub(r"[^\w(:]+", " ", shown)
    for one in (one for one in settings if one.name != "augment"):
        start = re.sub(r"[^\w(:]+", " ", one.metadata["help"]).strip()[:25]
        assert start in words, f"{one.name}: {start}"
    assert shown.count("(default:") == len(settings) - 1


def _as_toml() -> str:
    from dataclasses import asdict

    import tomli_w

    return tomli_w.dumps(asdict(TrainSettings()))
