"""A manifest whose entries are not what they should be is refused with the entry, the value and the rule."""

import json
import shutil

import pytest

from hrfr_fast.format import manifest
from hrfr_fast.format.reader import open_packed
from hrfr_fast.runtime.errors import DamageFound

CASES = {
    "a number as text": (("splits", "lowres", "samples"), "144", "splits.lowres: samples is '144'; it must be a valid"),
    "no pictures": (("splits", "highres", "samples"), 0, "splits.highres: samples is 0; it must be greater"),
    "pictures of any size": (("splits", "lowres", "size"), 65535, "splits.lowres: size is 65535; it must be less"),
    "pairs of any size": (("pairs", "hres", "size"), 4097, "pairs.hres: size is 4097; it must be less"),
    "names that are no list": (("splits", "lowres", "identity_names"), "l0", "splits.lowres: identity_names is 'l0'"),
    "a share over 1": (("pairs", "hres", "identity_coverage"), 1.5, "pairs.hres: identity_coverage is 1.5; it must be"),
    "a key that is missing": (("pairs", "hres", "kind"), None, "pairs.hres: kind is missing"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_entry_is_named(tiny_packed, tmp_path, case):
    path, value, message = CASES[case]
    shutil.copytree(tiny_packed, tmp_path / "packed")
    content = json.loads((tmp_path / "packed" / manifest.NAME).read_bytes())
    del content[manifest.CHECKSUM]  # as earlier versions wrote it
    *parents, last = path
    entry = content
    for name in parents:
        entry = entry[name]
    if value is None:
        del entry[last]
    else:
        entry[last] = value
    (tmp_path / "packed" / manifest.NAME).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DamageFound) as refused:
        open_packed(tmp_path / "packed")
    assert message in str(refused.value)
