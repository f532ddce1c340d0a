"""Pixels that workers leave in shared memory are those that pipes carry, whatever fits into it."""

import os

import pytest

from hrfr_fast.packing import shared_area, workers
from hrfr_fast.packing.pack import pack
from hrfr_fast.packing.shared_area import SharedArea, own_slot, taken, use_area
from hrfr_fast.runtime.processes import worker_pool


def content(out):
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


def _write(slot: int, text: bytes) -> int:
    own_slot(slot)[: len(text)] = text
    return os.getpid()


class _Use:
    def __init__(self, area: SharedArea) -> None:
        self.area = area

    def __call__(self) -> None:
        use_area(self.area)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no memory without a name (Linux has)")
def test_a_spawned_worker_writes_where_the_parent_reads():
    area = SharedArea(3, 16)
    with worker_pool(1, _Use(area)) as pool:
        assert pool.submit(_write, 1, b"from afar").result() != os.getpid()
    area.close()
    assert bytes(area.slot(1)[:9]) == b"from afar" and not any(area.slot(0)) and not any(area.slot(2))


def test_bytes_do_not_depend_on_the_memory(tree, tmp_path, monkeypatch):
    """Alone; with slots that all chunks fit into, and none; with pipes, as where there is no such memory."""
    settings = {"page_size": 1 << 16, "show_progress": False}
    pack(tree, tmp_path / "alone", workers=1, **settings)
    monkeypatch.setattr(workers, "CHUNK_BYTES", 1 << 16)  # several chunks a slot
    pack(tree, tmp_path / "shared", workers=2, **settings)
    monkeypatch.setattr(workers, "shared_area", lambda slots, size: shared_area.shared_area(slots, 4096))
    pack(tree, tmp_path / "small", workers=2, **settings)
    monkeypatch.setattr(workers, "shared_area", lambda *_: None)
    pack(tree, tmp_path / "pipes", workers=2, **settings)
    expected = content(tmp_path / "alone")
    assert expected and all(content(tmp_path / name) == expected for name in ("shared", "small", "pipes"))


def test_where_the_system_has_none_there_is_none(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert shared_area.shared_area(2, 16) is None
    use_area(None)
    assert own_slot(0) is None
    chunk = workers.Chunk(b"ab", [0], [2], [0], [0])
    assert taken(chunk, None, 0) is chunk
