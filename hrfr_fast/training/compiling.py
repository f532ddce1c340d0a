"""Whether torch.compile pays for a run, and where its results are kept."""

import os
import tempfile
from pathlib import Path

from hrfr_fast.runtime.caches import cache_home, private_folder, use_writable_caches, writable
from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.errors import UsageError

# Share of a GPU's matrix rate that an eager channels-last bf16 step reaches: a prediction. On an H200 it is 0.06 at 32
# px (32,162 images/s of 1.42 GFLOP, of 790 TFLOP/s) and 0.17 at 144 px (5,303 of 25.7 GFLOP), so there a run of small
# images compiles that would train for 13 minutes or more, one of large images for 4.
EAGER_UTILISATION = 0.15
PAYS_AFTER = 300.0  # seconds of eager training: on an H200 at 32 px compiling took 39 s and saved two fifths of a step


def compile_choice(
    choice: str, compute: Compute, training_flops: float, peak: float | None, *, checkpointing: bool = False,
    kernels: str = "off",
) -> str:  # fmt: skip
    """``auto | on | off``, with auto turned into off where compiling does not pay.

    Args:
        choice: auto compiles only on CUDA and only runs that would train for more than PAYS_AFTER seconds without.
        training_flops: floating-point operations of the whole run.
        peak: the device's measured FLOP/s in matrix products; None where it was not measured (a CPU).
        checkpointing: activations are recomputed, in a way that torch.compile cannot follow.
        kernels: on: fused kernels do what torch.compile would make kernels for; they are not chosen with "on".

    Raises:
        UsageError: "on" with ``checkpointing``.
    """
    if kernels == "on":
        return "off"
    if checkpointing:
        if choice == "on":
            raise UsageError("--activation-checkpointing cannot be compiled; leave --compile on out")
        return "off"
    if choice != "auto":
        return choice
    if compute.device.type != "cuda" or not peak:
        return "off"
    return "auto" if eager_seconds(training_flops, peak) > PAYS_AFTER else "off"


def eager_seconds(training_flops: float, peak: float) -> float:
    """How long so many operations take in eager steps on a GPU of ``peak`` FLOP/s; a prediction."""
    return training_flops / (EAGER_UTILISATION * peak)


def build_name() -> str:
    """What compiled kernels are good for: this version of torch with the instructions that it uses on this CPU.

    Torch 2.13 takes a kernel from its cache whatever instructions it was compiled for, and ends with a segmentation
    fault: in a home that machines share, or with another ATEN_CPU_CAPABILITY.
    """
    import torch

    return f"{torch.__version__}-{torch.backends.cpu.get_cpu_capability()}".replace("+", "-")


def use_lasting_cache() -> Path:
    """Keep compiled kernels in the user's cache directory, not in /tmp, unless TORCHINDUCTOR_CACHE_DIR says where.

    Where neither can be written to, they are kept until exit.
    """
    use_writable_caches()
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    if chosen.startswith(os.path.join(tempfile.gettempdir(), "torchinductor_")):
        chosen = ""  # torch's own default, which importing its compiler leaves in the environment
    folder = Path(chosen or cache_home() / "hrfr-fast" / f"inductor-{build_name()}")
    private = None if writable(folder) else private_folder()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(private / "inductor" if private else folder)
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
