"""The connection to Ray: addresses, results, errors, lost workers."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from hrfr_fast.packing.cluster_decoders import ClusterDecoders
from hrfr_fast.runtime import cluster
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.words import counted


@pytest.mark.parametrize("on", ["slurm", "ray:", "ray://", "ray://head", "ray://head:port", "ray://:10001"])
def test_other_addresses_are_refused(on: str) -> None:
    with pytest.raises(UsageError, match="ray://HOST:10001"):
        cluster.check_on(on)


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError

    monkeypatch.setattr(cluster, "import_module", missing)
    with pytest.raises(UsageError, match=r"pip install 'hrfr-fast\[cluster\]'"):
        cluster.check_on("ray")


def test_a_cluster_that_goes_away_ends_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = SimpleNamespace(RayError=RuntimeError)
    ray = SimpleNamespace(
        is_initialized=lambda: False, init=lambda **_: None, shutdown=lambda: None, cluster_resources=dict,
        exceptions=errors, remote=lambda function: function,
    )  # fmt: skip
    monkeypatch.setattr(cluster, "import_module", lambda _: ray)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # else connecting leaves it behind
    for error in (ConnectionError("Socket closed"), RuntimeError("Socket closed")):
        with (
            pytest.raises(HrfrError, match=r"ray://head:10001: .*lost \(Socket closed\); .*same command again"),
            ClusterDecoders("ray://head:10001", 0) as decoders,
        ):
            assert decoders.cluster().cpus == 1
            raise error


def test_calls_run_elsewhere_and_are_repeated_when_their_worker_dies(
    ray_cluster: cluster.Cluster, tmp_path: Path
) -> None:
    def dies_once(mark: Path) -> str:
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    def missing() -> None:
        import no_such_module  # noqa: F401

    with StopFlag() as stop, cluster.connect("ray") as same:
        assert same.cpus == ray_cluster.cpus == 2
        assert signal.getsignal(signal.SIGTERM) == stop._on_signal
        calls = [same.submit(counted, n, "face") for n in range(3)]
        assert [same.result(call) for call in calls] == ["0 faces", "1 face", "2 faces"]
        assert same.result(same.submit(os.getpid)) != os.getpid()
        assert same.result(same.submit(dies_once, tmp_path / "mark")) == "done"
    with pytest.raises(UsageError, match="slurm"):  # what a call raises arrives as it was raised
        ray_cluster.result(ray_cluster.submit(cluster.check_on, "slurm"))
    with pytest.raises(HrfrError, match="No module named 'no_such_module'.*on every node"):
        ray_cluster.result(ray_cluster.submit(missing))
    with pytest.raises(HrfrError, match="run the same command again"):
        ray_cluster.result(ray_cluster.submit(os._exit, 1, retries=0))


def test_words_of_ray_are_one_line_on_standard_error(
    ray_cluster: cluster.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private import worker

    died = "A worker died or was killed while executing a task. To troubleshoot, see these logs.\nRaylet: 0123"
    worker.print_to_stdstream({"lines": [died], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    said = capsys.readouterr()
    assert said.out == "" and said.err == "note: Ray says: A worker died or was killed while executing a task\n"


def test_another_version_on_a_node_is_refused(ray_cluster: cluster.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "__version__", "0.0")
    with pytest.raises(UsageError, match=r"this machine 0\.0: install the same version"):
        ray_cluster.result(ray_cluster.submit(os.getpid))
