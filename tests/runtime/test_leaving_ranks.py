"""Ranks that have done their work end without a signal, however late gloo's threads let go of what they exchanged."""

import subprocess
import sys
import threading

from torch.distributed import TCPStore

from hrfr_fast.runtime.rank_failures import Peers
from hrfr_fast.runtime.ranks import Ranks

JOBS = 6  # where the ranks left by a collective operation, a quarter to two fifths of them were ended by SIGABRT
PROGRAM = """
import os, socket, sys
import torch
from torch import distributed
from hrfr_fast.runtime.rank_failures import one_job
from hrfr_fast.runtime.ranks import Ranks

def work(rank, port):
    place = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    with one_job(Ranks(rank, 2, rank, 2), torch.device("cpu"), lambda: ""):
        distributed.all_reduce(torch.zeros(3))
        for thread in set(map(int, os.listdir("/proc/self/task"))) - {os.getpid()}:
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))

torch.set_num_threads(1)
for job in range(int(sys.argv[1])):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ranks = []
    for rank in range(2):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            work(rank, port)
            sys.exit()
    print(*(os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks), flush=True)
"""


def test_threads_of_gloo_that_are_late_end_no_rank():
    command = [sys.executable, "-c", PROGRAM, str(JOBS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert ended.stdout.split() == ["0"] * 2 * JOBS, ended.stderr


def test_none_leaves_before_all_are_there():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for rank in range(2):
        store.set(f"process/{rank}", f"elsewhere|{rank}")
    peers = [Peers(TCPStore("127.0.0.1", store.port, is_master=False), Ranks(rank, 2)) for rank in range(2)]
    left = threading.Event()

    def leave(rank):
        peers[rank].wait_until_all_leave()
        left.set()

    threads = [threading.Thread(target=leave, args=[rank], daemon=True) for rank in range(2)]
    threads[0].start()
    assert not left.wait(0.3)
    threads[1].start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
