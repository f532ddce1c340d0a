"""Names, links and files of somebody who means harm: nothing is run, nothing is written elsewhere, nothing obeys."""

import ast
import csv
import html.parser
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from picture_trees import jpeg, picture

import hrfr_fast
from hrfr_fast.format import manifest
from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing import transaction
from hrfr_fast.packing.pack import pack
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.packing.sources.webdataset_tars import WebDatasetTars
from hrfr_fast.reporting.page import Table, write_page
from hrfr_fast.runtime.errors import DamageFound
from hrfr_fast.runtime.files import write_bytes
from hrfr_fast.runtime.names import printable
from hrfr_fast.runtime.progress import console, progress_bar
from hrfr_fast.runtime.terminal import echo, print_rows, print_values

PACKAGE = Path(hrfr_fast.__file__).parent
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
NAMES = [
    "\x1b[2J\x1b]0;owned\x07red", "a\u202egpj.exe", "new\nline", "\u200fright", "[/bold]", "[red]x", "c\x9b31m",
    "=cmd|' /C calc'!A0", "<script>alert(1)</script>", os.fsdecode(b"\xff\xfe"),
]  # fmt: skip
"""Escape sequences of terminals, marks of writing direction, lines, rich's markup, formulas, HTML, and no UTF-8."""


def run(source, out, **more):
    return pack(source, out, workers=1, show_progress=False, **more)


