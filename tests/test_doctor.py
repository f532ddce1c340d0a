"""The doctor: facts of this machine, and what it makes of machines that are not this one."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from hrfr_fast import doctor
from hrfr_fast.doctor import facts as machine
from hrfr_fast.doctor.diagnosis import diagnose
from hrfr_fast.doctor.disk import measure_disk
from hrfr_fast.doctor.facts import Facts
from hrfr_fast.doctor.links import AllReduce, Exchange, Link, slow
from hrfr_fast.runtime.errors import UsageError

HEALTHY = Facts(
    cores=16, memory_bytes=64 << 30, memory_available_bytes=60 << 30, shm_bytes=32 << 30,
    gpus=("NVIDIA H200, 143771 MiB, 570.1",), driver="570.1", torch="2.9.0", torch_cuda="12.8", cuda_usable=True,
    gpu_memory_free_bytes=100 << 30, dali=("nvidia-dali-cuda120 2.4.0",), ffcv="1.0.2", threads="tbb",
)  # fmt: skip


def test_a_healthy_machine_needs_no_fix():
    report = diagnose(HEALTHY)
    assert report.fixes == [] and all(verdict.works for verdict in report.engines)
    assert "60.0 GiB" in report.engines[0].text, "0.6 of the free device memory is for pixels"


def test_a_cpu_is_told_what_decodes_jpeg():
    facts = replace(HEALTHY, gpus=(), driver="", cuda_usable=False, jpeg="libturbojpeg.so.0 decodes JPEG")
    assert diagnose(facts).engines[0].text.endswith("(tbb threads); libturbojpeg.so.0 decodes JPEG")


@pytest.mark.parametrize(
    "change,broken,fix",
    [
        (
            {"cuda_usable": False, "torch_cuda": ""},
            set(),
            "CPU build.\nFix: `pip install --force-reinstall torch --index",
        ),
        ({"cuda_usable": False, "torch_cuda": "13.0"}, set(), "needs driver 580 or newer; here is 570"),
        (
            {"cuda_usable": False, "torch_cuda": "13.0"},
            set(),
            "torch --index-url https://download.pytorch.org/whl/cu128`",
        ),
        (
            {"cuda_usable": False, "torch_cuda": "13.0", "driver": "535.54"},
            set(),
            "https://download.pytorch.org/whl/cu126`",
        ),
        ({"cuda_usable": False, "torch_cuda": "12.8", "driver": "470.82.01"}, set(), "update the driver"),
        ({"cuda_usable": False, "driver": "580.65.06"}, set(), "--gpus all"),
        ({"compiler_error": "there is no C compiler"}, set(), "gcc libc6-dev python3-dev"),
        (
            {"gpu_capability": (6, 1), "torch_architectures": ("sm_75", "sm_80", "compute_120")},
            set(),
            "6.1, the build is",
        ),
        ({"gpu_capability": (6, 1), "torch_architectures": ("sm_75", "compute_120")}, set(), "whl/cu126`"),
        ({"gpu_capability": (12, 0), "torch_architectures": ("sm_80", "sm_90")}, set(), "whl/cu128`"),
        ({"dali": ("nvidia-dali-cuda130 2.4.0",)}, {"dali"}, "needs driver 580 or newer; here is 570: pip uninstall"),
        ({"driver": "470.82.01"}, {"dali"}, "nvidia-dali-cuda120 needs driver 525 or newer; here is 470: update"),
        ({"dali": ()}, {"dali"}, "pip install nvidia-dali-cuda120"),
        ({"dali": ("nvidia-dali-cuda120 2.4.0", "nvidia-dali-cuda130 2.4.0")}, {"dali"}, "pip uninstall"),
        ({"dali_error": "ImportError: libx"}, {"dali"}, "nvidia-dali-cuda120"),
        ({"ffcv": ""}, {"ffcv"}, "install_ffcv.sh"),
        ({"ffcv_error": "ImportError: libopencv_core.so"}, {"ffcv"}, "install_ffcv.sh"),
        ({"threads": "workqueue"}, {"ffcv"}, "pip install tbb"),
        ({"shm_bytes": 64 << 20}, set(), "--shm-size"),
        ({"torch_error": "ImportError: no"}, {"resident", "dali", "ffcv"}, "--force-reinstall torch"),
    ],
)
def test_what_is_missing_is_named_with_its_fix(change, broken, fix):
    report = diagnose(replace(HEALTHY, **change))
    assert {verdict.engine for verdict in report.engines if not verdict.works} == broken
    assert any(fix in line for line in report.fixes)
    assert report.works == (len(broken) < 3)


FITS = {
    "a CUDA 13 build on a new driver": {"torch_cuda": "13.0", "driver": "580.65.06"},
    "both of DALI's wheels go with either build": {
        "torch_cuda": "12.8", "driver": "580.65.06", "dali": ("nvidia-dali-cuda130 2.4.0",),
    },
    "as /proc tells it": {
        "torch_cuda": "13.0", "driver": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025",
    },
    "code of the same generation": {"gpu_capability": (8, 9), "torch_architectures": ("sm_75", "sm_86")},
    "code of another form": {"gpu_capability": (9, 0), "torch_architectures": ("sm_90a",)},
    "what the driver compiles": {"gpu_capability": (12, 1), "torch_architectures": ("sm_90", "compute_120")},
    "no GPU, any wheel": {
        "gpus": (), "driver": "", "cuda_usable": False, "torch_cuda": "13.0", "dali": ("nvidia-dali-cuda130 2.4.0",),
    },
}  # fmt: skip


@pytest.mark.parametrize("case", FITS)
def test_what_fits_needs_no_fix(case):
    report = diagnose(replace(HEALTHY, **FITS[case]))
    assert report.fixes == [] and all(verdict.works for verdict in report.engines)


def test_a_run_on_a_driver_too_old_for_torch_says_which_build_fits(monkeypatch):
    """PyPI's torch is built for CUDA 13: installing it anew, as once was advised, would change nothing."""
    import torch

    from hrfr_fast.runtime import device
    from hrfr_fast.runtime.errors import HrfrError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device, "_driver", lambda: "NVRM version: NVIDIA UNIX Kernel Module  550.54.15  Tue Mar 5 2024")
    with pytest.raises(HrfrError, match="needs driver 580 or newer; here is 550(.|\n)*whl/cu126.*--device cpu"):
        device.choose_compute()


