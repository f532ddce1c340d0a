"""Evaluation and embedding by several ranks: the same bits as by one process, and rank 0 alone has results."""

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hrfr_fast.deployment.embeddings_file import read_embeddings
from hrfr_fast.model.backbone import BackboneSettings
from hrfr_fast.runtime.ranks import Ranks
from hrfr_fast.runtime.shared_work import own_share
from tests.evaluation.shared_evaluation import judge
from tests.model_cases import write_run
from tests.picture_trees import jpeg


@pytest.fixture
def threads_of_a_rank():
    """torch's kernels sum in another order with another number of threads: as many here as one of two ranks has."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))
    yield
    torch.set_num_threads(before)


def bin_file(path, pairs=150):
    """A protocol of noise, in the layout of lfw.bin: three batches for two ranks."""
    rng = np.random.default_rng(0)
    pictures = [jpeg(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(2 * pairs)]
    path.write_bytes(pickle.dumps((pictures, [bool(number % 2) for number in range(pairs)])))
    return path


def start_ranks(count, *arguments):
    """The processes that torchrun would start; waits for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)], env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(count)
    ]
    return [process.wait(120) for process in started]


def test_two_ranks_give_the_bits_of_one_process_and_time_their_link(
    tiny_packed, tmp_path, threads_of_a_rank, monkeypatch
):
    torch.manual_seed(0)
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        write_run(run, BackboneSettings(input_size=32, width=8, embedding_size=16), tiny_packed)
    protocol = bin_file(tmp_path / "noise.bin")
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir(), together.mkdir()
    expected = judge(*runs, tiny_packed, protocol, alone)
    script = Path(__file__).with_name("shared_evaluation.py")
    assert start_ranks(2, script, *runs, tiny_packed, protocol, together) == [0, 0]
    found = json.loads((together / "found.json").read_text())
    assert found["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)
    assert found["results"] == json.loads(json.dumps(expected))
    ours, theirs = (read_embeddings(folder / "e.npz") for folder in (alone, together))
    assert ours.names == theirs.names and (ours.rows == theirs.rows).all()
    exchange = found["exchange"]
    assert [one["message_bytes"] for one in exchange["sums"]] == [4096, 1 << 20] and exchange["device"] == "cpu"
    assert all(one["seconds"] > 0 for one in exchange["sums"])
    assert [(link["first"], link["second"]) for link in exchange["links"]] == [(0, 1)]
    assert exchange["links"][0]["latency"] > 0 and exchange["links"][0]["rate"] > 0 and exchange["slow"] == []


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_piece_is_one_rank_s(count):
    shares = [own_share(Ranks(rank, count), range(11)) for rank in range(count)]
    assert sorted(piece for share in shares for piece in share) == list(range(11))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
