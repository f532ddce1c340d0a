"""Packing over Ray gives the bytes of a local pack, whatever dies or is stopped on the way."""

import os
import signal
import time

import pytest

from hrfr_fast.packing import cluster_decoders, cluster_parts
from hrfr_fast.packing.pack import pack
from hrfr_fast.packing.sources.identity_folders import FolderSource
from hrfr_fast.packing.sources.source_candidates import SourceCandidates
from hrfr_fast.packing.sources.split_part import parts_of_split
from hrfr_fast.runtime.errors import HrfrError, Interrupted
from hrfr_fast.runtime.signals import StopFlag

pytestmark = pytest.mark.usefixtures("ray_cluster", "no_fsync")


def run(tree, out, **settings):
    return pack(tree, out, **{"workers": 1, "show_progress": False, "page_size": 1 << 16, **settings})


def content(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture
def in_the_way(monkeypatch):
    """Function that makes reading of ``count`` pictures of lowres, from the 30th on, call a function first."""

    def put(function, count=1):
        readers_of = SourceCandidates.readers

        def readers(self, first, last):
            def reader(number, read):
                if self.name != "lowres" or not 30 <= number < 30 + count:
                    return read

                def call():  # travels by value: a worker does not know this module
                    function()
                    return read()

                return call

            return [reader(first + at, read) for at, read in enumerate(readers_of(self, first, last))]

        monkeypatch.setattr(SourceCandidates, "readers", readers)

    return put


def worker_that_dies_once(mark):
    def die():
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return die


@pytest.mark.parametrize("shard_samples", [0, 20])
def test_bytes_are_those_of_a_local_pack_though_a_worker_dies(tree, tmp_path, in_the_way, monkeypatch, shard_samples):
    (tree / "lowres/l004/2.jpg").write_bytes(b"broken")
    for path in (tree / "lowres/l010").iterdir():
        path.write_bytes(b"broken")
    run(tree, tmp_path / "local", shard_samples=shard_samples)
    in_the_way(worker_that_dies_once(tmp_path / "mark"))
    run(tree, tmp_path / "ray", shard_samples=shard_samples, on="ray")
    with monkeypatch.context() as patched:
        patched.setattr(cluster_decoders, "connect", lambda *_: pytest.fail("there is nothing to pack"))
        assert run(tree, tmp_path / "ray", shard_samples=shard_samples, on="ray").nothing_to_do
    assert (tmp_path / "mark").exists() and content(tmp_path / "ray") == content(tmp_path / "local")


def test_stopped_it_ends_its_tasks_and_continues_without_ray(tree, tmp_path, in_the_way, monkeypatch):
    stop, mark, out = StopFlag(), tmp_path / "mark", tmp_path / "out"

    def wait():
        mark.touch()
        for _ in range(6000):
            time.sleep(0.1)

    def looked(work, name):
        if mark.exists():
            stop.signal_number = signal.SIGINT
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(cluster_parts, "candidates_done", looked)
        in_the_way(wait)
        with pytest.raises(Interrupted, match="with or without --on, to continue"):
            run(tree, out, shard_samples=20, on="ray", stop=stop)
    monkeypatch.undo()
    assert (out / ".packing/lowres-00001.journal").exists() and not (out / "manifest.json").exists()
    run(tree, out, shard_samples=20)
    run(tree, tmp_path / "local", shard_samples=20)
    assert content(out) == content(tmp_path / "local")


def test_a_folder_that_the_machines_do_not_share_is_named(tree, tmp_path):
    split = SourceCandidates("lowres", FolderSource(tree / "lowres"), 36)
    part = parts_of_split(split, 20)[1].excerpt()
    with pytest.raises(HrfrError, match="elsewhere is not there on a machine of the cluster"):
        cluster_parts._fill_there(part, tmp_path / "elsewhere", {})
