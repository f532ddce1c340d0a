"""Pairs in a bcolz carray, the layout of public validation sets (InsightFace_Pytorch, face.evoLVe, cavaface)."""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.names import without_prefix
from hrfr_fast.packing.chunks import Chunk, Reader, decode_chunk
from hrfr_fast.packing.decode import Target
from hrfr_fast.packing.picture_files import Rejected, all_readable
from hrfr_fast.packing.sources.candidates import PairCandidates, digest_of_text
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.optional import require_bcolz
from hrfr_fast.runtime.untrusted import parsed_json, read_array

CHANNELS = ("bgr", "rgb")
# pixel = value * factor + offset, for values (pixel - 127.5) / 127.5 and (pixel - 127.5) / 128
SCALES = ((127.5, 127.5), (128.0, 127.5))
LARGEST_ROUNDING = 0.1  # of a pixel value: twice what float16 loses, far less than a wrong factor gives
MOST_META = 1 << 16  # bytes of a file of meta/
BLOCK_HEADER = 32  # bytes: 16 of bloscpack, then blosc's, whose second number is that of the bytes when unpacked
SAMPLE = 32  # pictures by which the scale of the values is found


class BcolzPairs(PairCandidates):
    """A bcolz carray directory [2P, 3, S, S] and ``<name>_list.npy`` [P].

    Values are uint8, or floats (pixel - 127.5) / 127.5 or (pixel - 127.5) / 128. ``channels``: their order, "bgr" as
    public sets have it, or "rgb".
    """

    in_files = in_workers = False

    def __init__(self, name: str, directory: Path, channels: str = "bgr") -> None:
        self.directory, self.channels = directory, channels
        labels = directory.with_name(directory.name + "_list.npy")
        files = sorted([*directory.rglob("*"), labels])
        for file in files:
            if file.is_fifo():  # opening it would wait for somebody who writes there
                raise UsageError(f"{file}: a named pipe, not a file of a bcolz array; remove it")
        self.same = _read_same(labels)
        shape, dtype, block = _read_meta(directory)
        _refuse_shape(directory, shape)
        if shape[0] != 2 * len(self.same):
            raise UsageError(f"{directory}: {shape[0]} pictures and {len(self.same)} labels; two pictures make a pair")
        _refuse_other_blocks(directory, shape[0], math.prod(shape[1:]) * dtype.base.itemsize, block)
        states = {file.relative_to(directory.parent).as_posix(): file.stat() for file in files if file.is_file()}
        self._lines = [f"{name}\t{state.st_size}\t{state.st_mtime_ns}" for name, state in states.items()]
        content = "\n".join(f"{name}\t{state.st_size}" for name, state in states.items())
        digests = digest_of_text("\n".join(self._lines)), digest_of_text(content)
        super().__init__(name, directory, shape[2], shape[0], *digests)
        self.dtype, self._array = dtype, None

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
    def conversion(self) -> dict[str, Any]:
        as_bytes = self.dtype.base == np.uint8
        levels = "as they are" if as_bytes else "rint(value * {:g} + {:g})".format(*self.scale)
        return {"levels": levels} | self.options

    def open(self) -> Any:
        """The carray, read-only. Raises UsageError where bcolz cannot read it."""
        if self._array is None:
            bcolz = require_bcolz(f"{self.directory}: reading it")
            try:
                self._array = bcolz.carray(rootdir=str(self.directory), mode="r")
            except Exception as error:  # bcolz raises many kinds over a damaged directory
                raise UsageError(f"{self.directory}: not a readable bcolz array: {error}") from error
        return self._array

    def check(self) -> None:
        if self.dtype.base != np.uint8:
            _ = self.scale

    @cached_property
    def scale(self) -> tuple[float, float]:
        """(factor, offset) of float values: the convention under which most sampled pictures become whole pixel values.

        Raises UsageError where no convention fits any of them.
        """
        sample = list(self._sample())
        fitting = [sum(not _misfit(picture, *scale) for picture in sample) for scale in SCALES]
        if sample and not any(fitting):
            low, high = min(picture.min() for picture in sample), max(picture.max() for picture in sample)
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
                with np.errstate(invalid="ignore"):  # signalling NaNs of damaged numbers
                    picture = np.asarray(array[i], np.float64)
            except Exception:  # A damaged block: packing rejects its pictures with the reason.
                continue
            if np.isfinite(picture).all():
                yield picture

    def readers(self, first: int, last: int) -> Sequence[Reader]:
        return [partial(self._pixels, picture) for picture in self.open()[first:last]]

    def chunk(self, first: int, last: int, target: Target) -> Chunk:
        array = self.open()
        try:
            block = np.asarray(array[first:last])
        except Exception as error:  # a damaged or missing block: these pictures are lost, the others are not
            if isinstance(error, OSError) or not all_readable(self.directory):  # bcolz hides some of the former
                raise HrfrError(f"{self.directory}: cannot be read: {error}; mend or remove the array") from error
            reason = f"bcolz cannot read it: {error}"
            return Chunk(rejected=[(i, reason) for i in range(last - first)])
        return decode_chunk((partial(self._pixels, picture) for picture in block), target, True)

    def refuse_other_order(self, found: int, exchanged: int) -> None:
        if exchanged > found:
            other = next(order for order in CHANNELS if order != self.channels)
            raise UsageError(
                f"{self.directory}: read as {other.upper()}, {exchanged:,} of its {self.count:,} pictures are pictures"
                f" of the splits, read as {self.channels.upper()} {found:,}: give --carray-channels"
                f" {without_prefix(self.name)}={other}"
            )

    def _pixels(self, picture: NDArray[Any]) -> NDArray[np.uint8]:
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
    """Why the values of ``picture`` are no pixel values under that scale; "" where they are."""
    exact = picture.astype(np.float64) * factor + offset
    pixels = np.rint(exact)
    if pixels.min() < 0 or pixels.max() > 255:
        return f"values {picture.min():.3f}..{picture.max():.3f} are outside [-1, 1]"
    furthest = float(np.abs(exact - pixels).max())
    if furthest > LARGEST_ROUNDING:
        return f"value * {factor:g} + {offset:g} is up to {furthest:.2f} away from a whole level"
    return ""


