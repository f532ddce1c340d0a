"""Writer of one shard: records in the order given, pages filled greedily, nothing half-written under its name."""

import os
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hrfr_fast.format import beton
from hrfr_fast.runtime.files import fsync, fsync_directory, write_bytes

# The writer's notes on each record; the packer keeps a copy on disk to continue from.
ROW = np.dtype([("length", "<u4"), ("crc32", "<u4"), ("label", "<i4"), ("mode", "u1")])
ZEROS = 1 << 20  # bytes of them written at once
PENDING = 256  # single records that are written together
BEGUN = 32 << 20  # bytes after which the disk is given work, so that there is less to wait for at the end
WRITE_BUFFER = 1 << 16  # less than a packer's chunk has, which so goes to the system without another copy


@dataclass(frozen=True)
class ShardInfo:
    """Size and digests of a finished shard, for the manifest."""

    samples: int
    bytes: int
    digest: str  # SHA-256 of the .beton file
    checksums_digest: str  # SHA-256 of the .crc32 file
    tables_digest: str  # SHA-256 of the .beton file without its pages
    encoding: str  # "raw", "jpeg" or "mixed"


class SplitWriter:
    """Writer of ``path`` (a ``.beton``) and the ``.crc32`` beside it.

    Until :meth:`finish` the data lies under ``<path>.partial``.

    Args:
        path: the final name.
        capacity: how many records there may be; metadata is reserved for all of them.
        size: width and height of every picture in pixels.
        page_size: a power of two; FFCV's writer asks for at least 2 MiB, its reader takes any.
        restored: rows (:data:`ROW`) of records that ``<path>.partial`` already holds; what follows them is cut off.
    """

    def __init__(
        self,
        path: str | Path,
        capacity: int,
        size: int,
        page_size: int = beton.PAGE_SIZE,
        restored: NDArray[np.void] | None = None,
    ) -> None:
        if page_size < 4096 or page_size & (page_size - 1):
            raise ValueError(f"page_size {page_size} must be a power of two of at least 4096")
        if not 1 <= size <= 0xFFFF:
            raise ValueError(f"size {size} must be within 1..65535 pixels")
        self.path, self.capacity, self.size, self.page_size = Path(path), capacity, size, page_size
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.rows = np.zeros(capacity, ROW)
        self.offsets = np.zeros(capacity, np.int64)
        self.samples = 0
        self._position = beton.data_start(capacity, page_size)
        if restored is not None and len(restored):
            self._restore(restored)
        self._pending: list[tuple[bytes, int, int]] = []
        self._thread = ThreadPoolExecutor(1, "hrfr-disk")
        self._begun: Future[None] | None = None  # of the thread: putting on the disk what was there when it began
        self._not_begun = 0  # bytes appended since
        self._file = open(self.partial, "r+b" if restored is not None else "w+b", buffering=WRITE_BUFFER)  # noqa: SIM115
        try:
            self._clear_gaps()
            self._file.truncate(self._position)
            self._file.seek(self._position)
        except BaseException:
            self.close()
            raise

    def _restore(self, rows: NDArray[np.void]) -> None:
        n = len(rows)
        offsets = beton.record_offsets(rows["length"].astype(np.int64), self.page_size, self._position)
        self.rows[:n], self.offsets[:n], self.samples = rows, offsets, n
        self._position = int(offsets[-1]) + int(rows["length"][-1])

    def _clear_gaps(self) -> None:
        """Write zeros before and between the restored records: no checksum of a record covers what stood there."""
        offsets = self.offsets[: self.samples]
        ends = np.concatenate([[0], offsets + self.rows["length"][: self.samples]]).astype(np.int64)
        for first in np.flatnonzero(offsets > ends[:-1]).tolist():
            self._file.seek(ends[first])
            for at in range(ends[first], offsets[first], ZEROS):
                self._file.write(bytes(min(ZEROS, offsets[first] - at)))

    def append(self, payload: bytes | memoryview | NDArray[np.uint8], label: int, mode: int) -> None:
        """Add one record: pixels (row-major RGB uint8) under ``RAW``, a whole JPEG file under ``JPEG``."""
        self._pending.append((bytes(payload), label, mode))
        if len(self._pending) == PENDING:
            self._write_pending()

    def _write_pending(self) -> None:
        """Write the single records together: :meth:`extend` costs as much for one as for hundreds."""
        if self._pending:
            payloads, labels, modes = zip(*self._pending, strict=True)
            self._pending = []
            lengths, checksums = [len(p) for p in payloads], [zlib.crc32(p) for p in payloads]
            self.extend(b"".join(payloads), lengths, labels, modes, checksums)

    def extend(
        self, blob: bytes | memoryview, lengths: ArrayLike, labels: ArrayLike, modes: ArrayLike, crc32: ArrayLike
    ) -> NDArray[np.void]:
        """Add many records whose payloads lie one after the other in ``blob``; returns their rows."""
        self._write_pending()
        lengths = np.asarray(lengths, np.int64)
        first, last = self.samples, self.samples + len(lengths)
        if last > self.capacity:
            raise ValueError(f"{last} records do not fit the reserved capacity of {self.capacity}")
        if int(lengths.sum()) != len(blob):
            raise ValueError(f"the lengths add up to {int(lengths.sum())} and the payload has {len(blob)} bytes")
        rows = self.rows[first:last]
        rows["length"], rows["crc32"], rows["label"], rows["mode"] = lengths, crc32, labels, modes
        if ((rows["mode"] == beton.RAW) & (lengths != 3 * self.size**2)).any():
            raise ValueError(f"a raw record of {self.size}x{self.size} pixels takes {3 * self.size**2} bytes")
        offsets = beton.record_offsets(lengths, self.page_size, self._position)
        self._write(memoryview(blob), offsets, lengths)
        self.offsets[first:last], self.samples = offsets, last
        self._begin_sync(len(blob))
        return rows

    def _begin_sync(self, appended: int) -> None:
        """Have a thread put on the disk what there is, now and then: the disk works while pictures are decoded."""
        self._not_begun += appended
        if self._not_begun < BEGUN or (self._begun is not None and not self._begun.done()):
            return
        self._end_sync()
        self._file.flush()
        self._begun, self._not_begun = self._thread.submit(fsync, self._file.fileno()), 0

    def _end_sync(self) -> None:
        """Wait for the thread, and raise what the disk said: the system says it once."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()

    def _write(self, blob: memoryview, offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        """Copy runs of adjacent records at once; a run ends where the next record opens a page."""
        if not len(lengths):
            return
        ends = np.cumsum(lengths)
        gaps = np.flatnonzero(offsets[1:] != offsets[:-1] + lengths[:-1]) + 1
        start = 0
        for first, last in zip([0, *gaps], [*gaps, len(lengths)], strict=True):
            self._file.write(bytes(int(offsets[first]) - self._position))
            stop = int(ends[last - 1])
            self._file.write(blob[start:stop])
            self._position = int(offsets[first]) + stop - start
            start = stop

    def labels_used(self) -> NDArray[np.int64]:
        """The labels of the records so far, each once, ascending."""
        return np.unique(self.rows["label"][: self.samples].astype(np.int64))

    def sync(self) -> None:
        """Put everything appended so far on the disk."""
        self._write_pending()
        self._end_sync()
        self._file.flush()
        fsync(self._file.fileno())

    def close(self) -> None:
        """Close the unfinished file; it stays and can be continued."""
        self._thread.shutdown()  # a descriptor that it has must not become another file's
        self._file.close()

    def finish(self, relabel: NDArray[np.int64] | None = None) -> ShardInfo:
        """Write the tables and the checksums, fsync, rename.

        Args:
            relabel: new label of each old one, where the given labels were provisional.
        """
        self._write_pending()
        n, file = self.samples, self._file
        rows, offsets = self.rows[:n], self.offsets[:n]
        labels = rows["label"].astype(np.int64)
        table_start = -(-self._position // self.page_size) * self.page_size
        file.write(bytes(table_start - self._position))
        allocation = np.zeros(n, beton.ALLOCATION)
        allocation["sample_id"], allocation["ptr"], allocation["size"] = np.arange(n), offsets, rows["length"]
        file.write(allocation.data)
        metadata = np.zeros(n, beton.METADATA)
        image = metadata["image"]
        image["mode"], image["data_ptr"] = rows["mode"], offsets
        image["width"] = image["height"] = self.size
        metadata["label"] = labels if relabel is None else relabel[labels]
        checksums = rows["crc32"].astype("<u4").tobytes()
        head = beton.header_bytes(n, self.page_size, table_start, beton.binding_of(checksums))
        file.seek(0)
        file.write(head)
        file.write(metadata.data)
        file.flush()
        with ThreadPoolExecutor(1, "hrfr-digest") as thread:  # while the disk is waited for
            hashing = thread.submit(beton.file_digest, self.partial)
            self.sync()
            self.close()
            digest, size = hashing.result(), os.path.getsize(self.partial)
        write_bytes(beton.checksum_path(self.path), checksums)
        os.replace(self.partial, self.path)
        fsync_directory(self.path.parent)
        tables = beton.tables_digest(head, metadata.data, allocation.data)
        return ShardInfo(n, size, digest, beton.binding_of(checksums).hex(), tables, beton.encoding_of(rows["mode"]))


def holds(partial: Path, rows: NDArray[np.void], capacity: int, page_size: int) -> bool:
    """Whether the unfinished file ``partial`` still has the records of ``rows`` (:data:`ROW`), every byte of them."""
    try:
        lengths = rows["length"].astype(np.int64)
        offsets = beton.record_offsets(lengths, page_size, beton.data_start(capacity, page_size))
        with open(partial, "rb") as file:
            for offset, length, expected in zip(
                offsets.tolist(), lengths.tolist(), rows["crc32"].tolist(), strict=True
            ):
                file.seek(offset)
                if zlib.crc32(file.read(length)) != expected:
                    return False
    except (OSError, ValueError):
        return False
    return True
