"""The elements of a MATLAB file (level 5), checked before anything reads their values.

Layout ("MAT-File Format", MathWorks): a header of 128 bytes that ends with version and byte order; then elements, each
a tag (u4 type, u4 bytes) and data padded to 8 bytes, or a small one of up to 4 bytes inside the tag. A variable is a
matrix element (type 14), or one inside zlib data (type 15): array flags, dimensions, name, then numbers, characters,
or for a cell array a matrix element for each cell.
"""

import struct
import zlib
from dataclasses import dataclass
from math import prod

from hrfr_fast.runtime.errors import UsageError

HEADER = 128
LARGEST_FILE = 1 << 28
LARGEST_CONTENT = 1 << 30
"""Bytes that compressed variables may hold together: the largest list of a protocol takes 30 MB."""
DEEPEST = 8
MOST_CELLS = 4_000_000  # of a file: each becomes an object in memory; lists of pictures have some 100,000
MOST_DIMENSIONS = 32  # as NumPy allows at least
MATRIX, COMPRESSED = 14, 15
CELL, CHARACTERS = 1, 4
NUMBERS = range(6, 16)
COMPLEX = 0x0800
CLASSES = {2: "a structure", 3: "an object", 5: "a sparse matrix", 16: "a function handle", 17: "an opaque object"}
BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
BYTES_OF_CLASS = {6: 8, 7: 4, 8: 1, 9: 1, 10: 2, 11: 2, 12: 4, 13: 4, 14: 8, 15: 8}


@dataclass(frozen=True)
class _Element:
    """One element: ``kind`` is its type, ``start`` .. ``end`` its data, ``after`` where the next one begins."""

    kind: int
    start: int
    end: int
    after: int


def check_mat(content: bytes, name: str) -> None:
    """Refuse a MATLAB file that holds anything but numbers, text and cells, or that states sizes it does not have.

    Args:
        content: the whole file.
        name: what messages call it.

    Raises:
        UsageError: it is no such file, is of another version, is damaged, or holds objects or function handles.
    """
    if content[:8] == b"\x89HDF\r\n\x1a\n" or content[512:520] == b"\x89HDF\r\n\x1a\n":
        raise UsageError(f"{name}: a MATLAB 7.3 file (HDF5); save it again in MATLAB with save(..., '-v7')")
    if len(content) < HEADER or content[126:128] not in (b"IM", b"MI"):
        raise UsageError(f"{name}: not a MATLAB file of level 5 (versions 5 to 7.2); save it with save(..., '-v7')")
    checker = _Checker(name, "<" if content[126:128] == b"IM" else ">")
    place, held = HEADER, len(content)
    while place < len(content):
        element = checker.element(content, place, len(content), padded=False)
        if element.kind == COMPRESSED:
            matrix = checker.decompressed(content[element.start : element.end], LARGEST_CONTENT - held)
            held += len(matrix)
            checker.matrix(matrix, checker.element(matrix, 0, len(matrix)), 0)
        elif element.kind == MATRIX:
            checker.matrix(content, element, 0)
        else:
            raise checker.damaged(f"an element of type {element.kind} where a variable belongs")
        place = element.after


