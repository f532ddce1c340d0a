"""libjpeg-turbo's C interface (TurboJPEG), found on this machine and tried before it is used.

The wheel of simplejpeg holds a libjpeg-turbo that nothing but simplejpeg can call. The same library is on most Linux
machines as ``libturbojpeg.so.0``, in conda environments, and wherever FFCV was built. A compiled loop calls it for a
third less CPU time a face of 36 px than Python calls simplejpeg, and without waiting for the interpreter's lock.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

NAMES = ("libturbojpeg.so.0", "libturbojpeg.0.dylib", "libturbojpeg.so")
INSTALL = "`apt install libturbojpeg0` (conda: libjpeg-turbo)"


class TurboJPEG(NamedTuple):
    """Addresses of three C functions of one library, which stays loaded while the process lives."""

    library: str
    """Name or path it was loaded by."""
    start: int
    """``tjhandle tjInitDecompress(void)``"""
    decompress: int
    """``int tjDecompress2(handle, jpeg, bytes, pixels, width, pitch, height, format, flags)``"""
    end: int
    """``int tjDestroy(handle)``"""


@cache
def turbojpeg() -> TurboJPEG | None:
    """The first library found that decodes to simplejpeg's pixels and refuses damage; None where none does."""
    for name in _candidates():
        with suppress(OSError, AttributeError):  # no such library, or it lacks a function
            library = ctypes.CDLL(name)
            functions = (library.tjInitDecompress, library.tjDecompress2, library.tjDestroy)
            addresses = (int(ctypes.cast(function, ctypes.c_void_p).value or 0) for function in functions)
            if _is_exact(library):
                return TurboJPEG(name, *addresses)
    return None


def jpeg_decoder() -> str:
    """What decodes JPEG here, and how to have it faster, for the line that names the engine."""
    found = turbojpeg()
    if found is not None:
        return f"{Path(found.library).name} decodes JPEG in compiled code"
    return f"simplejpeg decodes JPEG; {INSTALL} makes that faster"


def _candidates() -> Iterator[str]:
    yield from NAMES
    for name in NAMES:  # conda's, which the loader does not search
        if (path := Path(sys.prefix) / "lib" / name).is_file():
            yield str(path)
    # FFCV's module is linked with the library, whose functions are then found through it; nothing of FFCV is imported.
    ffcv = find_spec("ffcv")
    for folder in (ffcv.submodule_search_locations or []) if ffcv else []:
        yield from map(str, sorted(Path(folder).glob("_libffcv*.so")))


def _is_exact(library: ctypes.CDLL) -> bool:
    """Whether it decodes a noisy picture to simplejpeg's pixels (exact DCT, smooth chroma), and refuses half of one."""
    import simplejpeg

    handle, integer = ctypes.c_void_p, ctypes.c_int
    library.tjInitDecompress.restype = handle
    library.tjDestroy.argtypes = [handle]
    library.tjDecompress2.argtypes = [handle, ctypes.c_char_p, ctypes.c_ulong, handle, *[integer] * 5]
    picture = np.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=np.uint8)
    found, decoder = np.empty_like(picture), library.tjInitDecompress()
    if not decoder:
        return False
    try:
        for subsampling in ("420", "444"):
            jpeg = simplejpeg.encode_jpeg(picture, 90, "RGB", subsampling)
            for data, whole in ((jpeg, True), (jpeg[: len(jpeg) // 2], False)):
                code = library.tjDecompress2(decoder, data, len(data), found.ctypes.data, 36, 0, 36, 0, 0)
                if (code == 0) is not whole:
                    return False
                if whole and not np.array_equal(found, simplejpeg.decode_jpeg(jpeg, "RGB")):
                    return False
        return True
    finally:
        library.tjDestroy(decoder)