def calls(tree, *names):
    """The calls in a module of functions whose last names are ``names``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.split(".")[-1] in names or name in names:
                yield name, {one.arg: ast.unparse(one.value) for one in node.keywords}


def test_nothing_is_unpickled_and_no_text_of_a_file_is_run():
    """By reading the package: weights alone from torch's files, no pickles from NumPy's, no eval, no other reader."""
    seen = 0
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(PACKAGE).as_posix()
        for name, given in calls(tree, "load", "loads", "Unpickler", "read_pickle", "eval", "exec", "full_load"):
            if name == "torch.load":
                assert given.get("weights_only") == "True", where
                seen += 1
            if name in ("np.load", "numpy.load"):
                assert given.get("allow_pickle") == "False", where
            assert not name.startswith(("pickle.", "marshal.", "dill.", "joblib.", "cloudpickle.", "shelve.")), where
            assert name not in ("eval", "exec", "yaml.load"), where
    assert seen >= 2


@pytest.mark.parametrize("name", NAMES[:-1], ids=ascii)
def test_no_name_steers_the_terminal(name, capsys):
    console.print(f"warning: {name} is left out")
    console.print(name)
    with progress_bar() as bar:
        bar.add_task(name, total=1, note=name)
    echo(f"{name}: checked")
    print_rows(("name", "count"), [(name, "1")], title=name)
    print_rows(("name", "count"), [(name, "x" * 500)])
    print_values(name.replace("\n", " "), {name: name})
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert not STEERING.search(text.replace("\r", "")) and len(text) > 100
    if name.startswith("["):
        assert name in text, "markup is text"


def test_what_is_printable_stays_as_it_is():
    text = "C:\\faces\t\u00e4\u0441\u05d0\u4f60 \U0001f600\nnext"
    assert printable(text) == text


@pytest.fixture
def hostile(tmp_path):
    """A folder of people with those names, two pictures each."""
    for number, name in enumerate(NAMES):
        folder = tmp_path / "set" / name.replace("/", "\u2215")
        folder.mkdir(parents=True)
        for n in range(2):
            (folder / f"{n}.jpg").write_bytes(jpeg(picture(2 * number + n, 36)))
        (folder / f"bad {name.replace('/', chr(0x2215))}.jpg").write_bytes(b"no picture")
    return tmp_path / "set"


def test_commands_on_hostile_names_say_nothing_that_steers(hostile, tmp_path):
    out = tmp_path / "out"
    for arguments in (["pack", hostile, "--out", out, "--workers", "1"], ["inspect", out], ["check", out]):
        command = [sys.executable, "-m", "hrfr_fast", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)})
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        text = (done.stdout + done.stderr).decode("utf-8", "surrogateescape").replace("\r", "")
        assert not STEERING.search(text) and "Traceback" not in text
    split = open_packed(out).splits["faces"]
    assert sorted(split.identity_names) == sorted(name.replace("/", "\u2215") for name in NAMES)


class Tags(html.parser.HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></table><iframe src=//evil>",
    "{{ 7 * 7 }}",
]


def test_names_in_a_report_are_text(tmp_path):
    """A page with hostile names everywhere has the same tags and attributes as one with harmless names."""
    template = tmp_path / "parts.j2"
    template.write_text(
        '{% extends "page.html.j2" %}{% from "parts.html.j2" import facts, note, table %}'
        "{% block body %}{{ table(content) }}{{ facts(values) }}{{ note(title) }}{% endblock %}"
    )
    found = []
    for names in (EVIL, ["a", "b", "c", "d"]):
        page = write_page(
            tmp_path / "page.html", template, title=names[0],
            content=Table(names, [names, names]), values=dict(zip(names, names, strict=True)),
        )  # fmt: skip
        parser = Tags()
        parser.feed(page.read_text(encoding="utf-8"))
        found.append((parser.tags, parser.attributes))
        shown = page.read_text(encoding="utf-8")
        assert names[3] in shown and "49" not in shown
    assert found[0] == found[1]
    assert not {"script", "iframe", "onerror"} & {*found[0][0], *found[0][1]}


FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", '=HYPERLINK("http://x")', "'=1", "a,=1", '"=1']
"""What spreadsheets take for formulas, one that is escaped already, and quotes and commas before one."""


def test_names_in_csv_files_come_back_as_they_were(tmp_path, monkeypatch, capsys):
    """Other programs, and our own commands, look pictures up by them: an apostrophe in front would be another name."""
    from hrfr_fast.cli.deployment import search
    from hrfr_fast.preparation.landmarks import landmark_table, read_landmarks

    paths = [f"{name}/1.jpg" for name in FORMULAS if not name.startswith("\t")]  # lists are read without outer blanks
    faces = {path: (np.full((5, 2), 7.5), 1) for path in paths}
    (tmp_path / "landmarks.csv").write_bytes(landmark_table(faces))
    assert set(read_landmarks(tmp_path / "landmarks.csv")) == set(paths)

    class Found:
        def matches(self):
            return [(name, 1, name, 0.5) for name in FORMULAS]

    monkeypatch.setattr("hrfr_fast.deployment.search.search", lambda *_, **__: Found())
    search(tmp_path, tmp_path, tmp_path, as_csv=True, flags=None)
    head, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["probe", "rank", "name", "cosine"] and [row[::2] for row in rows] == [
        [name, name] for name in FORMULAS
    ]


@pytest.mark.parametrize("name", ["../outside.beton", "/etc/passwd", ".hidden", "a/b.beton", "..", "x\0y"])
def test_a_manifest_names_no_file_elsewhere(tiny_packed, tmp_path, name):
    content = {key: value for key, value in manifest.read(tiny_packed).items() if key != manifest.CHECKSUM}
    content["splits"] = {"lowres": content["splits"]["lowres"] | {"file": name}}
    content["pairs"] = {}
    content["digest"] = manifest.digest_of(content["splits"], {})
    manifest.write(tmp_path, content)
    with pytest.raises(DamageFound, match="not a file name in this directory"):
        open_packed(tmp_path)


def test_a_commit_moves_and_deletes_nothing_outside(tiny_packed, tmp_path):
    out, victim = tmp_path / "a" / "out", tmp_path / "a" / "victim"
    (out / manifest.WORK).mkdir(parents=True)
    victim.write_text("mine")
    content = manifest.read(tiny_packed)
    content = {key: value for key, value in content.items() if key != manifest.CHECKSUM}
    for name in content["pairs"]:
        content["pairs"][name] = content["pairs"][name] | {"identities_file": "../../victim"}
    manifest.write(out / manifest.WORK, content)
    manifest.write(out, content)
    assert transaction.complete(out)
    assert victim.read_text() == "mine" and sorted(path.name for path in out.parent.iterdir()) == ["out", "victim"]


def test_members_of_a_tar_are_never_written(tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in (("../../escaped.jpg", jpeg(picture(1, 36))), ("../../escaped.cls", b"1"),
                           ("/tmp/absolute.jpg", jpeg(picture(2, 36))), ("/tmp/absolute.cls", b"2")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    (inside / "set.tar").write_bytes(content.getvalue())
    before = sorted(tmp_path.rglob("*"))
    source = WebDatasetTars(inside / "set.tar")
    names = source.names(range(3))
    assert sum("/../../escaped.jpg" in name for name in names) == 1
    for number, name in enumerate(names):
        if "link.jpg" in name:
            with pytest.raises(Rejected, match="a link"):
                source.read(number)
        else:
            assert source.read(number)[:2] == b"\xff\xd8"
    assert sorted(tmp_path.rglob("*")) == before


def test_links_are_read_through_and_never_written_through(tmp_path):
    """People keep sets as trees of links: what a link leads to is packed. A loop ends; a result replaces a link."""
    elsewhere = tmp_path / "elsewhere"
    for n in range(2):
        write = elsewhere / "person" / f"{n}.jpg"
        write.parent.mkdir(parents=True, exist_ok=True)
        write.write_bytes(jpeg(picture(n, 36)))
    data = tmp_path / "set"
    (data / "b").mkdir(parents=True)
    (data / "a").symlink_to(elsewhere / "person")
    (data / "b" / "0.jpg").symlink_to(elsewhere / "person" / "0.jpg")
    (data / "b" / "loop").symlink_to(data)
    run(data, tmp_path / "out")
    assert open_packed(tmp_path / "out").splits["faces"].samples == 3
    victim, link = tmp_path / "victim", tmp_path / "out" / "report.json"
    victim.write_text("mine")
    link.symlink_to(victim)
    write_bytes(link, b"result")
    assert victim.read_text() == "mine" and not link.is_symlink()


GUARD = """
import socket, sys
def refuse(*arguments, **named):
    open({log!r}, "a").write(repr(arguments[1:]) + "\\n")
    raise OSError("no network in this test")
