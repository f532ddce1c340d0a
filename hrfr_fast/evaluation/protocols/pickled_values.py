"""What the reader of restricted pickles makes of the few functions that pickled bytes and NumPy arrays call.

None of them runs as such: their arguments are checked, and bytes or the description of an array are made of them. The
calls are those of Python 2 and 3 and of NumPy 1 and 2.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.names import one_line

LONGEST_NAME = 80  # characters of a name in a message


class Refused(ValueError):
    """Why this pickle is not read."""


@dataclass
class PickledArray:
    """A NumPy array of booleans or whole numbers, as far as the pickle has described it."""

    shape: tuple[int, ...] = (0,)
    kind: str = "u1"
    """As NumPy writes it: byte order (or none), b, i or u, and bytes an item."""
    order: str = "C"
    data: bytes = b""

    def numpy(self) -> NDArray[Any]:
        """The array, read-only, over the bytes of the pickle."""
        flat = np.frombuffer(self.data, self.kind) if self.data else np.empty(0, self.kind)
        return flat.reshape(self.shape, order="F" if self.order == "F" else "C")


@dataclass
class Kind:
    """A NumPy dtype while it is being described."""

    code: str
    byte_order: str = "|"

    @property
    def text(self) -> str:
        return self.byte_order.replace("|", "") + self.code


@dataclass(frozen=True)
class Global:
    """A function or class that the pickle names, one of ``FUNCTIONS`` or ``CLASSES``."""

    name: str


Account = Callable[[bytes], bytes]
"""Returns the bytes it is given. Raises Refused once more bytes were made than the file holds: a text that a memo
gives again and again would fill the memory."""


def text_of(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise Refused("a name in it is no text")
    return value


def one_of(value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise Refused(f"{one_line(value[:LONGEST_NAME])!r} where one of {allowed} is expected")
    return value


def array_of(data: bytes, kind: Kind, shape: tuple[Any, ...], order: str) -> PickledArray:
    if len(shape) > 4 or not all(type(length) is int and 0 <= length <= len(data) for length in shape):
        raise Refused("an array has a shape that its bytes do not fill")
    if math.prod(shape) * np.dtype(kind.text).itemsize != len(data):
        raise Refused(f"an array of shape {shape} has {len(data):,} bytes")
    return PickledArray(shape, kind.text, order, data)


def _encode(account: Account, arguments: tuple[Any, ...]) -> bytes:
    """``codecs.encode(text, "latin1")``: how Python 3 writes bytes for Python 2."""
    match arguments:
        case (str() as text, str() | bytes() as encoding):
            one_of(text_of(encoding), ("latin1", "latin-1"))
            try:
                return account(text.encode("latin-1"))
            except UnicodeEncodeError:
                raise Refused("a text that stands for bytes holds other characters") from None
    raise Refused("it encodes something that is no text")


def _bytes(account: Account, arguments: tuple[Any, ...]) -> bytes:
    match arguments:
        case ():
            return b""
        case (bytes() as value,):
            return value
        case (str(), _):
            return _encode(account, arguments)
    raise Refused("it makes bytes of something that is neither bytes nor text")


def _dtype(_account: Account, arguments: tuple[Any, ...]) -> Kind:
    code = text_of(arguments[0]) if arguments else ""
    if not re.fullmatch(r"b1|[iu][1248]", code):
        raise Refused(
            f"a NumPy array of type {one_line(code[:LONGEST_NAME])!r}; only booleans and whole numbers are read"
        )
    return Kind(code)


def _reconstruct(_account: Account, arguments: tuple[Any, ...]) -> PickledArray:
    match arguments:
        case (Global("numpy.ndarray"), tuple(), _):
            return PickledArray()
    raise Refused("it reconstructs something that is no NumPy array")


def _scalar(_account: Account, arguments: tuple[Any, ...]) -> bool | int:
    match arguments:
        case (Kind() as kind, bytes() as data):
            value = array_of(data, kind, (1,), "C").numpy()[0]
            return bool(value) if kind.code == "b1" else int(value)
    raise Refused("a NumPy number without its type or bytes")


def _from_buffer(_account: Account, arguments: tuple[Any, ...]) -> PickledArray:
    match arguments:
        case (bytes() as data, Kind() as kind, tuple() as shape, str() | bytes() as order):
            return array_of(data, kind, shape, one_of(text_of(order), ("C", "F")))
    raise Refused("an array without its type, shape or bytes")


FUNCTIONS: dict[str, Callable[[Account, tuple[Any, ...]], Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes, "__builtin__.bytes": _bytes,
    "builtins.bytearray": _bytes, "__builtin__.bytearray": _bytes,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray.{name}": function for core in ("core", "_core")
       for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}  # fmt: skip
CLASSES = {"numpy.ndarray"}
