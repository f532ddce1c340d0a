"""``--profile N``: where the time of N training steps goes, as a trace and as a short table."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hrfr_fast.runtime.files import write_bytes
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.words import counted

if TYPE_CHECKING:
    import torch

SKIPPED = 5  # steps before: compilation, capture, cuDNN's choice of algorithms
ROWS = 12
PREFIX = "step: "  # of the names that TrainStep gives its phases


class StepProfiler:
    """Records ``steps`` steps after the first SKIPPED ones; call ``step()`` after each, ``close()`` at the end.

    Writes ``directory/trace.json`` (for ui.perfetto.dev or chrome://tracing) and ``directory/table.txt``, and prints
    the table. With 0 steps it does nothing.
    """

    def __init__(self, steps: int, directory: Path, device: "torch.device") -> None:
        self.steps, self.directory, self.on_cuda = steps, directory, device.type == "cuda"
        self.left = SKIPPED + steps if steps else 0
        self._profile: Any = None

    def step(self) -> None:
        """Tell that a step was taken."""
        if not self.left:
            return
        self.left -= 1
        if self.left == self.steps:
            self._start()
        elif not self.left:
            self._finish(self.steps)

    def close(self) -> None:
        """A run that ends too early is reported with the steps there were."""
        recorded = self.steps - self.left
        if self._profile is not None:
            self._finish(recorded)
        elif self.left:
            console.print(f"no profile: the run ended within the {SKIPPED} steps that are left out")
        self.left = 0

    def _start(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.on_cuda else [])]
        self._profile = profile(activities=activities)
        self._profile.start()

    def _finish(self, steps: int) -> None:
        if self.on_cuda:
            import torch

            torch.cuda.synchronize()
        self._profile.stop()
        events, self._profile, profile = self._profile.key_averages(), None, self._profile
        if not steps:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(self.directory / "trace.json"))
        table = step_table(events, steps, self.on_cuda)
        write_bytes(self.directory / "table.txt", table.encode())
        console.print(table, markup=False, highlight=False)
        console.print(f"trace of {counted(steps, 'step')}: {self.directory / 'trace.json'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def step_table(events: Any, steps: int, on_cuda: bool) -> str:
    """The phases of a step and the ROWS costliest operators (CUDA: kernels), in ms a step.

    Args:
        events: what ``torch.profiler.profile.key_averages()`` gives.
        steps: how many steps they cover.
        on_cuda: kernels' device time counts; else operators' own CPU time.
    """
    from torch.autograd import DeviceType

    named = {event.key for event in events if event.key.startswith(PREFIX)}
    phases = {  # each comes a second time as what it covers on the device
        event.key: (event.count, event.cpu_time_total)
        for event in events if event.key in named and event.device_type == DeviceType.CPU
    }  # fmt: skip
    lines = _rows("phase (host time)", phases, steps) if phases else "a captured step has no phases on the host\n"
    return lines + _rows("kernel" if on_cuda else "operator", _costs(events, on_cuda, named), steps)


def _costs(events: Any, on_cuda: bool, phases: set[str]) -> dict[str, tuple[int, float]]:
    """Calls and own microseconds of everything that runs on the device."""
    from torch.autograd import DeviceType

    wanted: Callable[[Any], bool] = lambda event: (event.device_type == DeviceType.CUDA) == on_cuda  # noqa: E731
    time_of = (lambda event: event.self_device_time_total) if on_cuda else (lambda event: event.self_cpu_time_total)
    return {e.key: (e.count, time_of(e)) for e in events if wanted(e) and e.key not in phases}


def _rows(title: str, costs: dict[str, tuple[int, float]], steps: int) -> str:
    total = sum(time for _, time in costs.values()) or 1.0
    shown = sorted(costs.items(), key=lambda item: -item[1][1])[:ROWS]
    lines = [f"{title:58} {'calls/step':>10} {'ms/step':>9} {'share':>6}"]
    for name, (count, time) in shown:
        lines.append(f"{name[:58]:58} {count / steps:10.1f} {time / steps / 1000:9.3f} {time / total:6.1%}")
    return "\n".join(lines) + "\n"
