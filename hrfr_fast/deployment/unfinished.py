"""Unfinished embeddings on disk: a memory-mapped array and a record of what it belongs to, so that work can go on."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_json
from hrfr_fast.runtime.untrusted import parsed_json

PENDING, DONE, REJECTED, UNREADABLE = range(4)


class Unfinished:
    """The folder ``<out>.partial`` beside the file that is being made.

    Args:
        folder: exists and is locked by the caller.
        belongs_to: of what the work is: inputs, model, settings; JSON values.
        count, dimension: of the embeddings.

    Raises:
        UsageError: the folder holds work that belongs to something else.
    """

    def __init__(self, folder: Path, belongs_to: dict[str, Any], count: int, dimension: int) -> None:
        self.folder, self.belongs_to = folder, belongs_to
        found = self._found()
        if found is not None and found["belongs_to"] != belongs_to:
            changed = [name for name in belongs_to if found["belongs_to"].get(name) != belongs_to[name]]
            raise UsageError(
                f"{folder} holds unfinished embeddings of other {' and '.join(changed) or 'work'}; give the command"
                f" that began them to continue, or remove it (rm -r {shlex.quote(str(folder))}) to begin anew"
            )
        if found is not None and not 0 <= found["done"] <= count:
            found = None
        self.done: int = found["done"] if found else 0
        self.reasons: dict[int, str] = found["reasons"] if found else {}
        self.resampled: dict[str, int] = found["resampled"] if found else {}
        mode = "r+" if found else "w+"
        self.rows: NDArray[np.float32] = _mapped(folder / "embeddings.npy", mode, np.float32, (count, dimension))
        self.status: NDArray[np.uint8] = _mapped(folder / "status.npy", mode, np.uint8, (count,))
        if not found:
            self.save()

    def _found(self) -> dict[str, Any] | None:
        """The record of what is there; None where there is nothing, or nothing usable."""
        try:
            found: dict[str, Any] = parsed_json((self.folder / "state.json").read_bytes())
            if not all(isinstance(found[name], dict) for name in ("belongs_to", "reasons", "resampled")):
                return None
            return found | {
                "done": int(found["done"]),
                "reasons": {int(k): str(v) for k, v in found["reasons"].items()},
            }
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self) -> None:
        """Put on disk what is done: first the rows, then the record that says so."""
        self.rows.flush()  # type: ignore[attr-defined]
        self.status.flush()  # type: ignore[attr-defined]
        values = {"done": self.done, "reasons": self.reasons, "resampled": self.resampled}
        write_json(self.folder / "state.json", {"belongs_to": self.belongs_to} | values)

    def remove(self) -> None:
        """Delete the folder's files; the embeddings are elsewhere by now."""
        del self.rows, self.status
        (self.folder / "state.json").unlink(missing_ok=True)  # first: what a kill leaves is then no work to go on with
        shutil.rmtree(self.folder)


def _mapped(path: Path, mode: Any, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """A memory-mapped .npy. Raises UsageError where one that is there has another shape."""
    if mode == "w+":
        return np.lib.format.open_memmap(path, mode, kind, shape)
    try:
        array = np.lib.format.open_memmap(path, mode)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({error}); remove {path.parent} to begin anew") from None
    if array.shape != shape or array.dtype != kind:
        raise UsageError(f"{path}: damaged, it is {array.dtype} {list(array.shape)}; remove {path.parent}")
    return array
