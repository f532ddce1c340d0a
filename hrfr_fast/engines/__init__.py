"""The engines, and the choice among them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hrfr_fast.engines.base import Engine, Feed
from hrfr_fast.errors import UsageError

if TYPE_CHECKING:
    from hrfr_fast.settings import TrainSettings
    from hrfr_fast.training.device import Compute


def choose_engine(settings: "TrainSettings", stream: Feed, compute: "Compute", say: Callable[[str], None]) -> Engine:
    """The engine asked for, or the fastest that works here; ``say`` is told which and why.

    Raises UsageError when the engine asked for cannot work here.
    """
    dtype, verify = compute.image_dtype, settings.verify_checksums
    if compute.device.type == "cpu":
        from hrfr_fast.engines.resident import ResidentCPU

        if settings.engine == "auto":
            say("engine: resident (on a CPU it reads the memory maps with one kernel over all cores)")
        return ResidentCPU(stream, dtype, verify=verify)
    import torch

    from hrfr_fast.engines.resident_cuda import ResidentCUDA, resident_bytes

    needed, free = resident_bytes(stream), torch.cuda.mem_get_info(compute.device)[0]
    if needed > 0.6 * free:
        raise UsageError(
            f"the resident engine needs {needed / 2**30:.1f} GiB on the device and {free / 2**30:.1f} GiB are free; "
            "train on a card with more memory"
        )
    if settings.engine == "auto":
        say(f"engine: resident ({needed / 2**30:.1f} GiB of faces fit into {free / 2**30:.1f} GiB of device memory)")
    return ResidentCUDA(stream, compute.device, dtype, verify=verify)
