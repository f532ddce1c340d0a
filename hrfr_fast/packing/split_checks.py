"""Whether a packed split is plausible: order of colours, contrast, and pictures that are somewhere else, too.

Equal records are found by their checksums, over all records, and their bytes decide. Copies of another size or
compression are found by what they show: the grey means of 12 x 12 blocks around their own mean, at length 1. On real
faces (9,261 pictures) no two different ones had a product above 0.970, on synthetic ones 0.970; a picture shrunk from
144 to 36 px, compressed again or both had 0.990 and more with itself, one that was made brighter until it clipped 0.96.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.reader import Split
from hrfr_fast.format.split_findings import SplitFindings

MEASURED = 1_000
"""Pictures of a split whose colours and contrast are measured."""
COMPARED = 100_000
"""Pictures of a split that are compared with others by what they show: two minutes where all are JPEG files."""
BLOCKS = 12
ALIKE = 0.985
READ, SEARCHED, EXAMINED = 256, 4096, 4096  # pictures decoded, looked for, and compared by their bytes, at a time
FLAT, COLOURED = 2.0, 2.0  # levels
CENTRE = (0.3, 0.7)  # of the side: cheeks and nose, hardly any hair or background


def look_at(split: Split) -> dict[str, Any]:
    """The findings about one split by itself, as JSON values."""
    records = _spread(split.samples, MEASURED)
    found = SplitFindings(looked_at=len(records))
    for first in range(0, len(records), READ):
        part = records[first : first + READ]
        found = _measured(found, split.read(part), part)
        split.free_pages()
    pairs = np.array(_equal(split, split), np.int64).reshape(-1, 2)
    pairs = pairs[split.labels[pairs[:, 0]] != split.labels[pairs[:, 1]]]
    if len(pairs):
        second, first = pairs[0].tolist()
        found = replace(found, other_identity=len(pairs), other_identity_example=(first, second))
    return asdict(found)


def _measured(found: SplitFindings, pictures: NDArray[np.uint8], records: NDArray[np.int64]) -> SplitFindings:
    """``found`` and what ``pictures``, uint8 [n, S, S, 3], of ``records`` add to it."""
    size = pictures.shape[1]
    step = max(1, size // 36)  # enough pixels to tell a picture from nothing
    deviation = pictures[:, ::step, ::step].mean(axis=3, dtype=np.float32).std(axis=(1, 2))
    begin, end = int(size * CENTRE[0]), max(int(size * CENTRE[1]), int(size * CENTRE[0]) + 1)
    means = pictures[:, begin:end, begin:end].mean(axis=(1, 2), dtype=np.float32)
    redder = means[:, 0] - means[:, 2]
    flat = np.flatnonzero(deviation < FLAT)
    return replace(
        found,
        flat=found.flat + len(flat),
        flat_example=int(records[flat[0]]) if found.flat_example < 0 and len(flat) else found.flat_example,
        coloured=found.coloured + int((np.abs(redder) > COLOURED).sum()),
        exchanged=found.exchanged + int((redder < -COLOURED).sum()),
    )


def look_for_copies(splits: Mapping[str, Split]) -> dict[str, dict[str, Any]]:
    """Split -> what to add to its findings: how many of its pictures are in the splits before it, and where."""
    seen: dict[str, tuple[Split, NDArray[np.int64], NDArray[np.float32]]] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, split in splits.items():
        records = _spread(split.samples, COMPARED)
        shown = _signatures(split, records) if len(splits) > 1 else np.zeros((0, BLOCKS**2), np.float32)
        copies, examples = {}, {}
        for other, (before, numbers, signatures) in seen.items():
            pairs = dict(_alike(shown, records, signatures, numbers)) | dict(_equal(split, before))
            if pairs:
                first = min(pairs)
                copies[other], examples[other] = len(pairs), [first, pairs[first]]
        found[name] = {"compared": len(records) if len(splits) > 1 else 0, "copies": copies, "copy_examples": examples}
        seen[name] = (split, records, shown)
    return found


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """Up to ``most`` of ``n`` records, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def _equal(split: Split, other: Split) -> list[tuple[int, int]]:
    """Records of ``split`` and the first record of ``other`` (an earlier one, in the same split) with equal bytes."""
    order = np.argsort(other.crc32, kind="stable")
    sums = other.crc32[order]
    first, last = (np.searchsorted(sums, split.crc32, side) for side in ("left", "right"))
    chosen = np.flatnonzero(last > first)
    nearest = order[first[chosen]]
    if split is other:
        earlier = nearest < chosen
        chosen, nearest = chosen[earlier], nearest[earlier]
    equal = _have_equal_bytes(split, chosen, other, nearest)
    pairs = list(zip(chosen[equal].tolist(), nearest[equal].tolist(), strict=True))
    for record in chosen[~equal]:  # different pictures of one checksum
        for candidate in order[first[record] + 1 : last[record]]:
            if split is other and candidate >= record:
                break
            if _have_equal_bytes(split, record[None], other, candidate[None])[0]:
                pairs.append((int(record), int(candidate)))
                break
    return sorted(pairs)


