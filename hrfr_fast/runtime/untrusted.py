"""JSON, lists and NumPy files that anybody may have written: one kind of error, and no more memory than a file has."""

import io
import json
import math
import os
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST_LINE = 1 << 16


def parsed_json(content: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError where it is none, also where it is nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def lines_of(file: TextIO) -> Iterator[str]:
    """The lines of a text, with their ends. Raises ValueError for one of :data:`LONGEST_LINE` characters, which no list
    has: a file without ends of lines would be read into memory whole."""
    for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), 1):
        if len(line) == LONGEST_LINE:
            raise ValueError(f"line {number:,} has {LONGEST_LINE:,} characters or more")
        yield line


def read_array_header(file: IO[bytes]) -> "tuple[tuple[int, ...], bool, np.dtype[Any]]":
    """Shape, order (whether columns come first) and type of a ``.npy`` file at its beginning.

    Raises ValueError, also for numbers of no bytes, of which a header can promise any count.
    """
    import numpy as np

    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of NumPy's format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, kind = read(file)
    except Exception as error:  # NumPy parses it as Python's source, with all errors that such a parser has
        raise ValueError(f"its header is damaged: {error}") from None
    if kind.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    if not kind.itemsize or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"its header promises {kind.itemsize} bytes a number, and the shape {list(shape)}")
    return shape, fortran, kind


def read_array(path: str | os.PathLike[str]) -> "NDArray[Any]":
    """The array in a ``.npy`` file, never unpickled; its header is compared with the file's size first.

    NumPy itself allocates whatever shape a header claims.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, holds Python objects, or is not as long as its header says.
    """
    return array_of(Path(path).read_bytes())


def array_of(content: bytes) -> "NDArray[Any]":
    """The array in the ``content`` of a ``.npy`` file, see :func:`read_array`. Raises ValueError."""
    import numpy as np

    file = io.BytesIO(content)
    shape, fortran, kind = read_array_header(file)
    there = len(content) - file.tell()
    if math.prod(shape) * kind.itemsize != there:
        raise ValueError(f"its header promises {kind} {list(shape)}, and {there:,} bytes follow")
    values = np.frombuffer(content, kind, offset=file.tell()) if there else np.empty(math.prod(shape), kind)
    return values.reshape(shape, order="F" if fortran else "C")


def opened_zip(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    """The zip file at ``path``. Raises OSError, BadZipFile, and ValueError where it is of a later version."""
    try:
        return zipfile.ZipFile(path)
    except NotImplementedError as error:
        raise ValueError(str(error)) from None


def stored_array(archive: zipfile.ZipFile, name: str, most: int) -> "NDArray[Any]":
    """The array of the member ``name`` of a ``.npz`` file that is not compressed, of ``most`` bytes at most.

    Raises:
        ValueError: it is compressed, encrypted, larger, or not as long as its header says.
        KeyError, BadZipFile: it is not there, or damaged.
    """
    import numpy as np

    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
        raise ValueError(f"{name} is compressed or larger than the file")
    try:
        with archive.open(info) as member:
            shape, fortran, kind = read_array_header(member)
            content = member.read()
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or made by a later version
        raise ValueError(f"{name}: {error}") from None
    if fortran or math.prod(shape) * kind.itemsize != len(content):
        raise ValueError(f"{name}: {kind} {list(shape)} in {len(content)} bytes")
    flat = np.frombuffer(content, kind) if content else np.empty(math.prod(shape), kind)
    return flat.reshape(shape)
