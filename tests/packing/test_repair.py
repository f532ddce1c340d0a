"""Whatever is damaged is seen by `check`, and what the message advises makes it whole again."""

import gzip
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from hrfr_fast.cli import app
from hrfr_fast.engines.base import refuse_damaged
from hrfr_fast.format.manifest import read
from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.verify import check_packed, describe_check
from hrfr_fast.packing import pack_shard
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.errors import DamageFound, Interrupted, UsageError
from hrfr_fast.runtime.signals import StopFlag

pytestmark = pytest.mark.usefixtures("no_fsync")


def run(tree, out, **settings):
    return pack(tree, out, **{"workers": 1, "show_progress": False, **settings})


def content(out):
    return {p.name: p.read_bytes() for p in out.iterdir()}


def do(message, tree):
    """Perform every command that ``message`` advises between backquotes, for the tree DATA."""
    commands = re.findall(r"`(hrfr-fast [^`]*)`", message)
    assert commands, message
    for command in commands:
        words = [str(tree) if word == "DATA" else word for word in shlex.split(command)[1:]]
        result = CliRunner().invoke(app, words)
        assert words[0] == "check" or result.exit_code == 0, result.output


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small pages and no worker processes, by the command as well."""
    monkeypatch.setitem(pack.__kwdefaults__, "page_size", 1 << 16)
    monkeypatch.setattr("hrfr_fast.packing.pack.cores", lambda: 1)


@pytest.fixture
def out(tree, tmp_path):
    """A packed directory with every kind of file in it, made with flags that the advice has to name."""
    for name in ("lowres/l000/0.jpg", "highres/h001/0.jpg"):
        (tree / name).write_bytes(b"broken")
    run(tree, tmp_path / "my packed", dev_identities=2, encoding="jpeg")
    return tmp_path / "my packed"


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def swap(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


DAMAGES = {
    "a picture's byte": ("lowres.beton", lambda p: flip(p, int(open_packed(p.parent).splits["lowres"].offsets[7]) + 9)),
    "a label": ("lowres.beton", lambda p: flip(p, 2106 + 16)),
    "padding": ("highres.beton", lambda p: flip(p, 5000)),
    "a cut shard": ("lowres.beton", lambda p: p.write_bytes(p.read_bytes()[:-100])),
    "an empty shard": ("lowres.beton", lambda p: p.write_bytes(b"")),
    "no shard": ("lowres.beton", lambda p: p.unlink()),
    "a checksum": ("highres.crc32", lambda p: flip(p, 5)),
    "no checksums": ("highres.crc32", lambda p: p.unlink()),
    "an identity of a pair": ("pairs-dev-lowres.identities.npy", lambda p: flip(p, -1)),
    "no identities": ("pairs-dev-lowres.identities.npy", lambda p: p.unlink()),
    "a cut manifest": ("manifest.json", lambda p: p.write_bytes(p.read_bytes()[:-50])),
    "no manifest": ("manifest.json", lambda p: p.unlink()),
    "a name in the manifest": ("manifest.json", lambda p: swap(p, '"l001"', '"l011"')),
    "a size in the manifest": ("manifest.json", lambda p: swap(p, '"size": 144', '"size": 145')),
    "a byte of the listing": ("lowres.sources.gz", lambda p: flip(p, -20)),
    "the header of the listing": ("lowres.sources.gz", lambda p: flip(p, 5)),
    "a cut listing": ("lowres.sources.gz", lambda p: p.write_bytes(p.read_bytes()[:-3])),
    "more behind the listing": ("lowres.sources.gz", lambda p: p.write_bytes(p.read_bytes() + bytes(3))),
    "the listing of another shard": (
        "lowres.sources.gz",
        lambda p: shutil.copy(p.with_name("highres.sources.gz"), p),
    ),
    "no listing": ("lowres.sources.gz", lambda p: p.unlink()),
    "a reason in the quarantine": ("quarantine.jsonl", lambda p: flip(p, -9)),
    "a cut quarantine": ("quarantine.jsonl", lambda p: p.write_bytes(p.read_bytes().split(b"\n")[0] + b"\n")),
    "no quarantine": ("quarantine.jsonl", lambda p: p.unlink()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_seen_and_the_advice_repairs_it(tree, out, name):
    file, damage = DAMAGES[name]
    before = content(out)
    damage(out / file)
    checked = CliRunner().invoke(app, ["check", str(out)])
    assert isinstance(checked.exception, DamageFound | UsageError), checked.output
    if file in ("manifest.json", "quarantine.jsonl"):
        assert file in checked.output + str(checked.exception)
    else:
        assert file.split(".")[0] in checked.output
    advice = str(checked.exception)
    if file == "manifest.json":  # what the flags were is lost with it
        advice = advice.replace(" --out", " --dev-identities 2 --encoding jpeg --out")
    do(advice, tree)
    assert content(out) == before and CliRunner().invoke(app, ["check", str(out)]).exit_code == 0


def test_random_damage_anywhere_is_seen(out):
    random = np.random.default_rng(7)
    for file in sorted(out.iterdir()):
        data = file.read_bytes()
        for at in random.integers(0, len(data), 8).tolist():
            flip(file, at)
            assert check_packed(out), f"{file.name}, byte {at}"
            file.write_bytes(data)
    assert check_packed(out) == []


def test_check_says_what_it_covers(out):
    (out / "notes.txt").touch()
    (out / ".packing").mkdir()
    said = "\n".join(describe_check(out))
    assert all(name in said.splitlines()[0] for name in content_names(out))
    assert "no part of the pack: notes.txt" in said and "unfinished work in .packing" in said


def content_names(out):
    return [p.name for p in out.iterdir() if p.is_file() and p.name != "notes.txt"]


def test_a_training_that_meets_damage_advises_what_repairs_it(tree, out):
    split = open_packed(out).splits["lowres"]
    before = content(out)
    flip(split.path, int(split.offsets[3]) + 50)
    with pytest.raises(DamageFound, match="record 3 does not match") as error:
        refuse_damaged(split, np.arange(split.samples))
    do(str(error.value), tree)
    assert content(out) == before


OPENED = {
    "no such directory": lambda tree, out: out / "nowhere",
    "nothing in it": lambda tree, out: tree / "lowres/l000",
    "a shard missing": lambda tree, out: (out / "lowres.beton").unlink() or out,
    "synthetic faces without files": lambda tree, out: synthesized(out.parent / "synth"),
}


@pytest.mark.parametrize("name", OPENED)
def test_what_cannot_be_opened_is_made_by_what_the_message_advises(tree, out, name):
    packed = OPENED[name](tree, out)
    with pytest.raises(UsageError) as error:
        open_packed(packed)
    shutil.copytree(tree, tree.with_name("copy"))  # DATA: `nothing in it` lies in the tree itself
    do(str(error.value), tree.with_name("copy"))
    assert check_packed(packed) == [] and open_packed(packed)


def synthesized(out):
    assert CliRunner().invoke(app, ["synth", str(out), "--packed", "--scale", "tiny", "--workers", "1"]).exit_code == 0
    (out / "highres.crc32").unlink()
    return out


def test_a_data_tree_where_a_pack_belongs_is_told_with_both_commands(tree, out, monkeypatch):
    monkeypatch.chdir(tree.parent)
    for words in (["train", "--data", "data", "--regime", "lowres32"], ["inspect", "data"], ["check", "data"]):
        error = CliRunner().invoke(app, words).exception
        assert isinstance(error, UsageError) and "data is a data tree, not packed faces" in str(error)
        assert "`hrfr-fast pack data --out packed`" in str(error) and "--data packed" in str(error)
    do(str(error), tree)
    assert open_packed("packed").splits["lowres"].samples == 59
    with pytest.raises(UsageError, match="in .*packed.*: give that directory"):
        open_packed(tree.parent)
    with pytest.raises(UsageError, match="is a file; give the packed directory"):
        open_packed("packed/lowres.beton")


def test_what_an_earlier_version_packed_is_opened_and_kept(tree, out):
    manifest = json.loads((out / "manifest.json").read_bytes())
    for name in ("checksum", "quarantine_digest"):
        del manifest[name]
    (out / "manifest.json").write_text(json.dumps(manifest))
    for listing in out.glob("*.sources.gz"):
        first, _, rest = gzip.decompress(listing.read_bytes()).partition(b"\n")
        key = {name: value for name, value in json.loads(first).items() if name != "shard"}
        with open(listing, "wb") as raw, gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as file:
            file.write(json.dumps(key, sort_keys=True).encode() + b"\n" + rest)
    assert check_packed(out) == [] and read(out)["digest"] == manifest["digest"]
    assert "manifest.json is of an earlier version" in "\n".join(describe_check(out))
    assert run(tree, out, dev_identities=2, encoding="jpeg").nothing_to_do


def interrupted(tree, out, monkeypatch):
    """An unfinished pack: lowres is finished, highres has begun."""
    stop, count = StopFlag(), [0]
    fill = pack_shard.fill_shard

    def stopping(*arguments):
        count[0] += 1
        if count[0] == 2:
            stop.signal_number = 15
        fill(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pack_shard, "fill_shard", stopping)
        patch.setattr("hrfr_fast.packing.workers.CHUNK_BYTES", 1 << 18)
        with pytest.raises(Interrupted):
            run(tree, out, stop=stop)


UNFINISHED = {
    "the finished shard": "lowres.beton",
    "its checksums": "lowres.crc32",
    "its listing": "lowres.sources.gz",
    "its account": "lowres.done.json",
    "the unfinished shard": "highres.beton.partial",
    "its rows": "highres.rows",
    "its journal": "highres.journal",
}


@pytest.mark.parametrize("name", UNFINISHED)
def test_damaged_unfinished_work_is_not_continued(tree, tmp_path, monkeypatch, name):
    run(tree, tmp_path / "whole")
    interrupted(tree, tmp_path / "out", monkeypatch)
    file = tmp_path / "out/.packing" / UNFINISHED[name]
    flip(file, -30 if "journal" not in name else -4)
    run(tree, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
