"""``hrfr-fast align``: photographs become aligned faces of one size, in the same folders."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import Any

from hrfr_fast.face_templates import UNKNOWN, FaceTemplate, template_named
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.preparation.align_face import Aligned, Aligner, Photograph, align_all
from hrfr_fast.preparation.align_log import AlignLog
from hrfr_fast.preparation.align_output import AlignedFolder, claim, finish, record_of_run, write_face
from hrfr_fast.preparation.detectors import Detector, Mtcnn
from hrfr_fast.preparation.face_crop import one_thread
from hrfr_fast.preparation.landmarks import CHOICES, Choice, Landmarks, read_landmarks
from hrfr_fast.preparation.photographs import face_names, list_photographs, possible_names
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.output_directory import raise_if_stopped, writing_in
from hrfr_fast.runtime.processes import in_order, worker_pool
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.system import cores
from hrfr_fast.runtime.words import counted

JOB_PHOTOGRAPHS, INLINE_PHOTOGRAPHS = 16, 200  # of a worker at a time; below this, processes cost more than they save
ADVICE = "what is aligned is kept, and the same `hrfr-fast align` continues it"


class IncompleteAlignment(HrfrError):
    """Some files could not be read; everything else is aligned, and ``result`` describes it."""

    def __init__(self, message: str, result: AlignedFolder) -> None:
        super().__init__(message)
        self.result = result


def align(
    photographs: str | Path,
    out: str | Path,
    *,
    landmarks: str | Path | None = None,
    template: str = "arcface",
    size: int | None = None,
    face: Choice = "largest",
    smallest_face: int | None = None,
    keep_names: bool = False,
    detector: Detector | None = None,
    workers: int = 0,
    show_progress: bool = True,
    stop: StopFlag | None = None,
) -> AlignedFolder:
    """Align one face of each photograph to a template, as PNG files in the same folders below ``out``.

    What ``out`` holds already is kept, so that an interrupted run goes on and new photographs are added.

    Args:
        photographs: folder of pictures, flat or of any depth; ``<identity>/<picture>`` can be packed afterwards.
        landmarks: CSV file of the landmarks, see ``landmarks.read_landmarks``; None: a detector finds them.
        template: a name of ``face_templates.TEMPLATES`` whose landmarks are known.
        size: width in px; None: the template's own.
        face: which of several faces is taken, "largest" or "central".
        smallest_face: least width in px of a face that the detector looks for; None: see ``detectors.Mtcnn``.
        keep_names: keep the extensions of the files, too, for test sets whose lists name them; they hold PNG anyway.
        detector: finds the faces; None: MTCNN.
        workers: processes, 0 for one a core. A detector works in this process, with threads of its own.

    Raises:
        UsageError: nothing to align, a wrong setting or list, the detector is not installed, ``out`` holds faces of
            other settings.
        IncompleteAlignment: after everything else is aligned, if a few files could not be read.
        CannotWrite: a full disk; what is aligned is kept.
        Interrupted: stopped; calling again continues.
    """
    photographs, out = Path(photographs), Path(out)
    wanted = _wanted_template(template, size)
    _check(photographs, out, face, smallest_face, workers)
    found = list_photographs(photographs)
    listed = read_landmarks(Path(landmarks)) if landmarks else None
    if listed is None:
        detector = detector or Mtcnn(smallest_face)
    aligner = Aligner(wanted, face, detector if listed is None else None)
    record = record_of_run(photographs, wanted, aligner, smallest_face, keep_names, landmarks)
    result = AlignedFolder(out, choice=face, warnings=_not_there(listed, found))
    with (
        writing_in(out, ADVICE),
        StopFlag() if stop is None else nullcontext(stop) as flag,
        progress_bar(show_progress) as bars,
    ):
        claim(out, record)
        log = AlignLog(out)
        names = dict(zip(found, face_names(found, keep_names), strict=True))
        rejected = _fill(result, log, aligner, photographs, names, listed, workers or cores(), flag, bars)
        raise_if_stopped(flag, f"{out} is incomplete; {ADVICE}")
        finish(result, log, rejected, record, wanted)
    _raise_if_unreadable(result, rejected)
    return result


def _fill(
    result: AlignedFolder, log: AlignLog, aligner: Aligner, folder: Path, names: Mapping[str, str],
    listed: Mapping[str, Sequence[Landmarks]] | None, workers: int, stop: StopFlag, bars: Any,
) -> list[Aligned]:  # fmt: skip
    """Write the faces that are not there yet, until ``stop``; returns the photographs without one.

    ``names``: the path of the face of each photograph.
    """
    _rename(result.path, log, names)
    todo = [path for path, name in names.items() if path not in log.done or not os.path.exists(result.path / name)]
    result.kept = len(names) - len(todo)
    task = bars.add_task("align", total=len(names), completed=result.kept, note="")
    rejected = []
    for aligned in _aligned(aligner, _tasks(folder, todo, listed), len(todo), workers, stop):
        bars.advance(task)
        if aligned.landmarks is None:
            rejected.append(aligned)
            continue
        try:
            write_face(result.path / names[aligned.path], aligned.content)
        except Rejected as reason:
            rejected.append(Aligned(aligned.path, reason=str(reason)))
            continue
        log.add(aligned.path, aligned.landmarks, aligned.faces)
    return rejected


def _rename(out: Path, log: AlignLog, names: Mapping[str, str]) -> None:
    """Give faces of an earlier run the names that they have beside the photographs that came or went since."""
    wanted = set(names.values())
    for path, name in names.items():
        if path in log.done and not os.path.exists(out / name):  # also of a name that is too long
            for earlier in possible_names(path):
                if earlier not in wanted and os.path.exists(out / earlier):
                    os.replace(out / earlier, out / name)
                    break


def _tasks(folder: Path, paths: list[str], listed: Mapping[str, Sequence[Landmarks]] | None) -> Iterator[Photograph]:
    for path in paths:
        yield Photograph(path, folder / path, None if listed is None else listed.get(path, []))


def _raise_if_unreadable(result: AlignedFolder, rejected: Sequence[Aligned]) -> None:
    if result.unreadable:
        first = next(one for one in rejected if one.unreadable)
        raise IncompleteAlignment(
            f"{counted(result.unreadable, 'file')} could not be read, such as {one_line(first.path)} ({first.reason});"
            " the others are aligned. Mend that, and run the same command again",
            result,
        )


def _wanted_template(name: str, size: int | None) -> FaceTemplate:
    template = template_named(name)
    if template is UNKNOWN:
        raise UsageError("the template unknown has no landmarks to align to; choose another one")
    if size is not None and not 16 <= size <= 1024:
        raise UsageError(f"size is {size}; it must be within 16..1024 px")
    return template.scaled(size or template.width)


def _check(photographs: Path, out: Path, face: str, smallest_face: int | None, workers: int) -> None:
    if face not in CHOICES:
        raise UsageError(f"face is {face!r}; it must be one of {', '.join(CHOICES)}")
    if smallest_face is not None and smallest_face < 12:
        raise UsageError(f"the smallest face is {smallest_face} px; it must be at least 12")
    if workers < 0:
        raise UsageError(f"workers is {workers}; it must be at least 0 (0: as many as there are cores)")
    if out.resolve().is_relative_to(photographs.resolve()):
        raise UsageError(f"{out} lies among the photographs of {photographs}; choose a directory of its own")


def _not_there(listed: Mapping[str, Sequence[Landmarks]] | None, found: list[str]) -> list[str]:
    """A warning about listed pictures that do not exist."""
    missing = sorted(set(listed or ()) - set(found))
    if not missing:
        return []
    pictures = counted(len(missing), "picture")
    return [f"the list of landmarks names {pictures} not among the photographs, such as {one_line(missing[0])}"]


def _aligned(
    aligner: Aligner, photographs: Iterator[Photograph], count: int, workers: int, stop: StopFlag
) -> Iterator[Aligned]:
    """The outcome for each photograph, in order, until ``stop``."""
    photographs = takewhile(lambda _: not stop, photographs)
    if aligner.detector is not None or workers == 1 or count <= INLINE_PHOTOGRAPHS:
        yield from map(aligner.align, photographs)
        return
    pool = worker_pool(workers, one_thread)
    try:
        for outcomes in in_order(pool, align_all, ((aligner, job) for job in _jobs(photographs)), 3 * workers):
            yield from outcomes
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _jobs(photographs: Iterator[Photograph]) -> Iterator[list[Photograph]]:
    job: list[Photograph] = []
    for photograph in photographs:
        job.append(photograph)
        if len(job) == JOB_PHOTOGRAPHS:
            yield job
            job = []
    if job:
        yield job
