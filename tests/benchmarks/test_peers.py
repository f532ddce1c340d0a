"""The peers do the same work as our engines: the same faces and labels, to the same shape, type and layout."""

from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks.peers import ENGINES, PEERS, PIXELS, load
from benchmarks.peers.base import Task, listing
from hrfr_fast.engines.ffcv import load_ffcv, thread_counts_kept
from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.pack import pack

BATCH = 16  # divides 144 and 192 faces, so the first batches are one epoch


@pytest.fixture(scope="session")
def task(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
    root = tmp_path_factory.mktemp("peers")
    for encoding in ("jpeg", "raw"):
        pack(tiny_tree, root / "packed" / encoding, encoding=encoding, workers=1, show_progress=False)
    return Task(str(tiny_tree), str(root / "packed"), str(root / "formats"), "lowres32", "jpeg", BATCH)


@pytest.fixture
def threads_kept():
    """Peers have a process of their own in the benchmark, so they set threads as they like."""
    before = cv2.getNumThreads()
    if find_spec("ffcv"):
        load_ffcv()  # without which stock FFCV changes numba's types for the tests that follow
    with thread_counts_kept():
        yield
    cv2.setNumThreads(before)


def test_the_peers_number_labels_as_the_packer_does(task):
    splits = open_packed(task.shards).splits
    assert listing(task).labels.tolist() == splits["lowres"].labels.tolist()


CASES = [
    *(("files", name, regime, "jpeg", "float32") for name in PEERS for regime in ("lowres32", "highlow144")),
    *(("files", name, "lowres32", "raw", "uint8") for name in ("torch+PIL", "torch+OpenCV", "SPDL")),
    *(("pixels", name, "lowres32", "raw", "uint8") for name in PIXELS),
]


@pytest.mark.parametrize("group,name,regime,encoding,dtype", CASES)
def test_a_peer_gives_an_epoch_of_the_same_faces(threads_kept, task, group, name, regime, encoding, dtype):
    from dataclasses import replace

    task, peer = replace(task, regime=regime, encoding=encoding, dtype=dtype), load(name)
    reason = peer.unavailable(task)
    if reason:
        pytest.skip(f"{name}: {reason}")
    peer.prepare(task)
    ours = load("resident").batches(task)
    peer_batches = peer.batches(task)
    faces = sum(open_packed(task.shards).splits[s].samples for s in task.splits)
    count = faces // BATCH
    epoch = [(images.clone(), labels.clone()) for images, labels in islice(peer_batches, count)]
    expected = list(islice(ours, count))
    peer_batches.close()
    ours.close()
    for (images, labels), (our_images, our_labels) in zip(epoch, expected, strict=True):
        assert images.dtype == our_images.dtype and labels.dtype == our_labels.dtype
        assert labels.shape == our_labels.shape
        if name != "FFCV raw copy":
            assert images.shape == our_images.shape
        assert images.is_contiguous(memory_format=torch.channels_last)
    drawn = np.bincount(torch.cat([labels for _, labels in epoch]), minlength=3)
    assert drawn.tolist() == np.bincount(torch.cat([labels for _, labels in expected])).tolist()
    # The same faces, so the same mean colour; ours has brightness changes, which average out.
    scale = 1 if dtype == "uint8" else 127.5
    means = [torch.stack([i.float().mean() for i, _ in batches]).mean() * scale for batches in (epoch, expected)]
    assert abs(means[0] - means[1]) < 6


def test_every_engine_is_in_the_benchmark():
    from hrfr_fast.settings import choices

    assert set(choices("engine")) - {"auto"} <= set(ENGINES)
