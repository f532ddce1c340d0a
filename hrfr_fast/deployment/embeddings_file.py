"""Files of embeddings: ``.npz`` and ``.parquet``, written block by block in constant memory, and read without trust.

A ``.npz`` holds ``embeddings`` (float32 [n, D], unit rows), ``names`` (text [n]) and ``about`` (JSON: which model made
them, and how). A ``.parquet`` holds the columns ``name`` and ``embedding``, and the same JSON in its metadata.
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import atomic_write
from hrfr_fast.runtime.optional import require_parquet
from hrfr_fast.runtime.untrusted import opened_zip, parsed_json, stored_array

SUFFIXES = (".npz", ".parquet")
BLOCK = 8192  # rows written at a time, and rows of a row group
ABOUT_KEY = b"hrfr-fast"
MOST_ABOUT = 1 << 20  # bytes
NAMES_AT_ONCE = 256  # names of a .parquet
MOST_PACKED = 100  # times smaller than its numbers a .parquet may be: unit rows hardly compress, a bomb does

Block = tuple[list[str], NDArray[np.float32]]
"""Names and rows of consecutive embeddings."""


@dataclass(frozen=True)
class Embeddings:
    """n embeddings: ``names`` [n], ``rows`` float32 [n, D] of unit norm, and what is known ``about`` them."""

    names: list[str]
    rows: NDArray[np.float32]
    about: dict[str, Any]


def refuse_suffix(path: Path) -> None:
    """Raise UsageError for a file name that says no format we write, or whose library is missing."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: embeddings go to a file that ends in {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        require_parquet(f"{path}: writing it")


def write_embeddings(
    path: Path, blocks: "Blocks", count: int, dimension: int, about: dict[str, Any], longest_name: int
) -> None:
    """Write ``count`` embeddings atomically; ``longest_name``: characters of the longest name."""
    text = json.dumps(about)
    if path.suffix == ".parquet":
        _write_parquet(path, blocks, dimension, text)
        return
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as member:
            _header(member, np.dtype("<f4"), (count, dimension))
            for _, rows in blocks:
                member.write(np.ascontiguousarray(rows, "<f4").tobytes())
        with archive.open("names.npy", "w", force_zip64=True) as member:
            kind = np.dtype(f"<U{max(longest_name, 1)}")
            _header(member, kind, (count,))
            for names, _ in blocks:
                member.write(np.array(names, kind).tobytes())
        with archive.open("about.npy", "w") as member:
            np.lib.format.write_array(member, np.array(text), allow_pickle=False)


class Blocks:
    """The kept rows of an array in blocks, with their names; may be gone through several times."""

    def __init__(self, rows: NDArray[np.float32], kept: NDArray[np.int64], name: Any) -> None:
        self.rows, self.kept, self.name = rows, kept, name

    def __iter__(self) -> Iterator[Block]:
        for start in range(0, len(self.kept), BLOCK):
            numbers = self.kept[start : start + BLOCK]
            yield [self.name(number) for number in numbers.tolist()], self.rows[numbers]


def _header(member: IO[bytes], kind: "np.dtype[Any]", shape: tuple[int, ...]) -> None:
    values = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(member, values)


def _write_parquet(path: Path, blocks: Blocks, dimension: int, about: str) -> None:
    arrow = require_parquet(f"{path}: writing it")
    from pyarrow import parquet

    fields = [("name", arrow.string()), ("embedding", arrow.list_(arrow.float32(), dimension))]
    schema = arrow.schema(fields, metadata={ABOUT_KEY: about.encode()})
    with atomic_write(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for names, rows in blocks:
            lists = arrow.FixedSizeListArray.from_arrays(arrow.array(rows.reshape(-1)), dimension)
            writer.write_table(arrow.table([arrow.array(names, arrow.string()), lists], schema=schema))


def read_embeddings(path: Path) -> Embeddings:
    """The embeddings in a file. Raises UsageError where it is not one of ours, or is damaged."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        found = _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path}: not a file of embeddings as `hrfr-fast embed` writes them: {reason}") from None
    if found.rows.ndim != 2 or found.rows.shape[1] < 2 or len(found.names) != len(found.rows):
        raise UsageError(f"{path}: {len(found.names)} names for embeddings of shape {list(found.rows.shape)}")
    if not np.isfinite(found.rows).all():
        raise UsageError(f"{path}: some of its embeddings are not finite numbers")
    return found


def _read_npz(path: Path) -> Embeddings:
    with opened_zip(path) as archive:
        rows = _member(archive, "embeddings.npy", path.stat().st_size, "f")
        names = _member(archive, "names.npy", path.stat().st_size, "U")
        about = _member(archive, "about.npy", MOST_ABOUT, "U")
    return Embeddings(names.tolist(), np.ascontiguousarray(rows, np.float32), _about(str(about)))


def _member(archive: zipfile.ZipFile, name: str, most: int, kind: str) -> NDArray[Any]:
    """An array of the archive; its header is compared with the bytes that are there before anything is allocated."""
    found = stored_array(archive, name, most)
    if found.dtype.kind != kind:
        raise ValueError(f"{name}: {found.dtype} {list(found.shape)}")
    return found


def _read_parquet(path: Path) -> Embeddings:
    arrow = require_parquet(f"{path}: reading it")
    from pyarrow import parquet

    try:
        most = MOST_PACKED * path.stat().st_size
        with parquet.ParquetFile(str(path), read_dictionary=["name"]) as file:
            numbers = file.metadata.num_rows * file.schema_arrow.field("embedding").type.list_size
            groups = [file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups)]
            if max(4 * numbers, sum(groups)) > most or min(groups, default=0) < 0:
                raise ValueError(f"{numbers:,} numbers and {sum(groups):,} bytes in {path.stat().st_size:,}")
            names = _names(arrow, file, most)
        table = parquet.read_table(str(path), columns=["embedding"])
        lists = table.column("embedding").combine_chunks()
        flat = np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float32)
        rows = flat.reshape(len(lists), -1 if len(lists) else lists.type.list_size)
        about = (table.schema.metadata or {}).get(ABOUT_KEY, b"{}")
        return Embeddings(names, rows, _about(about.decode()))
    except (arrow.ArrowException, AttributeError) as error:
        raise ValueError(str(error)) from None


def _names(arrow: Any, file: Any, most: int) -> list[str]:
    """The names in a ``.parquet`` file, block by block: it may hold a long one once, and say that all rows have it.

    Raises ValueError where they take more than ``most`` bytes, or are no texts.
    """
    names: list[str] = []
    held = 0
    for batch in file.iter_batches(NAMES_AT_ONCE, columns=["name"]):
        column = batch.column(0)
        column.validate(full=True)  # numbers of names that are not there
        if column.null_count:
            raise ValueError("names are missing")
        if isinstance(column, arrow.DictionaryArray):
            texts = column.dictionary.to_pylist()
            held += sum(map(len, texts))
            names += [texts[number] for number in column.indices.to_pylist()]
        else:
            held += column.nbytes
            names += column.to_pylist()
        if held > most:
            raise ValueError("its names are far larger than the file")
    if not all(isinstance(name, str) for name in names):
        raise ValueError("its names are no texts")
    return names


def _about(text: str) -> dict[str, Any]:
    about = parsed_json(text)
    if not isinstance(about, dict):
        raise ValueError("no JSON object says what it is")
    return about
