"""bcolz carrays of pairs, as the field's validation sets have them (InsightFace_Pytorch, face.evoLVe, cavaface).

The library is imported where an array is read or written, not before.
"""

import json
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.decode import Chunk, Rejected, Target, all_readable, collect
from hrfr_fast.packing.sources import Candidates, digest_of_text
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.optional import require_bcolz

CHANNELS = ("bgr", "rgb")
SCALES = ((127.5, 127.5), (128.0, 127.5))  # level = value * factor + offset: (level - 127.5) / 127.5, and / 128
LARGEST_ROUNDING = 0.1  # of a level: twice what float16 loses, far less than a wrong factor does
SAMPLE = 32  # pictures looked at to find out how the values are scaled


class BcolzPairs(Candidates):
    """A bcolz carray directory [2P, 3, S, S] and ``<name>_list.npy`` [P].

    Values are uint8, or floats that hold (level - 127.5) / 127.5 or / 128. ``channels``: their order, "bgr" as the
    field writes them, or "rgb".
    """

    paired = True
    kind = "test"
    identities = None

    def __init__(self, name: str, directory: Path, channels: str = "bgr") -> None:
        self.directory, self.channels = directory, channels
        labels = directory.with_name(directory.name + "_list.npy")
        self.same = _read_same(labels)
        shape, dtype = _read_meta(directory)
        _refuse_shape(directory, shape)
        if shape[0] != 2 * len(self.same):
            raise UsageError(f"{directory}: {shape[0]} pictures and {len(self.same)} labels; two pictures make a pair")
        files = sorted([*directory.rglob("*"), labels])
        stats = [(f, f.stat()) for f in files if f.is_file()]
        names = [(f.relative_to(directory.parent).as_posix(), s) for f, s in stats]
        self._lines = [f"{name}\t{s.st_size}\t{s.st_mtime_ns}" for name, s in names]
        content = "\n".join(f"{name}\t{s.st_size}" for name, s in names)
        digests = digest_of_text("\n".join(self._lines)), digest_of_text(content)
        super().__init__(name, directory, shape[2], shape[0], *digests)
        self.dtype, self._array = dtype, None
        self.malformed: list[dict[str, Any]] = []

    def listing_lines(self) -> Iterator[str]:
        return iter(self._lines)

    def paths(self, first: int, last: int) -> list[str]:
        return [f"[{i}]" for i in range(first, last)]

    @property
    def options(self) -> dict[str, Any]:
        return {"channels": self.channels}

    @property
    def folder(self) -> str:
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def levels(self) -> str:
        """How a value becomes a level, for the manifest."""
        if self.dtype.base == np.uint8:
            return "as they are"
        return "rint(value * {:g} + {:g})".format(*self.scale)

    def open(self) -> Any:
        """The carray, read-only. Raises UsageError where bcolz cannot read it."""
        if self._array is None:
            bcolz = require_bcolz(f"{self.directory}: reading it")
            try:
                self._array = bcolz.carray(rootdir=str(self.directory), mode="r")
            except Exception as error:  # bcolz raises many kinds over a damaged directory
                raise UsageError(f"{self.directory}: not a readable bcolz array: {error}") from error
        return self._array

    def refuse_unknown_values(self) -> None:
        """Raises UsageError where float values follow no known convention, see ``scale``."""
        if self.dtype.base != np.uint8:
            _ = self.scale

    @cached_property
    def scale(self) -> tuple[float, float]:
        """(factor, offset) of float values: the convention under which most sampled pictures become whole levels.

        Raises:
            UsageError: none of the conventions makes whole levels of any of them.
        """
        sample = list(self._sample())
        fitting = [sum(not _misfit(picture, *scale) for picture in sample) for scale in SCALES]
        if sample and not any(fitting):
            low, high = min(p.min() for p in sample), max(p.max() for p in sample)
            raise UsageError(
                f"{self.directory}: values {low:.4g}..{high:.4g} do not become whole levels 0..255 as"
                " (level - 127.5) / 127.5 or (level - 127.5) / 128; write them so, or as uint8"
            )
        return SCALES[fitting.index(max(fitting))]

    def _sample(self) -> Iterator[NDArray[np.float64]]:
        """Pictures spread over the array, without those that cannot be read or hold no finite values."""
        array = self.open()
        for i in np.unique(np.linspace(0, self.count - 1, min(self.count, SAMPLE)).astype(int)).tolist():
            try:
                picture = np.asarray(array[i], np.float64)
            except Exception:  # a damaged block: packing refuses its pictures with the reason
                continue
            if np.isfinite(picture).all():
                yield picture

    def chunk(self, first: int, last: int, target: Target) -> Chunk:
        """Decode the pictures first..last-1."""
        array = self.open()
        try:
            block = np.asarray(array[first:last])
        except Exception as error:  # a damaged or missing block: these pictures are lost, the others are not
            if isinstance(error, OSError) or not all_readable(self.directory):  # bcolz hides some of the former
                raise HrfrError(f"{self.directory}: cannot be read: {error}; mend or remove the array") from error
            reason = f"bcolz cannot read it: {error}"
            return Chunk(refused=[(i, reason) for i in range(last - first)])
        return collect((partial(self._levels, picture) for picture in block), target, True)

    def _levels(self, picture: NDArray[Any]) -> NDArray[np.uint8]:
        if picture.dtype != np.uint8:
            if not np.isfinite(picture).all():
                raise Rejected("it holds NaN or infinite values")
            if misfit := _misfit(picture, *self.scale):
                raise Rejected(misfit)
            factor, offset = self.scale
            picture = np.rint(picture.astype(np.float64) * factor + offset).astype(np.uint8)
        pixels = picture if self.channels == "rgb" else picture[::-1]
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _misfit(picture: NDArray[Any], factor: float, offset: float) -> str:
    """Why the values of ``picture`` are no levels under that scale; "" where they are."""
    exact = picture.astype(np.float64) * factor + offset
    levels = np.rint(exact)
    if levels.min() < 0 or levels.max() > 255:
        return f"values {picture.min():.3f}..{picture.max():.3f} are outside [-1, 1]"
    furthest = float(np.abs(exact - levels).max())
    if furthest > LARGEST_ROUNDING:
        return f"value * {factor:g} + {offset:g} is up to {furthest:.2f} away from a whole level"
    return ""


