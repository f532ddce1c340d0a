"""Trainings over several gloo ranks for ``test_distributed.py``: forked from one process, so that a run takes seconds.

``python rank_trainings.py PLAN`` reads a list of runs from a JSON file and takes them in turn; each rank leaves what it
printed in ``OUT.RANK.stderr`` and a line a step in ``OUT.RANK.steps``: first sample, labels and sums of the pictures.
Verification and report are left out: the run ends with its last checkpoint. A run without arguments is no training but
``leave_group``.
"""

import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import safetensors.torch  # noqa: F401  each rank needs these modules: imported before the fork, they cost once
import torch
import torch._dynamo  # noqa: F401  by DistributedDataParallel

import hrfr_fast.cli
import hrfr_fast.resampling.cpu  # noqa: F401
from hrfr_fast.runtime.ranks import current_ranks, process_group
from hrfr_fast.training.data_parallel import DataParallel
from hrfr_fast.training.trainer import Trainer, TrainResult

STEP = Trainer.step


def run(out, ranks, arguments, copy_of=None, ends=None):
    """Exit code of each rank and seconds from the first ended one to the last. ``ends``: [rank, signal, step]."""
    if copy_of:
        shutil.copytree(copy_of, out)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = {}
    for rank in range(ranks):
        process = os.fork()
        if not process:
            rank_of_run(Path(out), rank, ranks, port, arguments, ends)
        processes[process] = rank
    codes, times = {}, []
    for _ in range(ranks):
        process, status = os.wait()
        codes[processes[process]] = os.waitstatus_to_exitcode(status)
        times.append(time.monotonic())
    return {"codes": [codes[rank] for rank in range(ranks)], "seconds": times[-1] - times[0]}


def rank_of_run(out, rank, ranks, port, arguments, ends):
    numbers = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    if ranks > 1:
        os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1")
    printed = os.open(f"{out}.{rank}.stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 2), os.dup2(printed, 1)
    sys.argv = ["hrfr-fast", "train", "--out", str(out), *arguments]
    Trainer.step = recorded(Path(f"{out}.{rank}.steps"), ends[1:] if ends and ends[0] == rank else None)
    Trainer.finish = without_verification
    code = 70  # of a traceback
    try:
        hrfr_fast.cli.main() if arguments else leave_group()
        code = 0
    except SystemExit as error:
        code = error.code or 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def leave_group():
    """As at the end of a training: DistributedDataParallel goes at once after the group that it used."""
    signal.alarm(60)
    ranks = current_ranks()
    with process_group(ranks, torch.device("cpu")):
        parallel = DataParallel(ranks)
        network = parallel.wrap(torch.nn.Linear(3, 3))
        network(torch.ones(2, 3)).sum().backward()
        parallel.wait()
    del network


def recorded(path, ends):
    def step(trainer, batch):
        sums = batch.images.double().sum((1, 2, 3)).tolist()
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps([batch.start, batch.labels.tolist(), sums]) + "\n")
        STEP(trainer, batch)
        if ends and trainer.state.step == ends[1]:
            os.kill(os.getpid(), ends[0])

    return step


def without_verification(trainer, stop):
    trainer.save()
    run = trainer.setup.run
    return TrainResult(run, trainer.state.step, trainer.log.last_loss, {}, run, trainer.timer.whole())


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.alarm(900)
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps({Path(one["out"]).name: run(**one) for one in plan}))
