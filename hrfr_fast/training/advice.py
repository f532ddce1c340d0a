"""What to try when a run goes wrong or would take days: only what this run can still change."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hrfr_fast.regimes import Regime
from hrfr_fast.runtime.system import gib, peak_memory
from hrfr_fast.settings import TrainSettings

if TYPE_CHECKING:
    from hrfr_fast.engines.choice import Situation

LONG = 3600.0  # seconds of training on a CPU that nobody should find out about by waiting
NARROW = 16  # the width that suits CPUs: a sixteenth of the full network's arithmetic
FASTER = "6 to 7 times as fast as 64"  # measured at 32 and 144 px, bf16, one core with AMX: 6.3 and 6.9


def after_divergence(settings: TrainSettings) -> str:
    """What may keep the loss finite; the settings' precision is decided."""
    has_margin = settings.loss.head != "softmax" and settings.loss.margin != 0
    head = "a smaller --margin or --scale" if has_margin else "a smaller --scale"
    tries = ["a lower --learning-rate", "a longer --warmup", head]
    if not settings.optimizer.clip_gradient:
        tries.append("--clip-gradient 5")
    last = (
        "; --precision fp32 tells whether the number format is to blame"
        if settings.execution.precision != "fp32"
        else ""
    )
    return f"Try {', '.join(tries[:-1])} or {tries[-1]}{last}."


def without_effect(settings: TrainSettings, regime: Regime, asked: Iterable[str]) -> list[str]:
    """Those of the settings ``asked`` for by name that change nothing in a run of ``regime``."""
    native = regime.degradation == "native"
    tune = regime.tune if settings.tuning.tune == "regime" else settings.tuning.tune
    distillation = settings.loss.distillation
    taught = regime.distillation if distillation is None else distillation
    used = {
        "highres_share": len(regime.sources) > 1,
        "highres_identities": "highres" in regime.sources,
        "degradation": regime.second_view and native,
        **dict.fromkeys(("degrade_min", "degrade_max", "kernels"), regime.second_view and not native),
        **dict.fromkeys(("lora_rank", "lora_alpha", "lora_layers"), tune == "lora"),
        "teacher": bool(taught),
    }
    return [name for name in asked if not used.get(name, True)]


def after_out_of_memory(settings: TrainSettings) -> str:
    """What makes a step smaller."""
    tries = ["a smaller --batch-size", "a larger --accumulate"]
    if not settings.execution.activation_checkpointing:
        tries.append("--activation-checkpointing")
    return f"try {', '.join(tries[:-1])} or {tries[-1]}"


def of_a_slow_run(
    settings: TrainSettings,
    batch_size: int,
    seconds_a_step: float,
    steps_left: int,
    *,
    fastest: str,
    resumed: bool,
    inherits: bool,
) -> str | None:
    """A CPU run's rate and time left, and what would make it bearable; None where it is done within LONG seconds.

    Args:
        settings: of the run.
        batch_size: samples a step.
        seconds_a_step: measured.
        steps_left: at most.
        fastest: the precision that suits this CPU.
        resumed: the run goes on, and cannot be made smaller.
        inherits: the network's width is its parent's.
    """
    left = seconds_a_step * steps_left
    if left <= LONG:
        return None
    rate = batch_size / seconds_a_step
    told = (
        f"this run on a CPU: {rate:,.3g} images/s and {gib(peak_memory())} of memory so far; {in_words(left)} left"
        f" for {steps_left:,} steps of {batch_size}."
    )
    if resumed:
        return f"{told} A run that was begun keeps its size; a new one could be smaller."
    tries = _lighter(settings, fastest, inherits)
    tries += ["fewer --steps" if settings.budget.steps else "fewer --epochs", "a smaller --batch-size (less memory)"]
    return f"{told} To make it bearable: {', '.join(tries)}; or train on a GPU."


def _lighter(settings: TrainSettings, fastest: str, inherits: bool) -> list[str]:
    """What makes each image cheaper on a CPU."""
    tries = [f"--width {NARROW} ({FASTER})"] if settings.model.width > NARROW and not inherits else []
    return tries + ([f"--precision {fastest}"] if settings.execution.precision != fastest else [])


def of_a_slow_step(settings: TrainSettings, *, on_cuda: bool, by_host: bool, fastest: str) -> list[str]:
    """What makes a step faster that is fed fast enough, at least one thing to try.

    Args:
        settings: of the run.
        on_cuda: it runs on a GPU.
        by_host: the host launches more slowly than the GPU computes.
        fastest: the precision that suits this device.
    """
    asked = settings.execution
    off = [name for name in ("compile", "graphs") if on_cuda and getattr(asked, name) == "off"]
    off += ["fused_kernels"] if asked.fused_kernels == "off" else []
    tries = [f"--{name.replace('_', '-')} auto in place of off" for name in off]
    if by_host:
        return [*tries, "a larger --batch-size"]
    if on_cuda:
        tries += [f"--precision {fastest}"] if asked.precision != fastest else []
        tries += ["no --activation-checkpointing, where memory allows"] if asked.activation_checkpointing else []
        return [*tries, "several GPUs (torchrun), or a smaller network: loader and launches leave nothing to gain"]
    return [*tries, *_lighter(settings, fastest, inherits=bool(settings.init)), "a GPU, or a CPU with more cores"]


def of_a_slow_loader(here: "Situation", faster: str, engine: str) -> list[str]:
    """What makes batches come faster, at least one thing to try.

    Args:
        here: what the choice of the engine depends on.
        faster: an engine that was measured to be faster; "" where there is none.
        engine: that feeds the run.
    """
    tries = [f"--engine {faster}"] if faster else []
    if here.on_cuda and engine == "ffcv" and not here.dali:
        tries.append("pip install nvidia-dali-cuda120, which decodes and resamples on the GPU")
    if here.jpeg and not (here.on_cuda and engine == "resident"):
        slow_decoder = here.decoder.partition("; ")[2]
        tries += [slow_decoder] if slow_decoder and not here.on_cuda else []
        tries.append(f"pack --encoding raw, which leaves nothing to decode and takes {gib(here.pixels)}")
    if here.shards > here.host_free:
        tries.append("more memory, or a faster disk under the shards")
    return tries or ["more CPU cores" if not here.on_cuda or engine != "resident" else "weaker --augment settings"]


def in_words(seconds: float) -> str:
    """A duration, in the unit that suits it."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"about {seconds / length:,.0f} {unit}"
    return f"about {seconds:,.0f} seconds"
