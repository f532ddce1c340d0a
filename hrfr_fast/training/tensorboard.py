"""Scalars for TensorBoard, in one file of events a start of the run.

TensorBoard's own writer has a thread that prints a traceback where the disk is full; this one writes at once.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

PREFIX = "events.out.tfevents."


class Board:
    """Appends to ``directory``. Points of earlier files at steps after ``step`` are no longer shown."""

    def __init__(self, directory: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        directory.mkdir(parents=True, exist_ok=True)
        name = f"{PREFIX}{_second(directory):010d}.{socket.gethostname()}.{os.getpid()}"
        self.path = directory / f"{name}.{time.time_ns() % 10**9}"
        self._file = open(self.path, "wb")  # noqa: SIM115
        self._records = RecordWriter(self._file)
        self._append(file_version="brain.Event:2")
        self._append(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, scalars: dict[str, float], step: int) -> None:
        """Write the values of one step, by tag."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._append(step=step, summary=self._summary(value=values))

    def _append(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _second(directory: Path) -> int:
    """The second in the name of a new file, later than those there: TensorBoard reads files in the order of their
    names, and leaves out one that comes before what it has read, as after the clock was put back."""
    there = (path.name.removeprefix(PREFIX).partition(".")[0] for path in directory.glob(f"{PREFIX}*"))
    return max([time.time_ns() // 10**9, *(int(second) + 1 for second in there if second.isdecimal())])
