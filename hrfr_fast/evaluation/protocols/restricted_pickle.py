"""A reader of pickles that nobody vouches for: plain values and NumPy arrays of whole numbers, and nothing else.

Python's own unpickler calls whatever a pickle names, and allocates whatever sizes it claims. This one executes the
few opcodes that lists of bytes, texts, booleans, whole numbers and their NumPy arrays need (the protocols 0 to 5 as
documented in Python's ``pickletools``), knows the handful of functions that such pickles call, and carries those out
itself. Every length is compared with what the file still holds before it is used.
"""

import codecs
import mmap
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hrfr_fast.evaluation.protocols.pickled_values import (
    CLASSES,
    FUNCTIONS,
    LONGEST_NAME,
    Global,
    Kind,
    PickledArray,
    Refused,
    array_of,
    one_of,
    text_of,
)
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import one_line

OPERATIONS = 1_000_000
"""A file may have so many opcodes, and one more for every 64 bytes: each may allocate some 100 bytes."""
LONGEST_NUMBER = 32  # characters or bytes of a whole number


_MARK = object()


def load(path: Path) -> Any:
    """The value that the pickle ``path`` describes: bytes, str, bool, int, None, lists and tuples of them, and
    ``PickledArray``; a bytearray is read as bytes.

    Raises:
        UsageError: it asks for anything else, is damaged, or is too short for what it claims.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if not size:
            raise UsageError(f"{path}: the file is empty; a pickle was expected")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            machine = _Machine(mapped, size)
            try:
                return machine.run()
            except Refused as reason:
                raise UsageError(
                    f"{path}: refused at byte {machine.at}: {reason}; nothing in it was executed"
                ) from None


class _Machine:
    """The stack, the memo and the position in one pickle."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data, self.size, self.at = data, size, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.made = 0  # bytes made by functions from what was read: no more than the file holds, or a memo multiplies

    def run(self) -> Any:
        for _ in range(OPERATIONS + self.size // 64):
            opcode = self.take(1)
            if opcode == b".":
                return self.pop()
            if opcode not in _ACTIONS:
                raise Refused(
                    f"opcode {opcode!r} ({_REFUSED.get(opcode, 'unknown')}) is not needed for pictures and labels"
                )
            _ACTIONS[opcode](self)
        raise Refused("it has more opcodes than pictures and labels need")

    def take(self, count: int) -> bytes:
        if count < 0 or count > self.size - self.at:
            raise Refused(f"it claims {count:,} bytes where {self.size - self.at:,} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise Refused("it ends within a line")
        text = self.take(end - self.at)
        self.at += 1
        return text

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Refused("it takes a value from an empty stack")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        for depth in range(len(self.stack) - 1, -1, -1):
            if self.stack[depth] is _MARK:
                values = self.stack[depth + 1 :]
                del self.stack[depth:]
                return values
        raise Refused("it closes what it has not opened")

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise Refused("it adds to something that is no list")
        return self.stack[-1]

    def account(self, value: bytes) -> bytes:
        self.made += len(value)
        if self.made > self.size:
            raise Refused("it makes more bytes than the file holds")
        return value

    def push_tuple(self, count: int) -> None:
        self.stack.append(tuple([self.pop() for _ in range(count)][::-1]))

    def remember(self, key: int) -> None:
        value = self.pop()
        self.memo[key] = value
        self.stack.append(value)

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise Refused(f"it recalls entry {key} of its memo, which it has not stored")
        self.stack.append(self.memo[key])

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def append(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def global_named(self, module: Any, name: Any) -> None:
        full = f"{text_of(module)}.{text_of(name)}"
        if full not in FUNCTIONS and full not in CLASSES:
            raise Refused(f"it asks for {one_line(full[:LONGEST_NAME])}, which no list of pictures needs")
        self.stack.append(Global(full))

    def stack_global(self) -> None:
        name = self.pop()
        self.global_named(self.pop(), name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or function.name not in FUNCTIONS or not isinstance(arguments, tuple):
            raise Refused("it calls something that is no function")
        self.stack.append(FUNCTIONS[function.name](self.account, arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        if isinstance(target, Kind):
            match state:
                case (int(), str() | bytes() as byte_order, None, None, None, int(), int(), int()):
                    target.byte_order = one_of(text_of(byte_order), ("|", "<", ">", "="))
                    return
        elif isinstance(target, PickledArray):
            match state:
                case (int(), tuple() as shape, Kind() as kind, bool() | int() as fortran, bytes() as data):
                    described = array_of(data, kind, shape, "F" if fortran else "C")
                    target.shape, target.kind = described.shape, described.kind
                    target.order, target.data = described.order, described.data
                    return
        raise Refused("it sets the state of something that is no array of whole numbers")


def _decimal(line: bytes) -> int:
    if not re.fullmatch(rb"[+-]?[0-9]{1,%d}L?" % LONGEST_NUMBER, line):
        raise Refused("a number that is no whole number")
    return int(line.rstrip(b"L"))


def _int_or_bool(line: bytes) -> int | bool:
    return line == b"01" if line in (b"00", b"01") else _decimal(line)


def _little_endian(data: bytes) -> int:
    if len(data) > LONGEST_NUMBER:
        raise Refused(f"a number of {len(data):,} bytes")
    return int.from_bytes(data, "little", signed=True)


def _quoted(line: bytes) -> bytes:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise Refused("a text without its quotes")
    try:
        return codecs.escape_decode(line[1:-1])[0]
    except ValueError:
        raise Refused("a text with a broken escape") from None


def _unicode(data: bytes, encoding: str = "utf-8") -> str:
    try:
        return data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        raise Refused("a text that is not Unicode") from None


def _push(make: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(make(machine))


_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1), b"\x95": lambda m: m.take(8),  # protocol and frame: nothing to do
    b"(": _push(lambda m: _MARK), b"0": _Machine.pop, b"1": _Machine.since_mark,
    b"2": _push(lambda m: m.top(object)),
    b"N": _push(lambda m: None), b"\x88": _push(lambda m: True), b"\x89": _push(lambda m: False),
    b"I": _push(lambda m: _int_or_bool(m.line())), b"L": _push(lambda m: _decimal(m.line())),
    b"J": _push(lambda m: m.number("<i")), b"K": _push(lambda m: m.number("<B")),
    b"M": _push(lambda m: m.number("<H")),
    b"\x8a": _push(lambda m: _little_endian(m.take(m.number("<B")))),
    b"\x8b": _push(lambda m: _little_endian(m.take(m.number("<i")))),
    b"S": _push(lambda m: _quoted(m.line())), b"T": _push(lambda m: m.take(m.number("<i"))),
    b"U": _push(lambda m: m.take(m.number("<B"))),
    b"B": _push(lambda m: m.take(m.number("<I"))), b"C": _push(lambda m: m.take(m.number("<B"))),
    b"\x8e": _push(lambda m: m.take(m.number("<Q"))), b"\x96": _push(lambda m: m.take(m.number("<Q"))),
    b"V": _push(lambda m: _unicode(m.line(), "raw-unicode-escape")),
    b"X": _push(lambda m: _unicode(m.take(m.number("<I")))),
    b"\x8c": _push(lambda m: _unicode(m.take(m.number("<B")))),
    b"\x8d": _push(lambda m: _unicode(m.take(m.number("<Q")))),
    b"]": _push(lambda m: []), b"l": _push(_Machine.since_mark),
    b"a": _Machine.append, b"e": lambda m: m.extend(m.since_mark()),
    b")": _push(lambda m: ()), b"t": _push(lambda m: tuple(m.since_mark())),
    b"\x85": lambda m: m.push_tuple(1), b"\x86": lambda m: m.push_tuple(2), b"\x87": lambda m: m.push_tuple(3),
    b"p": lambda m: m.remember(_decimal(m.line())), b"q": lambda m: m.remember(m.number("<B")),
    b"r": lambda m: m.remember(m.number("<I")), b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": lambda m: m.recall(_decimal(m.line())), b"h": lambda m: m.recall(m.number("<B")),
    b"j": lambda m: m.recall(m.number("<I")),
    b"c": lambda m: m.global_named(m.line(), m.line()), b"\x93": _Machine.stack_global,
    b"R": _Machine.reduce, b"b": _Machine.build,
}  # fmt: skip
_REFUSED = {
    b"i": "INST", b"o": "OBJ", b"\x81": "NEWOBJ", b"\x92": "NEWOBJ_EX", b"\x82": "EXT1", b"\x83": "EXT2",
    b"\x84": "EXT4", b"P": "PERSID", b"Q": "BINPERSID", b"F": "FLOAT", b"G": "BINFLOAT", b"}": "EMPTY_DICT",
    b"d": "DICT", b"s": "SETITEM", b"u": "SETITEMS", b"\x8f": "EMPTY_SET", b"\x90": "ADDITEMS", b"\x91": "FROZENSET",
    b"\x97": "NEXT_BUFFER", b"\x98": "READONLY_BUFFER",
}  # fmt: skip