def test_a_run_on_a_gpu_without_code_says_so_before_the_first_kernel(monkeypatch):
    import torch

    from hrfr_fast.runtime import device
    from hrfr_fast.runtime.errors import HrfrError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    with pytest.raises(HrfrError, match="no code for this GPU: its compute capability is 7.0"):
        device.choose_compute("cuda")


def test_a_missing_compiler_is_found(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine._compiler_facts() == {"compiler_error": "there is no C compiler"}
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/gcc")
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda name: "/nothing")
    assert machine._compiler_facts() == {"compiler_error": "/nothing/Python.h is missing"}


def test_the_disk_is_measured_and_left_as_it_was(tmp_path):
    disk = measure_disk(tmp_path, 1 << 20)
    assert disk.write_bytes_per_second > 0 and disk.read_bytes_per_second > 0 and disk.random_reads_per_second > 0
    assert disk.free_bytes > 0 and not list(tmp_path.iterdir())


def test_the_command_prints_json_and_succeeds_where_one_engine_works(tmp_path):
    from hrfr_fast.cli import app

    done = CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["works"] and found["facts"]["cores"] >= 1 and found["facts"]["torch"]
    assert {verdict["engine"] for verdict in found["engines"]} == {"resident", "dali", "ffcv"}
    for verdict in found["engines"]:
        assert verdict["works"] or verdict["fix"], "what does not work comes with its fix"


def test_a_machine_where_nothing_works_ends_with_an_error(tmp_path, monkeypatch):
    from hrfr_fast.cli import app
    from hrfr_fast.runtime.errors import HrfrError

    monkeypatch.setattr(doctor, "collect_facts", lambda folder: replace(HEALTHY, torch_error="ImportError: no"))
    done = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert isinstance(done.exception, HrfrError) and done.exception.exit_code == 1
    assert "force-reinstall" in done.output


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="directory"):
        doctor.examine(tmp_path / "nothing")


def exchange_of(hosts, rates, usual=10e9):
    """All pairs of ranks at ``usual`` bytes a second, but for ``rates``."""
    pairs = [(a, b) for a in range(len(hosts)) for b in range(a + 1, len(hosts))]
    links = tuple(Link(a, b, 1e-5, rates.get((a, b), usual)) for a, b in pairs)
    return Exchange(tuple(hosts), "cpu", (AllReduce(1 << 20, 1e-3),), links)


FOUR, TWO_EACH = ["a"] * 4, ["a", "a", "b", "b", "c", "c"]
OF_C = {(a, b): 0.2e9 for a in range(4) for b in (4, 5)}
BETWEEN = {(a, b): 1e9 for a in range(6) for b in range(a + 1, 6) if a // 2 != b // 2}
LINKS = {
    "all alike": (FOUR, {}, []),
    "one link": (FOUR, {(1, 3): 1e9}, ["rank 1 (a) and rank 3 (a): 1.00 GB/s where others carry 10.00 GB/s"]),
    "a little slower is not slow": (FOUR, {(1, 3): 5.1e9}, []),
    "one rank of three, so two links of three": (["a"] * 3, {(0, 1): 1e9, (1, 2): 2e9}, ["rank 1 (a): all its links"]),
    "two ranks have nothing to compare with": (["a"] * 2, {(0, 1): 1e6}, []),
    "the network is slower than the machines, which is no defect": (TWO_EACH, BETWEEN, []),
    "one machine of three": (TWO_EACH, BETWEEN | OF_C, ["machine c: all its links are slow, 0.20 GB/s at most"]),
    "one link within a machine beside it": (
        TWO_EACH, BETWEEN | OF_C | {(0, 1): 1e9}, ["machine c: ", "rank 0 (a) and rank 1 (a): 1.00 GB/s"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("hosts,rates,named", LINKS.values(), ids=LINKS)
def test_a_slow_link_rank_or_machine_is_named_and_nothing_else(hosts, rates, named):
    found = slow(exchange_of(hosts, rates))
    assert len(found) == len(named) and all(text in line for text, line in zip(named, found, strict=True)), found


def test_the_rate_of_a_sum_is_that_of_each_link_of_a_ring():
    """Each of 4 ranks sends 3/4 of the message twice."""
    assert AllReduce(1 << 20, 1e-3).bus_rate(4) == pytest.approx(1.5 * (1 << 20) / 1e-3)


def test_without_torchrun_the_doctor_says_how_to_time_the_exchange(monkeypatch, tmp_path):
    from hrfr_fast.cli import app

    monkeypatch.setattr(doctor, "collect_facts", lambda folder: HEALTHY)
    assert "torchrun --nproc-per-node N -m hrfr_fast doctor" in CliRunner().invoke(app, ["doctor"]).output


def test_the_exchange_is_printed_with_what_is_slow(capsys):
    from hrfr_fast.cli.output import print_exchange

    print_exchange(exchange_of(FOUR, {(1, 3): 1e9}))
    shown = capsys.readouterr().out
    assert "all-reduce over 4 ranks on 1 machine" in shown and "1.57 GB/s" in shown
    assert "slow link: rank 1 (a) and rank 3 (a)" in " ".join(shown.split())
