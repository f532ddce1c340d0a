"""``hrfr-fast inspect``: the contents of a packed directory, in numbers and as a contact sheet."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.pair_defects import pair_warnings
from hrfr_fast.format.reader import Split, open_packed
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_bytes

SIZE = 96  # width and height of a picture on the sheet, in pixels
COLUMNS, ROWS = 16, 2  # pictures a split


def inspect_packed(path: str | Path) -> dict[str, Any]:
    """Splits, sizes, identities, encodings, pair sets and provenance as JSON-ready values.

    Raises UsageError and DamageFound as ``open_packed`` does.
    """
    packed = open_packed(path)
    return {
        "path": str(packed.path),
        "digest": packed.digest,
        "splits": {name: _split(split, packed.manifest["splits"][name]) for name, split in packed.splits.items()},
        "pairs": {
            name: {
                "kind": pairs.kind,
                "pairs": len(pairs),
                "genuine": int(pairs.same.sum()),
                "size": pairs.split.size,
                "encoding": pairs.split.encoding,
                "identities": None if pairs.identities is None else int(len(np.unique(pairs.identities))),
                "identity_coverage": pairs.identity_coverage,
                "overlap": dict(pairs.overlap),
                "warnings": pair_warnings(pairs),
                "bytes": packed.manifest["pairs"][name]["bytes"],
                "quarantined": packed.manifest["pairs"][name]["source"].get("quarantined", 0),
                "unreadable": packed.manifest["pairs"][name]["source"].get("unreadable", 0),
            }
            for name, pairs in packed.pairs.items()
        },
        "provenance": packed.manifest["provenance"],
    }


def _split(split: Split, entry: dict[str, Any]) -> dict[str, Any]:
    counts = np.bincount(split.labels, minlength=split.identities)
    return {
        "samples": split.samples,
        "identities": split.identities,
        "size": split.size,
        "encoding": split.encoding,
        "bytes": entry["bytes"],
        **({"files": len(entry["files"])} if "files" in entry else {}),
        "pictures_an_identity": {
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "max": int(counts.max()),
        },
        "quarantined": entry["source"].get("quarantined", 0),
        "unreadable": entry["source"].get("unreadable", 0),
    }


def contact_sheet(path: str | Path, png_path: str | Path) -> None:
    """Write a PNG of evenly spread pictures: two rows a split, then two rows a pair set (a pair above each other).

    Raises UsageError where there is nothing to show or the PNG cannot be written.
    """
    import cv2

    packed = open_packed(path)
    bands = [_grid(split, _spread(split.samples, COLUMNS * ROWS)) for split in packed.splits.values()]
    for pairs in packed.pairs.values():
        chosen = _spread(len(pairs), COLUMNS)
        bands.append(_grid(pairs.split, np.concatenate([2 * chosen, 2 * chosen + 1]), columns=len(chosen)))
    if not bands:
        raise UsageError(f"{path}: nothing to show")
    done, png = cv2.imencode(".png", np.ascontiguousarray(np.concatenate(bands)[:, :, ::-1]))
    if not done:
        raise UsageError(f"{png_path}: the sheet cannot be encoded")
    write_bytes(png_path, png.tobytes())


def _spread(n: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def _grid(split: Split, records: NDArray[np.int64], columns: int = COLUMNS) -> NDArray[np.uint8]:
    """Pictures row by row on black, uint8 [rows * SIZE, COLUMNS * SIZE, 3]; small ones stay blocky on purpose."""
    import cv2

    rows = -(-len(records) // columns)
    sheet = np.zeros((rows * SIZE, COLUMNS * SIZE, 3), np.uint8)
    for i, picture in enumerate(split.read(records)):
        interpolation = cv2.INTER_AREA if split.size > SIZE else cv2.INTER_NEAREST
        y, x = i // columns * SIZE, i % columns * SIZE
        sheet[y : y + SIZE, x : x + SIZE] = cv2.resize(picture, (SIZE, SIZE), interpolation=interpolation)
    return sheet