def _read_same(path: Path) -> NDArray[np.bool_]:
    """The P labels of a bcolz pair set. Never unpickles."""
    try:
        same = read_array(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: the labels of the pairs cannot be read: {error}") from error
    if same.ndim != 1 or not len(same) or same.dtype.kind not in "biu" or not np.isin(same, (0, 1)).all():
        raise UsageError(f"{path}: expected one boolean (or 0/1) a pair, found {same.dtype} {same.shape}")
    return np.asarray(same, bool)


def _read_meta(directory: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, dtype and pictures a block as bcolz's own JSON files give them, checked before bcolz sees the directory:
    it divides by the last of them."""
    try:
        shape = tuple(int(n) for n in _meta(directory, "sizes")["shape"])
        storage = _meta(directory, "storage")
        dtype, block = np.dtype(str(storage["dtype"])), storage["chunklen"]
        if type(block) is not int or block < 1:
            raise ValueError(f"its chunklen is {str(block)[:40]}")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, SyntaxError) as error:
        raise UsageError(f"{directory}: not a bcolz array directory: {error}") from error
    if dtype.base.kind == "f" and dtype.base.itemsize in (2, 4, 8):
        return shape, dtype, block
    if dtype.base == np.uint8:
        return shape, dtype, block
    raise UsageError(f"{directory}: expected float16, float32, float64 or uint8 pictures, found {dtype}")


def _meta(directory: Path, name: str) -> Any:
    with open(directory / "meta" / name, "rb") as file:
        content = file.read(MOST_META + 1)
    if len(content) > MOST_META:
        raise ValueError(f"meta/{name} has more than {MOST_META:,} bytes")
    return parsed_json(content)


def _refuse_other_blocks(directory: Path, pictures: int, size: int, block: int) -> None:
    """Raise UsageError where most files of blocks hold another number of pictures than ``block``, which meta/storage
    says: bcolz would give pictures from other places, or black ones, without a word.

    Args:
        pictures: in the array.
        size: of a picture in bytes.
    """
    found = {
        int(file.stem[2:]): held
        for file in (directory / "data").glob("__*.blp")
        if file.stem[2:].isdecimal() and (held := _unpacked_bytes(file)) is not None
    }
    wrong = [number for number, held in found.items() if held != min(block, pictures - number * block) * size]
    if 2 * len(wrong) > len(found):
        raise UsageError(
            f"{directory}: {len(wrong):,} of its {len(found):,} blocks do not hold {block:,} pictures each, as"
            f" meta/storage says (block {wrong[0]}: {found[wrong[0]] / size:g}); copy the array again"
        )


def _unpacked_bytes(file: Path) -> int | None:
    """Bytes that the block in ``file`` has when it is unpacked, by its header; None where it has no header."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(BLOCK_HEADER)
    except OSError:
        return None  # packing rejects its pictures with the reason
    return int.from_bytes(head[20:24], "little") if len(head) == BLOCK_HEADER else None


def _refuse_shape(directory: Path, shape: tuple[int, ...]) -> None:
    if len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3] and 1 <= shape[2] <= 4096:
        return
    last = len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2]
    hint = "; channels come before rows and columns: transpose(0, 3, 1, 2)" if last else ""
    raise UsageError(f"{directory}: expected an array of 2P x 3 x S x S pictures, found {shape}{hint}")