@dataclass
class _Checker:
    """Checks the variables of one file. ``order``: of its bytes, as struct writes it. ``cells``: seen so far."""

    name: str
    order: str
    cells: int = 0

    def damaged(self, what: str) -> UsageError:
        return UsageError(f"{self.name}: damaged or not a MATLAB file: {what}; get it again")

    def element(self, content: bytes, place: int, end: int, *, padded: bool = True) -> _Element:
        """The element at ``place`` of data that end at ``end``; compressed ones at the top level are not padded."""
        if place + 8 > end:
            raise self.damaged("it ends inside an element")
        kind, size = struct.unpack_from(f"{self.order}II", content, place)
        if kind >> 16:  # a small element: the number of bytes in the upper half, the data where the size would be
            small = kind >> 16
            if small > 4:
                raise self.damaged(f"a small element of {small} bytes")
            return _Element(kind & 0xFFFF, place + 4, place + 4 + small, place + 8)
        if size > end - place - 8:
            raise self.damaged(f"an element of {size:,} bytes where {end - place - 8:,} are left")
        stop = place + 8 + size
        after = stop + (-size % 8 if padded and kind != MATRIX else 0)
        return _Element(kind, place + 8, stop, min(after, end))

    def decompressed(self, data: bytes, most: int) -> bytes:
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(data, max(most, 1))
        except zlib.error as error:
            raise self.damaged(f"a compressed variable ({error})") from error
        if unpacker.unconsumed_tail:
            raise UsageError(f"{self.name}: its variables hold over {LARGEST_CONTENT >> 30} GB; no list of names does")
        if not unpacker.eof:
            raise self.damaged("a compressed variable is cut off")
        return content

    def matrix(self, content: bytes, element: _Element, depth: int) -> None:
        """Check one matrix and, in a cell array, all of its cells."""
        if element.kind != MATRIX:
            raise self.damaged(f"an element of type {element.kind} where a matrix belongs")
        if depth > DEEPEST:
            raise UsageError(f"{self.name}: cells within cells, {depth} deep; lists of names are one deep")
        if element.start == element.end:
            return  # an empty cell
        flags = self.element(content, element.start, element.end)
        if flags.kind != 6 or flags.end - flags.start != 8:
            raise self.damaged("a variable without array flags")
        word = struct.unpack_from(f"{self.order}I", content, flags.start)[0]
        kind = word & 0xFF
        if kind not in (CELL, CHARACTERS, *NUMBERS):
            raise UsageError(
                f"{self.name}: holds {CLASSES.get(kind, f'data of class {kind}')}; only numbers, text and cells of"
                " them are read from MATLAB files, for safety"
            )
        if word & COMPLEX:
            raise UsageError(f"{self.name}: holds complex numbers; lists of pictures have none")
        shape = self.element(content, flags.after, element.end)
        if shape.kind != 5 or (shape.end - shape.start) % 4 or shape.end - shape.start > 4 * MOST_DIMENSIONS:
            raise self.damaged(f"a variable without dimensions, or with more than {MOST_DIMENSIONS}")
        dimensions = struct.unpack_from(f"{self.order}{(shape.end - shape.start) // 4}i", content, shape.start)
        if len(dimensions) < 2 or min(dimensions) < 0:
            raise self.damaged(f"a variable with the dimensions {dimensions}")
        called = self.element(content, shape.after, element.end)
        values = prod(dimensions)
        if kind == CHARACTERS and not values and max(dimensions) > 1:  # SciPy reads behind the end of such a text
            raise self.damaged(f"an empty text with the dimensions {dimensions}")
        if kind == CELL:
            after = self._cells(content, called.after, element.end, values, depth)
        else:
            after = self._values(content, called.after, element.end, values, kind)
        if depth and after != element.end:  # SciPy takes what follows for the next cell
            raise self.damaged(f"a cell of {element.end - element.start:,} bytes, of which its values take fewer")

    def _cells(self, content: bytes, place: int, end: int, cells: int, depth: int) -> int:
        """Check the cells of an array; where the last one ends."""
        if cells > (end - place) // 8:  # a cell has a tag of 8 bytes at least
            raise self.damaged(f"{cells:,} cells in {end - place:,} bytes")
        self.cells += cells
        if self.cells > MOST_CELLS:
            raise UsageError(f"{self.name}: over {MOST_CELLS:,} cells; no list of names is that long")
        for _ in range(cells):
            cell = self.element(content, place, end)
            self.matrix(content, cell, depth + 1)
            place = cell.after
        return place

    def _values(self, content: bytes, place: int, end: int, values: int, kind: int) -> int:
        """Check numbers or characters, which an empty matrix has, too: none of them; where they end."""
        data = self.element(content, place, end)
        if data.kind not in BYTES_OF_TYPE:
            raise self.damaged(f"values of type {data.kind}")
        held = (data.end - data.start) // BYTES_OF_TYPE[data.kind]
        # Text in UTF-8 (type 16) has at most as many characters as bytes; everything else has exactly one each.
        if held != values and not (data.kind == 16 and held >= values):
            raise self.damaged(f"{values:,} values stated, {held:,} there")
        if values * BYTES_OF_CLASS.get(kind, 4) > LARGEST_CONTENT:
            raise UsageError(f"{self.name}: a variable of {values:,} values; no list of names is that long")
        return data.after
