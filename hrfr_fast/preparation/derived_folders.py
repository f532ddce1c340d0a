"""The identity folders of one split of a derived tree, written by worker processes."""

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.chunks import Reader
from hrfr_fast.packing.picture_files import Rejected, Unreadable
from hrfr_fast.packing.sources.identity_names import identity_key
from hrfr_fast.packing.sources.identity_source import IdentitySource
from hrfr_fast.preparation.face_crop import EXTENSION, Crop, one_thread, png, read_pixels
from hrfr_fast.preparation.people import Part
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.processes import in_order, worker_pool
from hrfr_fast.runtime.signals import StopFlag

JOB_PICTURES = 200  # a fraction of a second
INLINE_PICTURES = 1500  # below this, starting processes costs more than it saves
NAME_BYTES = 200  # of a folder; file systems allow 255


@dataclass
class Folder:
    """One identity as a worker gets it, and what became of its pictures."""

    name: str
    readers: Sequence[Reader]
    pictures: Sequence[str]
    """What messages call each picture."""
    kept: int = 0
    enlarged: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """Some folders of one split: where they are written, and how their pictures are cropped."""

    folders: list[Folder]
    aside: Path
    crop: Crop


def folder_names(source: IdentitySource, identities: NDArray[np.int64]) -> list[str]:
    """A folder's name for each of ``identities``: the source's names, or numbers where those are no good names.

    They are no good where one holds a slash, begins with a dot, is too long, or where two are one name but for the
    encoding of accents or spaces.
    """
    names = [source.identities[identity] for identity in identities.tolist()]
    usable = all(
        name
        and not name.startswith(".")
        and "/" not in name
        and "\0" not in name
        and len(os.fsencode(name)) < NAME_BYTES
        for name in names
    )
    if usable and len({identity_key(name) for name in names}) == len(names):
        return names
    return [f"i{identity:07d}" for identity in identities.tolist()]


def jobs_of(
    source: IdentitySource, part: Part, names: Sequence[str], finished: Collection[str], aside: Path, crop: Crop
) -> Iterator[Job]:
    """The folders of ``part`` that are not ``finished`` yet, in jobs of about equal size."""
    folders, count = list[Folder](), 0
    for position, name in enumerate(names):
        if name in finished:
            continue
        numbers = part.pictures_of(position).tolist()
        folders.append(Folder(name, source.readers(numbers), source.names(numbers)))
        count += len(numbers)
        if count >= JOB_PICTURES:
            yield Job(folders, aside, crop)
            folders, count = [], 0
    if folders:
        yield Job(folders, aside, crop)


def write_job(job: Job) -> list[Folder]:
    """Write the folders of a job into ``aside``; returns them without their readers. Raises HrfrError."""
    for folder in job.folders:
        place = job.aside / folder.name
        shutil.rmtree(place, ignore_errors=True)  # left by a killed run
        place.mkdir()
        for read, picture in zip(folder.readers, folder.pictures, strict=True):
            try:
                image, enlarged = job.crop.apply(read_pixels(read))
            except Unreadable as reason:
                raise HrfrError(f"{one_line(picture)}: {reason}; mend that and run the same command again") from reason
            except Rejected as reason:
                folder.rejected.append((picture, str(reason)))
                continue
            (place / f"{folder.kept:03d}{EXTENSION}").write_bytes(png(image))
            folder.kept += 1
            folder.enlarged += enlarged
        folder.readers = folder.pictures = ()
    return job.folders


def written(jobs: Iterator[Job], pictures: int, workers: int, stop: StopFlag) -> Iterator[Folder]:
    """The folders of all jobs, in order, as they are written by ``workers`` processes; ``stop`` ends them."""
    jobs = takewhile(lambda _: not stop, jobs)
    if workers == 1 or pictures <= INLINE_PICTURES:
        for job in jobs:
            yield from write_job(job)
        return
    pool = worker_pool(workers, one_thread)
    try:
        for folders in in_order(pool, write_job, zip(jobs), 3 * workers):
            yield from folders
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
