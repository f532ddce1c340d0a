"""A study by the workers of a Ray cluster: its tables are those of one run after the other, whatever became of some."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from hrfr_fast.runtime.cluster import Cluster
from hrfr_fast.runtime.errors import HrfrError, Interrupted, UsageError
from hrfr_fast.runtime.lock import NAME as LOCK
from hrfr_fast.runtime.lock import holder_of
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.study import on_ray
from hrfr_fast.study.cost import TimeLeft
from hrfr_fast.study.execution import execute_runs
from hrfr_fast.study.run import planned, run_study
from hrfr_fast.study.states import SAME

CHILD = """
name = "child"
sources = ["highres"]
input_size = 32
parents = ["lowres32"]
phases = [{train = ["body", "output", "head"]}]
"""
PRESET = """
base = "cpu-small"
seeds = 1
batch = {32 = 8}
steps = {lowres = 60, highres = 4, own = 40}
looks = 0
sides = [0]
analysed = []
probed = []
sphere = []
detailed_seeds = 0
settings = {width = 8, embedding_size = 32, log_every = 1, save_minutes = 0.0001}
"""


class Asked:
    """One study: ``run`` executes it."""

    def __init__(self, folder: Path, packed: Path) -> None:
        self.packed, self.preset, self.child = packed, folder / "brief.toml", folder / "child.toml"
        self.preset.write_text(PRESET)
        self.child.write_text(CHILD)
        self.names = ["highres32", str(self.child)]  # and lowres32, its parent

    def run(self, out: Path, on: str) -> None:
        run_study(
            self.names, self.packed, out, preset=str(self.preset), device="cpu", on=on, threads_per_run=1,
            show_progress=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def asked(tiny_packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return Asked(tmp_path_factory.mktemp("asked"), tiny_packed)


@pytest.fixture(scope="module")
def sequential(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sequential") / "study"
    asked.run(out, "here")
    return out


@contextmanager
def once_begun(run: Path, then: Callable[[], None]) -> Iterator[None]:
    """Do ``then`` when ``run`` has written its first checkpoint."""

    def watch() -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and not (run / "checkpoints" / "last.state.pt").exists():
            time.sleep(0.002)
        then()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def tables(study: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [study / "results.json", *sorted(study.glob("tables/*.csv"))]}


def steps(run: Path) -> list[int]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["kind"] == "train"]


def test_a_study_over_ray_whose_worker_is_killed_and_that_goes_on_without_ray_has_the_same_tables(
    ray_cluster: Cluster,
    asked: Asked,
    sequential: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The worker of a parent is killed; Ctrl-C stops the child, which goes on here."""
    study = tmp_path / "study"
    run, child = study / "runs" / "seed0" / "lowres32", study / "runs" / "seed0" / "child"
    with (
        pytest.raises(Interrupted, match="same `hrfr-fast study` command continues") as stopped,
        once_begun(run, lambda: os.kill(holder_of(run)["pid"], signal.SIGKILL)),
        once_begun(child, lambda: os.kill(os.getpid(), signal.SIGINT)),
    ):
        asked.run(study, "ray")
    told = capsys.readouterr().err
    assert "1 node: 2 runs at once with 1 core each" in told and "lowres32, seed 0: its worker on" in told
    assert steps(run) == list(range(1, 61))
    log = (run / "log.txt").read_text()
    assert log.count("lowres32, seed 0 on ") == 2 and "starting again" not in log, "it went on from its checkpoint"
    assert json.loads((run / SAME).read_text())["threads"] == 1
    assert stopped.value.exit_code == 130
    assert "stopped during child, seed 0" in (child / "log.txt").read_text()
    assert steps(child) and not (study / "report.html").exists() and not list(study.rglob(LOCK))
    asked.run(study, "here")
    assert tables(study) == tables(sequential) and steps(child) == list(range(1, 41))
    with monkeypatch.context() as patched:
        patched.setattr("hrfr_fast.study.run.connect", lambda on: pytest.fail("there is nothing left to send"))
        asked.run(study, "ray")