def _have_equal_bytes(
    split: Split, records: NDArray[np.int64], other: Split, others: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """bool [n]: whether the stored bytes of ``records`` [n] of ``split`` are those of ``others`` [n] of ``other``."""
    data, other_data = (one.data.view(np.ndarray).data for one in (split, other))
    equal = np.zeros(len(records), np.bool_)
    for start in range(0, len(records), EXAMINED):
        part = slice(start, start + EXAMINED)
        spans = zip(*_spans(split, records[part]), *_spans(other, others[part]), strict=True)
        # As bytes, which are compared at once; views of NumPy's or of memory take three times as long.
        equal[part] = [data[a:b].tobytes() == other_data[c:d].tobytes() for a, b, c, d in spans]
        split.free_pages()
        other.free_pages()
    return equal


def _spans(split: Split, records: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """The first byte of each of ``records``, and the byte after its last."""
    begins = split.offsets[records]
    return begins.tolist(), (begins + split.lengths[records]).tolist()


def _signatures(split: Split, records: NDArray[np.int64]) -> NDArray[np.float32]:
    """What pictures show, float32 [n, BLOCKS * BLOCKS] of length 1; zeros for one without contrast."""
    import cv2

    blocks = min(BLOCKS, split.size)
    signatures = np.zeros((len(records), BLOCKS * BLOCKS), np.float32)
    for begin in range(0, len(records), READ):
        pictures = split.read(records[begin : begin + READ])
        split.free_pages()
        small = [cv2.resize(one, (blocks, blocks), interpolation=cv2.INTER_AREA) for one in pictures]
        means = np.stack(small).mean(axis=3, dtype=np.float32).reshape(len(small), -1)
        means -= means.mean(axis=1, keepdims=True)
        length = np.linalg.norm(means, axis=1, keepdims=True)
        shown = np.where(length > FLAT * blocks, means / np.maximum(length, 1e-6), 0)
        signatures[begin : begin + READ, : blocks * blocks] = shown
    return signatures


def _alike(
    shown: NDArray[np.float32], records: NDArray[np.int64], others: NDArray[np.float32], numbers: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Records that show the same as one of ``numbers``, with the most similar of those."""
    pairs: list[tuple[int, int]] = []
    for begin in range(0, len(shown) if len(others) else 0, SEARCHED):
        part = shown[begin : begin + SEARCHED]
        best, nearest = np.full(len(part), -1, np.float32), np.zeros(len(part), np.int64)
        for start in range(0, len(others), SEARCHED):
            products = part @ others[start : start + SEARCHED].T
            at = products.argmax(axis=1)
            value = products[np.arange(len(part)), at]
            nearest = np.where(value > best, at + start, nearest)
            best = np.maximum(best, value)
        for row in np.flatnonzero(best >= ALIKE).tolist():
            pairs.append((int(records[begin + row]), int(numbers[nearest[row]])))
    return pairs