class Guarded(socket.socket):
    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse(self, address)
        return super().connect(address)
    connect_ex = connect
socket.socket = Guarded
socket.create_connection = socket.getaddrinfo = refuse
"""


def test_no_command_connects_anywhere(tiny_packed, tmp_path):
    """Packing and training, which verifies and reports; a guard in place of sockets writes down every attempt."""
    log, place = tmp_path / "attempts", tmp_path / "guard"
    place.mkdir()
    (place / "sitecustomize.py").write_text(GUARD.format(log=str(log)))
    environment = {**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{PACKAGE.parent}", "OMP_NUM_THREADS": "1"}
    tree = tmp_path / "set"
    for n in range(8):
        (tree / f"p{n // 2}").mkdir(parents=True, exist_ok=True)
        (tree / f"p{n // 2}" / f"{n}.jpg").write_bytes(jpeg(picture(n, 36)))
    train = ["train", "--regime", "lowres32", "--data", tiny_packed, "--out", tmp_path / "run", "--steps", "2",
             "--batch-size", "8", "--width", "8", "--embedding-size", "16", "--device", "cpu", "--eval-every", "0",
             "--fused-kernels", "off"]  # fmt: skip
    for arguments in (["pack", tree, "--out", tmp_path / "out", "--workers", "2"], train):
        command = [sys.executable, "-m", "hrfr_fast", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    assert not log.exists(), log.read_text()
    probe = "import socket; socket.create_connection(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True)
    assert log.exists(), "the guard was not in place"


def test_a_zip_or_array_that_would_run_code_is_refused(tmp_path):
    from hrfr_fast.deployment.embeddings_file import read_embeddings
    from hrfr_fast.runtime.errors import UsageError

    path = tmp_path / "evil.npz"
    objects = np.array([print], object)
    np.savez(path, embeddings=np.eye(3, dtype=np.float32), names=objects, about=np.array("{}"))
    with zipfile.ZipFile(path) as archive:
        assert b"pickle" in archive.read("names.npy") or b"|O" in archive.read("names.npy")
    with pytest.raises(UsageError, match="Python objects"):
        read_embeddings(path)