def _read_same(path: Path) -> NDArray[np.bool_]:
    """The P labels of a bcolz pair set. Never unpickles."""
    try:
        same = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: the labels of the pairs cannot be read: {error}") from error
    if same.ndim != 1 or not len(same) or same.dtype.kind not in "biu" or not np.isin(same, (0, 1)).all():
        raise UsageError(f"{path}: expected one boolean (or 0/1) a pair, found {same.dtype} {same.shape}")
    return np.asarray(same, bool)


def _read_meta(directory: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype as bcolz's own JSON files give them, checked before bcolz sees the directory."""
    try:
        shape = tuple(int(n) for n in json.loads((directory / "meta" / "sizes").read_bytes())["shape"])
        storage = json.loads((directory / "meta" / "storage").read_bytes())
        dtype = np.dtype(str(storage["dtype"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{directory}: not a bcolz array directory: {error}") from error
    if dtype.base.kind == "f" and dtype.base.itemsize in (2, 4, 8):
        return shape, dtype
    if dtype.base == np.uint8:
        return shape, dtype
    raise UsageError(f"{directory}: expected float16, float32, float64 or uint8 pictures, found {dtype}")


def _refuse_shape(directory: Path, shape: tuple[int, ...]) -> None:
    if len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3] and 1 <= shape[2] <= 4096:
        return
    last = len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2]
    hint = "; channels come before rows and columns: transpose(0, 3, 1, 2)" if last else ""
    raise UsageError(f"{directory}: expected an array of 2P x 3 x S x S pictures, found {shape}{hint}")
