"""Lists of picture names and of identities in MATLAB files, as TinyFace and SurvFace come with them.

Names are cells of text, identities numbers. The file is checked first (``mat_elements.py``), then read by SciPy.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.protocols.mat_elements import LARGEST_FILE, check_mat
from hrfr_fast.runtime.errors import UsageError


def read_mat(path: Path) -> dict[str, NDArray[Any]]:
    """The variables of a MATLAB file (level 5) that holds only numbers, text and cells of them.

    Raises:
        UsageError: there is no such file, or it is anything else (objects, function handles, version 7.3, damage).
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; the data set comes with it")
    if path.stat().st_size > LARGEST_FILE:
        raise UsageError(f"{path}: {path.stat().st_size:,} bytes; no list of names is that large")
    content = path.read_bytes()
    check_mat(content, str(path))
    from scipy.io import loadmat

    try:
        variables = loadmat(io.BytesIO(content), chars_as_strings=True)
    except Exception as error:  # SciPy names no errors of its own for what a damaged file makes of its reader
        raise UsageError(f"{path}: SciPy cannot read it as a MATLAB file ({error}); get it again") from error
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def names_of(variables: dict[str, NDArray[Any]], key: str, path: Path, columns: int = 1) -> list[list[str]]:
    """The picture names of variable ``key``: ``columns`` in each row.

    They are cells of text, or rows of characters with one name each.

    Raises:
        UsageError: there is no such variable, or it holds something else.
    """
    value = _variable(variables, key, path)
    if value.dtype.kind == "U" and columns == 1:
        return [[str(name).strip()] for name in value.reshape(-1)]
    if value.dtype.kind != "O" or value.ndim != 2:
        raise UsageError(f"{path}: {key} holds numbers where picture names belong")
    rows = value if value.shape[1] == columns else value.T
    if rows.shape[1] != columns:
        raise UsageError(f"{path}: {key} has {value.shape[0]} x {value.shape[1]} cells, not {columns} a row")
    return [[_text(cell, f"{path}: {key}, row {number}") for cell in row] for number, row in enumerate(rows, 1)]


def _text(cell: Any, where: str) -> str:
    """The text of one cell, which may lie in further cells."""
    while isinstance(cell, np.ndarray) and cell.size == 1:
        cell = cell.reshape(-1)[0]
    if not isinstance(cell, str) or not cell.strip():
        raise UsageError(f"{where}: no picture name in the cell")
    return str(cell).strip()


def identities_of(variables: dict[str, NDArray[Any]], key: str, path: Path) -> NDArray[np.int64]:
    """The identity numbers of variable ``key``, int64 [n].

    Raises:
        UsageError: there is no such variable, or it holds anything but whole numbers.
    """
    value = _variable(variables, key, path)
    if value.dtype.kind not in "iuf":
        raise UsageError(f"{path}: {key} holds no numbers; the identities of the pictures belong there")
    numbers = value.reshape(-1).astype(np.float64)
    if not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any() or (numbers > 2.0**53).any():
        raise UsageError(f"{path}: {key} holds numbers that are no identities (fractions, or not finite)")
    if (numbers < 0).any():  # -1 would stand for a person whom nobody knows
        raise UsageError(f"{path}: {key} holds negative numbers; identities are numbered from 0 or 1")
    return numbers.astype(np.int64)


def _variable(variables: dict[str, NDArray[Any]], key: str, path: Path) -> NDArray[Any]:
    if key not in variables:
        raise UsageError(f"{path}: no variable {key}; it holds {', '.join(sorted(variables)) or 'none'}")
    return variables[key]
