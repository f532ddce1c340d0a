"""Which photographs of a folder are aligned already, with their landmarks, so that an interrupted run goes on."""

import csv
from pathlib import Path

import numpy as np

from hrfr_fast.format.alignment_record import LANDMARKS, UNFINISHED
from hrfr_fast.preparation.landmarks import COLUMNS, Landmarks, landmark_line, landmark_table
from hrfr_fast.runtime.files import write_bytes


class AlignLog:
    """The aligned photographs of ``out``: landmarks and number of faces by path."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out / UNFINISHED / LANDMARKS
        self.done: dict[str, tuple[Landmarks, int]] = {}
        for path in (out / LANDMARKS, self.path):
            if path.exists():
                self._read(path)

    def _read(self, path: Path) -> None:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.reader(file)
            while True:
                try:
                    row = next(rows)
                    values, faces = np.array([float(cell) for cell in row[1:COLUMNS]]), int(row[COLUMNS])
                    self.done[row[0]] = values.reshape(5, 2), faces
                except StopIteration:
                    return
                except (ValueError, IndexError, csv.Error):
                    # The header is no numbers, nor is what a killed run or a full disk cut; a quote that was opened
                    # there takes lines behind it along. Those photographs are aligned again.
                    continue

    def add(self, path: str, landmarks: Landmarks, faces: int) -> None:
        """Append one photograph to the file."""
        line = "\n" + landmark_line(path, landmarks, faces)  # begins a new line even after half of one
        with open(self.path, "ab") as file:
            file.write(line.encode("utf-8", "surrogateescape"))
        self.done[path] = landmarks, faces

    def finish(self) -> None:
        """Write the whole list."""
        write_bytes(self.out / LANDMARKS, landmark_table(self.done))