def test_a_node_that_does_not_see_the_folder_is_named(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "FOLDER_SECONDS", 0.0)
    shared = on_ray.Shared(asked.packed, "digest", tmp_path, {"host": "driver"}, tmp_path)
    with pytest.raises(UsageError, match=f"node far: {tmp_path} is not there, or not the driver's; .* every node"):
        on_ray._seen_from("far", shared)
    shared = on_ray.Shared(asked.packed, "digest", tmp_path, {}, tmp_path)
    with pytest.raises(UsageError, match="node far: .*holds other data than the driver sees"):
        on_ray._seen_from("far", shared)
    shared = on_ray.Shared(tmp_path / "none", "digest", tmp_path, {}, tmp_path)
    with pytest.raises(UsageError, match="node far: .*none"):
        on_ray._seen_from("far", shared)


class Answering:
    """A cluster of two cores, without Ray: the first call gives no estimates, each later one the ``error``."""

    ray = type("ray", (), {"nodes": staticmethod(lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])})

    def __init__(self, error: HrfrError) -> None:
        self.error, self.sent = error, 0
        self.cancelled: list[int] = []

    def submit(self, *_: object, **__: object) -> int:
        self.sent += 1
        return self.sent

    def finished(self, calls: list[int], _: float) -> list[int]:
        return calls[:1]

    def result(self, call: int) -> dict[Path, float]:
        if call == 1:
            return {}
        raise self.error

    def cancel(self, calls: list[int]) -> None:
        self.cancelled += calls


@pytest.mark.parametrize(
    "error,match,sent",
    [
        (UsageError("lowres32, seed 0: no such split"), "^lowres32, seed 0: no such split$", 3),
        (on_ray.TaskLost("gone"), "lowres32, seed 0: its worker was lost 4", 3 + 2 * on_ray.LOSSES),
        (
            Interrupted("somebody stopped the node"),
            "lowres32, seed 0: its worker was lost 4",
            3 + 2 * on_ray.LOSSES,
        ),
    ],
)
def test_a_mistake_is_not_tried_again_and_a_loss_three_times(
    asked: Asked, tmp_path: Path, error: HrfrError, match: str, sent: int
) -> None:
    """Either ends the study, and the other run that is under way is stopped."""
    plan = planned(["lowres32", "highres32"], asked.packed, tmp_path, preset=str(asked.preset), device="cpu")
    cluster, stop = Answering(error), StopFlag()
    executor = on_ray.OnRay(cast(Cluster, cluster), plan, 0, stop)
    with pytest.raises(HrfrError, match=match):
        execute_runs(plan, dict.fromkeys([run.directory for run in plan.runs], "new"), executor, stop)
    assert (cluster.sent, cluster.cancelled) == (sent, [sent]), "estimates, two runs and what was tried again"


def test_nodes_without_cores_and_a_cluster_that_shrinks(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nodes(*cores: float) -> list[dict[str, object]]:
        return [{"Alive": True, "Resources": {"CPU": count} if count else {}} for count in cores]

    plan = planned(["lowres32", "highres32"], asked.packed, tmp_path, preset=str(asked.preset), device="cpu")
    monkeypatch.setattr(Answering.ray, "nodes", staticmethod(lambda: nodes(0, 8)))  # `ray start --head --num-cpus 0`
    executor = on_ray.OnRay(cast(Cluster, Answering(HrfrError())), plan, 0, StopFlag())
    assert executor.share.cpus == 4 and executor.places() == 2
    monkeypatch.setattr(Answering.ray, "nodes", staticmethod(lambda: nodes(0)))
    assert executor.places() == 0 and TimeLeft({tmp_path: 5.0}).seconds(executor.places()) == 5


def test_what_the_cluster_has_not_is_refused(asked: Asked, tmp_path: Path) -> None:
    cluster = cast(Cluster, Answering(HrfrError()))
    for device, threads, match in (("cpu", 3, "3: no node .* so many cores"), ("cuda", 0, "has no GPU")):
        plan = planned(["lowres32"], asked.packed, tmp_path, preset=str(asked.preset), device=device)
        with pytest.raises(UsageError, match=match):
            on_ray.OnRay(cluster, plan, threads, StopFlag())
