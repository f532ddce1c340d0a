"""Several gloo ranks on this machine's CPU, for tests: each runs a module's cases and leaves what they gave.

``python rank_program.py MODULE SIZES FOLDER`` imports torch once and forks. ``MODULE.cases(peers)`` gives a dictionary
of a case's results by name for groups of each size; they are written to ``FOLDER/SIZE-RANK.pt``.
"""

import faulthandler
import importlib
import multiprocessing.connection
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch import distributed

from hrfr_fast.model.peers import Peers

TIMEOUT_S = 400  # 8 s of one core; machines that run much else beside need more


def run_over_ranks(module, sizes, folder):
    """{size: [the results of rank 0, of rank 1, ...]} of the cases in the tests' module ``module``."""
    given = ",".join(map(str, sizes))
    tests = Path(__file__).parent
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, __file__, module, given, str(folder)],
        env=environment, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {size: [torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)] for size in sizes}


def _rank(rank, count, port, module, sizes, folder):
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(300, exit=True)  # a rank that waits for ever says where
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    for size in sizes:
        group = distributed.new_group(list(range(size)))
        if rank < size:
            results = importlib.import_module(module).cases(Peers(group))
            torch.save(results, f"{folder}/{size}-{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def main(module, sizes, folder):
    """Fork the ranks; exit status 1 where one fails, after ending the others, which wait for it."""
    importlib.import_module(module)
    sizes = [int(size) for size in sizes.split(",")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context, count = multiprocessing.get_context("fork"), max(sizes)
    ranks = [context.Process(target=_rank, args=(rank, count, port, module, sizes, folder)) for rank in range(count)]
    for process in ranks:
        process.start()
    running = ranks
    while running:  # never wait for none: ``wait`` of an empty list does not return
        multiprocessing.connection.wait([process.sentinel for process in running])
        running = [process for process in running if process.is_alive()]
        if any(process.exitcode for process in ranks):  # None while it runs
            for process in running:
                process.kill()
            return 1
    return max(process.exitcode for process in ranks)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
