"""Choice of an engine: by what is asked for, what is installed and what fits into memory."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hrfr_fast.engines.base import Engine
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.system import free_memory, gib
from hrfr_fast.sampling.block_stream import BlockStream
from hrfr_fast.sampling.stream import BatchStream

if TYPE_CHECKING:
    from hrfr_fast.format.reader import Split
    from hrfr_fast.runtime.device import Compute
    from hrfr_fast.settings import TrainSettings

RESIDENT_SHARE = 0.6  # of the free device memory: the rest is for activations, gradients and the allocator's slack


@dataclass(frozen=True)
class Situation:
    """Facts that the choice of an engine depends on; sizes in bytes."""

    on_cuda: bool
    pixels: int
    """Decoded size of all training images."""
    device_free: int
    """Free memory of the GPU; 0 on a CPU."""
    shards: int
    """Size of the shards on disk."""
    host_free: int
    jpeg: bool
    """Whether any split holds JPEG images."""
    decoder: str
    """What decodes JPEG on the host, as a clause of a sentence."""
    dali: bool
    """Whether DALI is installed."""
    ffcv: bool


def pick_engine(asked: str, here: Situation) -> tuple[str, str]:
    """The engine to use for ``auto | resident | dali | ffcv``, and the reason to print; "" where there is none.

    Raises:
        UsageError: the pixels do not fit into the GPU's memory, and no engine that streams is installed.
    """
    slow = ""
    if here.shards > here.host_free:
        slow = f"; {gib(here.shards)} of shards exceed {gib(here.host_free)} of free memory: expect the disk to be read"
    if asked in ("dali", "ffcv"):
        return asked, slow.removeprefix("; ")
    if not here.on_cuda:
        decoder = f"; {here.decoder}" if here.jpeg else ""
        return "resident", (
            f"one kernel makes batches from the memory maps on all cores{decoder}{slow}" if asked == "auto" else ""
        )
    needed = f"{gib(here.pixels)} of pixels"
    if here.pixels <= RESIDENT_SHARE * here.device_free:
        decoded = ", decoded once" if here.jpeg else ""
        return "resident", (
            f"{needed} fit into {gib(here.device_free)} of free device memory{decoded}" if asked == "auto" else ""
        )
    reason = f"{needed} do not fit into {RESIDENT_SHARE:.0%} of {gib(here.device_free)} of free device memory"
    if here.dali:
        return "dali", f"{reason}; the images are streamed" + (" and decoded on the device" if here.jpeg else "") + slow
    if here.ffcv:
        return (
            "ffcv",
            f"{reason}, and DALI, which would be faster, is not installed (`pip install nvidia-dali-cuda120`){slow}",
        )
    raise UsageError(f"{reason}, and no engine that streams is installed: `pip install nvidia-dali-cuda120`")


def choose_engine(
    settings: "TrainSettings", stream: BatchStream, compute: "Compute", say: Callable[[str], None]
) -> Engine:
    """The engine asked for, or the fastest that works here; ``say`` prints which and why.

    Raises UsageError when the engine asked for cannot work here.
    """
    device, dtype, verify = compute.device, compute.image_dtype, settings.execution.verify_checksums
    asked = settings.execution.engine
    if isinstance(stream, BlockStream):
        if asked not in ("auto", "resident"):
            raise UsageError(f"--resident-shard is for pixels that stay in memory: with --engine {asked} leave it out")
        asked = "resident"
    name, reason = pick_engine(asked, situation(stream, compute))
    if name != "resident" and isinstance(stream, BlockStream):
        raise UsageError(f"{reason}; with --resident-shard use more ranks, or leave it out")
    if reason:
        say(f"engine: {name} ({reason})")
    if name == "dali":
        from hrfr_fast.engines.dali import Dali

        return Dali(stream, device, dtype, verify=verify)
    if name == "ffcv":
        from hrfr_fast.engines.ffcv import FFCV

        return FFCV(stream, device, dtype, verify=verify)
    if device.type == "cpu":
        from hrfr_fast.engines.resident import ResidentCPU

        return ResidentCPU(stream, dtype, verify=verify)
    from hrfr_fast.engines.resident_cuda import build_resident_cuda

    return build_resident_cuda(stream, device, dtype, verify=verify, say=say)


def resident_pixels(asked: str, splits: "Iterable[Split]", compute: "Compute", holders: int = 1) -> int:
    """Bytes of GPU memory that pixels will take: those of ``splits`` where the engine will be resident, else 0.

    ``holders``: ranks that each hold a part of them.
    """
    pixels = decoded_bytes(splits) // holders
    if compute.device.type != "cuda" or asked not in ("auto", "resident"):
        return 0
    return pixels if pixels <= RESIDENT_SHARE * compute.free_memory() else 0


def decoded_bytes(splits: "Iterable[Split]") -> int:
    """Bytes of all images of ``splits`` as raw pixels."""
    return sum(split.samples * split.size * split.size * 3 for split in splits)


def situation(stream: BatchStream, compute: "Compute") -> Situation:
    """The facts of this process, now."""
    from hrfr_fast.engines.dali import dali_is_installed
    from hrfr_fast.engines.turbojpeg import jpeg_decoder

    jpeg = any(split.encoding != "raw" for split in stream.splits)
    return Situation(
        on_cuda=compute.device.type == "cuda",
        pixels=decoded_bytes(stream.splits) // (stream.ranks if isinstance(stream, BlockStream) else 1),
        device_free=compute.free_memory(),
        shards=sum(part.path.stat().st_size for split in stream.splits for part in split.parts),
        host_free=free_memory(),
        jpeg=jpeg,
        decoder=jpeg_decoder() if jpeg else "",
        dali=dali_is_installed(),
        ffcv=find_spec("ffcv") is not None,
    )
