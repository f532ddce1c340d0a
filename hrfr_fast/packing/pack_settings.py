"""The settings of a pack that decide what is written."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hrfr_fast.format import beton
from hrfr_fast.packing.sources.bcolz_pairs import CHANNELS
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

    def __post_init__(self) -> None:
        if self.encoding not in ("auto", "raw", "jpeg"):
            raise UsageError(f"--encoding {self.encoding}: choose auto, raw or jpeg")
        if self.dev_identities < 0:
            raise UsageError(f"--dev-identities {self.dev_identities}: it takes 0 or more")
        if any(not 1 <= size <= 4096 for size in self.sizes.values()):
            raise UsageError("picture sizes must be within 1..4096 pixels")
        for order in self.carray_channels.values():
            if order not in CHANNELS:
                raise UsageError(f"--carray-channels {order}: choose {' or '.join(CHANNELS)}, or NAME=rgb for one set")
