"""Decoding of JPEG records in one compiled loop over a batch, through TurboJPEG's C functions.

numba calls a C function by its address, which is an argument: so the compiled loop can be kept between processes, where
the library lies elsewhere in memory.
"""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from hrfr_fast.engines.turbojpeg import TurboJPEG
from hrfr_fast.format.beton import JPEG
from hrfr_fast.runtime.caches import numba_keeps_kernels

CHUNK = 16  # records a decoder is made for: making one costs as much as a fifth of a face of 36 px

_KEPT = numba_keeps_kernels()
_POINTER, _INT = ir.IntType(64), ir.IntType(32)


def decode_records(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int64],
    modes: NDArray[np.uint8],
    library: TurboJPEG,
    out: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """Decode B records, raw ones among them, on all cores.

    Args:
        data: uint8 [bytes], where the records lie (a memory map will do).
        offsets: int64 [B], where each begins.
        lengths: int64 [B], bytes of each.
        modes: uint8 [B], ``beton.RAW`` or ``beton.JPEG``.
        library: what decodes.
        out: [B, size, size, 3], written in place, RGB.

    Returns:
        The positions of records that do not decode whole and without a warning to size x size pixels; what ``out``
        holds there is undefined.
    """
    data = data.view(np.ndarray)
    data.flags.writeable = False  # of this view: one loop is compiled for memory maps and for arrays
    failed = np.zeros(len(offsets), np.bool_)
    _decode(data, offsets, lengths, modes, *library[1:], out, failed)
    return np.flatnonzero(failed)


@intrinsic
def _start(typing_context, address):
    def call(context, builder, signature, arguments):
        function = ir.FunctionType(_POINTER, [])
        return builder.call(builder.inttoptr(arguments[0], function.as_pointer()), [])

    return types.intp(types.intp), call


@intrinsic
def _decompress(typing_context, address, decoder, jpeg, length, pixels, size):
    def call(context, builder, signature, arguments):
        address, decoder, jpeg, length, pixels, size = arguments
        function = ir.FunctionType(_INT, [_POINTER] * 4 + [_INT] * 5)
        side, zero = builder.trunc(size, _INT), ir.Constant(_INT, 0)  # pitch: rows without gaps; format: RGB; flags
        return builder.call(
            builder.inttoptr(address, function.as_pointer()),
            [decoder, jpeg, length, pixels, side, zero, side, zero, zero],
        )

    return types.int32(*[types.intp] * 6), call


@intrinsic
def _end(typing_context, address, decoder):
    def call(context, builder, signature, arguments):
        function = ir.FunctionType(_INT, [_POINTER])
        return builder.call(builder.inttoptr(arguments[0], function.as_pointer()), [arguments[1]])

    return types.int32(types.intp, types.intp), call


@numba.njit(cache=_KEPT, parallel=True, nogil=True)
def _decode(data, offsets, lengths, modes, start, decompress, end, out, failed):
    size = out.shape[1]
    for chunk in numba.prange((len(offsets) + CHUNK - 1) // CHUNK):
        decoder = _start(start)  # type: ignore[var-annotated]
        for b in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(offsets))):
            record = data[offsets[b] : offsets[b] + lengths[b]]
            picture = out[b].reshape(size * size * 3)
            if modes[b] != JPEG:
                picture[:] = record
            elif decoder == 0 or not _has_size(record, size):
                failed[b] = True
            else:
                pixels = picture.ctypes.data
                failed[b] = _decompress(decompress, decoder, record.ctypes.data, len(record), pixels, size) != 0
        if decoder != 0:
            _end(end, decoder)


@numba.njit(cache=_KEPT, nogil=True)
def _has_size(record, size):
    """Whether a JPEG's frame header says size x size. TurboJPEG would shrink a larger picture without a word."""
    at = 2
    while at + 8 < len(record) and record[at] == 0xFF:
        marker = record[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:
            height = (int(record[at + 5]) << 8) | int(record[at + 6])
            width = (int(record[at + 7]) << 8) | int(record[at + 8])
            return height == size and width == size
        else:
            at += 2 + ((int(record[at + 2]) << 8) | int(record[at + 3]))
    return False
