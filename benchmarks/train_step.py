"""How fast a training step is: the whole run, the same step on one constant batch, and the step people run today.

    python benchmarks/train_step.py            # under 3 minutes on 2 cores
    python benchmarks/train_step.py --quick
    python benchmarks/train_step.py --data packed --width 64 --batch-size 1024    # as on a GPU

Rounds take turns (A B A B), medians count. The ceilings that utilisation and roofline refer to, a matrix product and a
copy, are measured in the same run. Nothing is appended anywhere: results go to the JSON file in --out.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.command import run  # noqa: E402
from benchmarks.peers.eager_step import EagerStep  # noqa: E402
from benchmarks.record import record  # noqa: E402
from benchmarks.trial import Trial  # noqa: E402
from hrfr_fast.runtime.errors import UsageError  # noqa: E402
from hrfr_fast.settings import TrainSettings, choices  # noqa: E402
from hrfr_fast.training.build import build  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.roofline import Operation
    from hrfr_fast.engines.base import Engine
    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.runtime.device import Compute
    from hrfr_fast.training.trainer import Trainer

REGIMES = ("lowres32", "highlow144")
PEER_BATCHES = (128, 256, 512, 1024)
ENDLESS = 10**7  # steps: a run long enough that --compile auto compiles on CUDA


@dataclass
class Arm:
    """Something that takes steps, and what it reached."""

    name: str
    steps: Callable[[int], None]
    """Takes that many steps and waits for the device."""
    batch_size: int
    details: dict[str, Any] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    count: int = 1

    @property
    def images_per_second(self) -> float:
        return median(self.rates)

    def calibrate(self, seconds: float) -> None:
        """Warm up (compile, capture, fill caches) and find how many steps last ``seconds``."""
        self.steps(2)
        began = time.perf_counter()
        self.steps(2)
        self.count = max(2, round(2 * seconds / (time.perf_counter() - began)))

    def round(self) -> None:
        began = time.perf_counter()
        self.steps(self.count)
        self.rates.append(self.count * self.batch_size / (time.perf_counter() - began))


@dataclass(frozen=True)
class Ceilings:
    """What this device reached in this run."""

    flops_per_second: float
    bytes_per_second: float


def measure_ceilings(compute: "Compute") -> Ceilings:
    """A matrix product and a copy (bytes read plus written), in the run's number format."""
    import torch

    from hrfr_fast.training.speed import matrix_rate

    on_cuda = compute.device.type == "cuda"
    product = matrix_rate(compute) if on_cuda else matrix_rate(compute, size=1536, repeats=5)
    source = torch.ones(2**30 if on_cuda else 2**26, dtype=torch.float32, device=compute.device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(10):
        wait(compute)
        began = time.perf_counter()
        target.copy_(source)
        wait(compute)
        rates.append(2 * source.nbytes / (time.perf_counter() - began))
    return Ceilings(product, median(rates[2:]))


def wait(compute: "Compute") -> None:
    """Until the device has done what it was told."""
    import torch

    if compute.device.type == "cuda":
        torch.cuda.synchronize()


def free_memory(compute: "Compute") -> int:
    """Forget the peak; device bytes in use now."""
    import gc

    import torch

    gc.collect()
    if compute.device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_bytes(compute: "Compute", before: int) -> int:
    """Device bytes at the peak since ``free_memory`` gave ``before``; 0 on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() - before if compute.device.type == "cuda" else 0


# ---- ours -----------------------------------------------------------------------------------------------------------


def whole_run(trainer: "Trainer", engine: "Engine") -> Arm:
    """The trainer's own loop body over an engine's batches, log lines included; verification left out."""
    batches = iter(engine.batches(0, ENDLESS * trainer.setup.stream.batch_size))

    def steps(count: int) -> None:
        for _ in range(count):
            trainer.step(next(batches))
            if trainer.state.step % trainer.setup.settings.logging.log_every == 0:
                trainer.log.read()
        wait(trainer.setup.compute)

    return Arm(f"whole run, {engine.name}", steps, trainer.setup.stream.batch_size)


def constant_batch(trainer: "Trainer") -> Arm:
    """The same step, captured and compiled alike, on one batch that is already there."""
    batch = next(iter(trainer.setup.engine.batches(0, trainer.setup.stream.batch_size)))

    def steps(count: int) -> None:
        for _ in range(count):
            trainer.step(batch)
            if trainer.state.step % trainer.setup.settings.logging.log_every == 0:
                trainer.log.read()
        wait(trainer.setup.compute)

    return Arm("constant batch", steps, trainer.setup.stream.batch_size)


def best_peer(trainer: "Trainer", batch_sizes: tuple[int, ...], seconds: float) -> Arm:
    """The eager step at its best batch size, measured while ours holds no memory yet; what does not fit is named."""
    import torch

    tried: dict[int, Arm] = {}
    for size in batch_sizes:
        before = free_memory(trainer.setup.compute)
        try:
            arm = peer_arm(trainer, size)
            arm.calibrate(seconds)
            arm.round()
            arm.details["peak_bytes"] = peak_bytes(trainer.setup.compute, before)
            tried[size] = arm
        except torch.cuda.OutOfMemoryError:
            print(f"the eager step does not fit with {size} images")
        arm.steps = _gone
    best = max(tried.values(), key=lambda arm: arm.images_per_second)
    best.details |= {"tried": {size: arm.images_per_second for size, arm in tried.items()}, "in_turns": False}
    free_memory(trainer.setup.compute)
    return best


def beside_ours(trainer: "Trainer", best: Arm, seconds: float) -> Arm:
    """The best peer made again, to take turns with ours; where both do not fit, the one measured before."""
    import torch

    try:
        arm = peer_arm(trainer, best.batch_size)
        arm.calibrate(seconds)
    except torch.cuda.OutOfMemoryError:
        free_memory(trainer.setup.compute)
        return best
    arm.details = best.details | {"in_turns": True}
    return arm


def _gone(count: int) -> None:
    raise RuntimeError("this arm's memory was given back")


def plain_shape(trainer: "Trainer") -> "BackboneSettings":
    """The shape of the regime's one backbone. Raises UsageError for a fused model, whose step has no roofline here."""
    from hrfr_fast.model.backbone import BackboneSettings

    if not isinstance(trainer.setup.shape, BackboneSettings):
        raise UsageError(f"--regime {trainer.setup.regime.name}: a fused model; measure a regime of one backbone")
    return trainer.setup.shape


def peer_arm(trainer: "Trainer", batch_size: int) -> Arm:
    """The eager step of a plain trainer, on one constant batch."""
    step = EagerStep(plain_shape(trainer), trainer.setup.stream.classes, trainer.setup.compute, batch_size)

    def steps(count: int) -> None:
        for _ in range(count):
            step()
        wait(trainer.setup.compute)

    return Arm(f"eager NCHW {step.precision}, batch {batch_size}", steps, batch_size)


# ---- a regime, side by side -----------------------------------------------------------------------------------------


def measure(settings: TrainSettings, engines: tuple[str, ...], rounds: int, seconds: float) -> dict[str, Any]:
    """All arms of one regime in turns. All of ours share one step; engines that cannot work here are named."""
    from hrfr_fast.engines.choice import choose_engine
    from hrfr_fast.runtime.errors import HrfrError

    arms, problems = [], {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        trainer = stack.enter_context(Trial(build(settings.replaced(out=f"{folder}/run")), show_progress=False))
        trainer.start()
        trainer.setup.backbone.train()
        trainer.setup.head.train()
        on_cuda = trainer.setup.compute.device.type == "cuda"
        peer = best_peer(trainer, PEER_BATCHES if on_cuda else (trainer.setup.stream.batch_size,), seconds)
        before = free_memory(trainer.setup.compute)
        ceiling = constant_batch(trainer)
        ceiling.calibrate(seconds)
        ceiling.details["peak_bytes"] = peak_bytes(trainer.setup.compute, before)
        for name in engines:
            try:
                asked = trainer.setup.settings.replaced(engine=name)
                engine = choose_engine(asked, trainer.setup.stream, trainer.setup.compute, print)
                stack.callback(engine.close)
                arm = whole_run(trainer, engine)
                arm.calibrate(seconds)
                arms.append(arm)
            except (HrfrError, ImportError, RuntimeError) as error:
                problems[name] = str(error).splitlines()[0]
        peer = beside_ours(trainer, peer, seconds)
        for _ in range(rounds):
            for arm in (*arms, ceiling, *([peer] if peer.details["in_turns"] else [])):
                arm.round()
        return report(trainer, arms, ceiling, peer) | {"problems": problems}


def report(trainer: "Trainer", arms: list[Arm], ceiling: Arm, peer: Arm) -> dict[str, Any]:
    """Rates, ratios, utilisation and share of the roofline of one regime."""
    from benchmarks.roofline import roofline_seconds, step_operations

    found = measure_ceilings(trainer.setup.compute)
    batch, number = trainer.setup.stream.batch_size, trainer.setup.compute.image_dtype.itemsize
    operations = step_operations(plain_shape(trainer), trainer.setup.stream.classes, batch, activation_bytes=number)
    floor = batch / roofline_seconds(operations, found.flops_per_second, found.bytes_per_second)
    flops = sum(one.flops for one in operations) / batch

    def row(arm: Arm) -> dict[str, Any]:
        rate = arm.images_per_second
        return {
            "name": arm.name, "batch_size": arm.batch_size, "images_per_second": rate,
            "slowest": min(arm.rates), "fastest": max(arm.rates),
            "of_constant_batch": rate / ceiling.images_per_second, "times_eager": rate / peer.images_per_second,
            "utilisation": rate * flops / found.flops_per_second, "of_roofline": rate / floor, **arm.details,
        }  # fmt: skip

    return {
        "regime": trainer.setup.regime.name, "size": trainer.setup.stream.size,
        "width": trainer.setup.settings.model.width,
        "classes": trainer.setup.stream.classes, "batch_size": batch, "device": str(trainer.setup.compute),
        "compile": trainer.state.execution.compile, "graphs": trainer.state.execution.graphs,
        "ceilings": asdict(found), "roofline_images_per_second": floor, "flops_per_image": flops,
        "bytes_per_image": sum(one.bytes for one in operations) / batch,
        "operations": [one._asdict() for one in operations], "rows": [row(arm) for arm in (*arms, ceiling, peer)],
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """Two tables: where the roofline's time lies, and who reached what."""
    from benchmarks.roofline import Operation
    from hrfr_fast.runtime.terminal import print_rows

    show_roofline([Operation(**one) for one in result["operations"]], result)
    rows = [
        (
            row["name"], f"{row['images_per_second']:,.0f}", f"{row['slowest']:,.0f} .. {row['fastest']:,.0f}",
            f"{row['of_constant_batch']:.1%}", f"{row['times_eager']:.2f}", f"{row['utilisation']:.1%}",
            f"{row['of_roofline']:.1%}", f"{row.get('peak_bytes', 0) / 2**20:,.0f}" if row.get("peak_bytes") else "",
        )
        for row in result["rows"]
    ]  # fmt: skip
    print_rows(
        ("", "images/s", "slowest .. fastest\nround", "of\nconstant", "x eager", "utili-\nsation", "of\nroofline",
         "peak\nMiB"), rows,
        title=f"{result['regime']}: {result['size']} px, width {result['width']}, {result['classes']:,} classes, "
        f"batch {result['batch_size']} on {result['device']}; compile {result['compile']}, graphs {result['graphs']}",
        right=range(1, 8),
    )  # fmt: skip
    for engine, problem in result["problems"].items():
        typer.echo(f"  NOT MEASURED: engine {engine}: {problem}")


def show_roofline(operations: "list[Operation]", result: dict[str, Any]) -> None:
    """Per kind of operation: GFLOP, MB and microseconds an image at the measured ceilings."""
    from benchmarks.roofline import by_kind, roofline_seconds
    from hrfr_fast.runtime.terminal import print_rows

    flops, memory = result["ceilings"]["flops_per_second"], result["ceilings"]["bytes_per_second"]
    batch, rows = result["batch_size"], []
    for kind, total in by_kind(operations).items():
        seconds = roofline_seconds((one for one in operations if one.kind == kind), flops, memory)
        rows.append((kind, f"{total.flops / batch / 1e9:.3f}", f"{total.bytes / batch / 1e6:.2f}",
                     f"{seconds / batch * 1e6:.2f}"))  # fmt: skip
    print_rows(
        ("operation", "GFLOP/image", "MB/image", "us/image"), rows, right=range(1, 4),
        title=f"roofline at {flops / 1e12:,.2f} TFLOP/s and {memory / 1e9:,.0f} GB/s: "
        f"{result['roofline_images_per_second']:,.0f} images/s",
    )  # fmt: skip


# ---- the command ----------------------------------------------------------------------------------------------------


def packed_faces(data: Path | None, cache: Path) -> Path:
    """The packed directory given, or parametric faces, made once."""
    from hrfr_fast.synthetic.packed import synthesize_packed

    if data is not None:
        return data
    made = cache / "packed-small"
    if not (made / "manifest.json").exists():
        synthesize_packed(made, "small")
    return made


def main(
    data: Annotated[Path | None, typer.Option(help="packed faces; a small parametric set if not given")] = None,
    cache: Annotated[Path, typer.Option(help="where the parametric set is kept")] = Path("benchmarks/data"),
    quick: Annotated[bool, typer.Option("--quick", help="one regime, short rounds")] = False,
    regime: Annotated[list[str] | None, typer.Option(help="only this regime; may be repeated")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="only this engine; may be repeated")] = None,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
    precision: Annotated[str, typer.Option(help="auto | bf16 | fp16 | fp32, of our step")] = "auto",
    compile: Annotated[str, typer.Option(help="auto | on | off; auto compiles on CUDA")] = "auto",
    graphs: Annotated[str, typer.Option(help="auto | on | off")] = "auto",
    width: Annotated[int, typer.Option(help="0: 64 on a GPU, 16 on a CPU")] = 0,
    batch_size: Annotated[int, typer.Option(help="0: 1024 on a GPU; 64 (32 px) or 16 (144 px) on a CPU")] = 0,
    rounds: Annotated[int, typer.Option(help="of each arm; 0: 5, 2 with --quick")] = 0,
    seconds: Annotated[float, typer.Option(help="a round; 0: 1.5, 0.5 with --quick")] = 0.0,
    out: Annotated[Path, typer.Option(help="where train_step.json goes")] = Path("benchmarks/out"),
) -> None:
    """Measure images/s of training, side by side, against two measured ceilings."""
    from hrfr_fast.regimes import regime_named
    from hrfr_fast.runtime.device import choose_compute

    on_cuda = choose_compute(device, precision).device.type == "cuda"
    packed = packed_faces(data, cache)
    engines = tuple(engine or (name for name in choices("engine") if name != "auto"))
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for name in regime or (REGIMES[:1] if quick else REGIMES):
        size = regime_named(name).input_size
        settings = TrainSettings(
            regime=name, data=str(packed), steps=ENDLESS, device=device, precision=precision, compile=compile,
            graphs=graphs, width=width or (64 if on_cuda else 16),
            batch_size=batch_size or (1024 if on_cuda else 64 if size <= 64 else 16),
        )  # fmt: skip
        results.append(measure(settings, engines, rounds or (2 if quick else 5), seconds or (0.5 if quick else 1.5)))
        show(results[-1])
        (out / "train_step.json").write_text(
            json.dumps(record("train_step", results), indent=1) + "\n", encoding="utf-8"
        )
    typer.echo(f"{out}/train_step.json")


if __name__ == "__main__":
    run(main)
