"""Speed of training by two processes against two threads, on the same cores.

    python benchmarks/scaling.py                   # about 2 minutes on 2 quiet cores
    python benchmarks/scaling.py --rounds 7 --width 16 --data packed

Rounds alternate (A B A B): one process with two threads, then two ranks of torch.distributed (gloo) with one thread
each; the batch is the same, so each rank computes half of it. Both run the trainer's own steps on one constant batch.
While one has its turn the other's processes wait in a pipe, where they take no time. Beside wall time stands the CPU
time of all processes, which a busy machine changes less.
"""

import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import IO, Annotated, Any

import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.command import run  # noqa: E402

RANKS = 2


class Team:
    """Processes that train together and take steps when they are told to.

    Args:
        ranks: how many; each has ``RANKS / ranks`` threads.
        options: of this script, for the processes.
    """

    def __init__(self, ranks: int, options: list[str]) -> None:
        self.name = f"{ranks} process{'es' * (ranks > 1)} of {RANKS // ranks} thread{'s' * (ranks < RANKS)}"
        self.wall: list[float] = []
        self.cpu: list[float] = []
        shared = os.environ | {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": str(RANKS // ranks),
            "NUMBA_NUM_THREADS": str(RANKS // ranks), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.processes = []
        for rank in range(ranks):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            environment = shared | ({name: str(value) for name, value in place.items()} if ranks > 1 else {})
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, "--worker", *options], env=environment, encoding="utf-8",
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
            )  # fmt: skip
        self.ask(0)

    def ask(self, steps: int) -> tuple[float, float]:
        """Let all take ``steps`` steps; seconds of the slowest, and CPU seconds of all together."""
        for process in self.processes:
            _pipe(process.stdin).write(f"{steps}\n")
            _pipe(process.stdin).flush()
        found = [_pipe(process.stdout).readline().split() for process in self.processes]
        if not all(found):
            raise RuntimeError(f"{self.name}: a process has ended; see its message above")
        return max(float(wall) for wall, _ in found), sum(float(cpu) for _, cpu in found)

    def round(self, steps: int) -> None:
        """Take ``steps`` steps and keep their times."""
        wall, cpu = self.ask(steps)
        self.wall.append(wall / steps)
        self.cpu.append(cpu / steps)

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            _pipe(process.stdin).close()
        for process in self.processes:
            process.wait()
            _pipe(process.stdout).close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None, "both were opened"
    return pipe


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def work(values: dict[str, Any]) -> None:
    """One process of a team: for each number on standard input, that many steps; answers with wall and CPU seconds."""
    from hrfr_fast.runtime.progress import console
    from hrfr_fast.runtime.ranks import current_ranks
    from hrfr_fast.runtime.shared_work import sharing_ranks
    from hrfr_fast.settings import TrainSettings
    from hrfr_fast.training.build import build
    from hrfr_fast.training.timed_steps import constant_batch
    from hrfr_fast.training.trial import Trial

    console.quiet = True
    with tempfile.TemporaryDirectory() as folder, sharing_ranks():
        settings = TrainSettings(**values, out=f"{folder}/run", device="cpu")
        with Trial(build(settings, current_ranks()), show_progress=False) as trial:
            trial.start()
            trial.setup.run.mkdir(parents=True, exist_ok=True)
            trial.setup.backbone.train()
            trial.setup.head.train()
            steps = constant_batch(trial)
            steps.steps(3)  # fills caches, opens connections
            for line in sys.stdin:
                wall, cpu = time.perf_counter(), _cpu_seconds()
                steps.steps(int(line))
                print(time.perf_counter() - wall, _cpu_seconds() - cpu, flush=True)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(
    data: Annotated[Path | None, typer.Option(help="packed faces; made, if not given")] = None,
    regime: Annotated[str, typer.Option(help="what to train")] = "lowres32",
    batch_size: Annotated[int, typer.Option(help="of a step of all processes together")] = 64,
    width: Annotated[int, typer.Option(help="of the network")] = 16,
    precision: Annotated[str, typer.Option(help="number format")] = "fp32",
    rounds: Annotated[int, typer.Option(help="turns of each")] = 5,
    steps: Annotated[int, typer.Option(help="in a turn")] = 10,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Print the time of a step by two threads and by two processes, and their ratio."""
    if worker:
        work({
            "data": str(data), "regime": regime, "batch_size": batch_size, "width": width, "precision": precision,
        })  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            from hrfr_fast.synthetic.packed import synthesize_packed

            data = Path(folder) / "packed"
            synthesize_packed(data, "tiny", show_progress=False)
        options = [
            "--data", str(data), "--regime", regime, "--batch-size", str(batch_size), "--width", str(width),
            "--precision", precision,
        ]  # fmt: skip
        teams = [Team(1, options), Team(RANKS, options)]
        for _ in range(rounds):
            for team in teams:
                team.round(steps)
        for team in teams:
            team.close()
    for team in teams:
        spread = f"{1e3 * min(team.wall):,.1f} to {1e3 * max(team.wall):,.1f}"
        print(
            f"{team.name}: {1e3 * median(team.wall):,.1f} ms a step ({spread}), {batch_size / median(team.wall):,.0f}"
            f" images/s, {1e3 * median(team.cpu):,.1f} ms of CPU"
        )
    threads, processes = teams
    ratios = [one / other for one, other in zip(threads.wall, processes.wall, strict=True)]
    cpu = median(processes.cpu) / median(threads.cpu)
    print(
        f"processes reach {median(ratios):.2f} times the rate of threads (turns {min(ratios):.2f} to"
        f" {max(ratios):.2f}), with {cpu:.2f} times the CPU time"
    )


if __name__ == "__main__":
    run(main)
