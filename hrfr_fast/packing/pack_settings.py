"""The settings of a pack that decide what is written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hrfr_fast.format import beton
from hrfr_fast.format.divided_writer import refuse_too_many_files
from hrfr_fast.packing.sources.bcolz_pairs import CHANNELS
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.runtime.errors import UsageError


@dataclass(frozen=True)
class PackSettings:
    """Settings that decide what is written; all of them are in the manifest. Raises UsageError for a wrong one."""

    encoding: str = "auto"
    dev_identities: int = 0
    resize: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    page_size: int = beton.PAGE_SIZE
    carray_channels: Mapping[str, str] = field(default_factory=lambda: {"": "bgr"})
    """Order of the channels of bcolz carrays, "bgr" or "rgb", by pair set; "" stands for all others."""
    shard_samples: int = 0
    """Most candidates of a split that are packed into one file; 0: one file a split, whatever it holds."""

    def __post_init__(self) -> None:
        if self.encoding not in ("auto", "raw", "jpeg"):
            raise UsageError(f"--encoding {self.encoding}: choose auto, raw or jpeg")
        if self.dev_identities < 0:
            raise UsageError(f"--dev-identities {self.dev_identities}: it takes 0 or more")
        if any(not 1 <= size <= 4096 for size in self.sizes.values()):
            raise UsageError("picture sizes must be within 1..4096 pixels")
        if self.shard_samples < 0:
            raise UsageError(f"--shard-samples {self.shard_samples}: it takes 0 or more")
        for order in self.carray_channels.values():
            if order not in CHANNELS:
                raise UsageError(f"--carray-channels {order}: choose {' or '.join(CHANNELS)}, or NAME=rgb for one set")

    def recorded(self) -> dict[str, Any]:
        """The settings for the manifest, which of a pack without divided splits is that of earlier versions."""
        settings = asdict(self)
        if not self.shard_samples:
            del settings["shard_samples"]
        return settings

    def divides(self, candidates: Candidates) -> bool:
        """Whether ``candidates`` are packed into several files. Pair sets never are.

        Raises UsageError where they would be too many.
        """
        if candidates.paired or not 0 < self.shard_samples < candidates.count:
            return False
        refuse_too_many_files(candidates.name, candidates.count, self.shard_samples)
        return True
