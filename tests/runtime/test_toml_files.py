"""TOML as editors and locales write it."""

import os

import pytest

from hrfr_fast.regimes import load_regime
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.toml_files import read_toml, write_toml
from hrfr_fast.settings import TrainSettings, load_settings
from hrfr_fast.study.presets import load_preset

BOM = b"\xef\xbb\xbf"


def test_files_of_windows_editors_are_read(tmp_path):
    """A byte order mark and carriage returns, in every kind of file that a user writes."""
    settings, regime, preset = (tmp_path / f"{name}.toml" for name in ("settings", "regime", "preset"))
    settings.write_bytes(BOM + b'width = 8\r\ndata = "donn\xc3\xa9es"\r\n')
    regime.write_bytes(BOM + b'sources = ["lowres"]\r\ninput_size = 32\r\n')
    preset.write_bytes(BOM + b'base = "cpu-small"\r\nseeds = 2\r\n')
    loaded = load_settings(settings)
    assert (loaded.model.width, loaded.data) == (8, "données")
    assert load_regime(regime).input_size == 32 and load_preset(preset).seeds == 2


@pytest.mark.parametrize(
    "content,message",
    [
        ("seed = 1".encode("utf-16"), "it is UTF-16 text; save it as UTF-8"),
        (b"seed = \xff", "cannot be read as settings"),
        (b"seed =", "cannot be read as settings"),
    ],
)
def test_what_is_no_toml_is_told(tmp_path, content, message):
    (tmp_path / "settings.toml").write_bytes(content)
    with pytest.raises(UsageError, match=rf"settings.toml: .*{message}"):
        read_toml(tmp_path / "settings.toml", "settings")


@pytest.mark.parametrize("name", [b"donn\xc3\xa9es", b"d\xe9", b"a\x80\xff"])
def test_a_path_of_any_bytes_survives(tmp_path, name):
    settings = TrainSettings(data=os.fsdecode(name))
    settings.save(tmp_path / "settings.toml")
    assert os.fsencode(load_settings(tmp_path / "settings.toml").data) == name
    write_toml(tmp_path / "other.toml", {"path": os.fsdecode(name)})
    assert name in (tmp_path / "other.toml").read_bytes(), "as it is on the disk"
