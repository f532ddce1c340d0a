"""WebDataset: tar files with a picture ``<key>.jpg`` (or .jpeg, .png, .webp) and its label ``<key>.cls`` beside it.

The label may also be in ``<key>.json``, under one of ``LABEL_NAMES`` of ``tar_samples.py``. A key is a member's name up
to the first dot of its last part, as the library ``webdataset`` takes it; every tar has keys of its own. Nothing of a
tar is ever written to the disk: the names in it are only names, and a picture is read from its place in the tar.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hrfr_fast.packing.chunks import Reader
from hrfr_fast.packing.file_bytes import LargeFile, PlaceReaders, listing_bar
from hrfr_fast.packing.sources.brace_patterns import expand, has_braces
from hrfr_fast.packing.sources.candidates import digest_of_text
from hrfr_fast.packing.sources.identity_source import NO_OPTIONS, IdentitySource, SourceOptions
from hrfr_fast.packing.sources.tar_samples import NO_LABEL, Samples, TarSamples
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.names import few, one_line

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


class WebDatasetTars(IdentitySource):
    """Tar files in the layout of WebDataset; ``path`` is one, a folder of them, or a pattern with braces."""

    format = "webdataset"
    title = "WebDataset tar files"

    def __init__(self, path: Path, options: SourceOptions = NO_OPTIONS) -> None:
        self.tars = _tars(path)
        self.root = path if path.is_dir() else path.parent
        sizes = [tar.stat().st_size for tar in self.tars]
        samples, warnings, self._lines = Samples(), list[str](), list[str]()
        with listing_bar(self.root.name, sum(sizes), options.show_progress) as advance:
            for number, tar in enumerate(self.tars):
                before = sum(sizes[:number])
                with LargeFile(tar, lambda done, before=before: advance(before + done)) as file:  # type: ignore[misc]
                    warnings += TarSamples(number, file, samples).list()
                    self._lines.append(f"{one_line(tar.name)}\t{file.size}\t{file.modified}")
        self._keep(samples, path)
        self.fingerprint = digest_of_text("\n".join(self._lines))
        self.content = digest_of_text("\n".join(line.rsplit("\t", 1)[0] for line in self._lines))
        self.warnings = warnings

    def _keep(self, samples: Samples, path: Path) -> None:
        """Number the people by their labels, whole numbers first, and put the pictures in that order."""
        people = np.frombuffer(samples.people, np.int32)
        if not len(people):
            raise UsageError(f"{path}: no pictures in it; expected members <key>.jpg and <key>.cls")
        if not samples.labels:
            name = samples.names[: samples.ends[0]].decode("utf-8", "replace")
            raise UsageError(
                f"{path}: none of {len(people):,} pictures has a label, such as {one_line(name)}: {NO_LABEL}"
            )
        labels = sorted(samples.labels, key=lambda label: (isinstance(label, str), label))
        number = np.empty(len(labels) + 1, np.int32)
        number[[samples.labels[label] for label in labels]] = np.arange(len(labels))
        number[-1] = 0  # of pictures without a label, which are rejected
        numbers = number[people]
        self._order = np.argsort(numbers, kind="stable")
        self.identities, self.labels = [str(label) for label in labels], numbers[self._order]
        self._samples, self._reasons = samples, list(samples.reasons)
        self.bytes_on_disk = sum(samples.sizes)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        try:
            if path.is_dir():
                return any(_is_tar(name) for name in os.listdir(path))
            return _is_tar(path.name) and (path.is_file() or has_braces(str(path)))
        except OSError:
            return False

    def names(self, indices: Sequence[int]) -> list[str]:
        return [f"{self.tars[self._samples.tars[i]].name}/{self._samples.name(i)}" for i in self._places(indices)]

    def readers(self, indices: Sequence[int]) -> Sequence[Reader]:
        places, found = self._places(indices), self._samples
        tars = sorted({found.tars[i] for i in places})
        files = {tar: number for number, tar in enumerate(tars)}
        return PlaceReaders(
            [str(self.tars[tar]) for tar in tars],
            [files[found.tars[i]] for i in places],
            [found.starts[i] for i in places],
            [found.sizes[i] for i in places],
            {at: self._reasons[found.problems[i]] for at, i in enumerate(places) if found.problems[i]},
        )

    def listing_lines(self) -> Iterator[str]:
        return iter(self._lines)

    def _places(self, indices: Sequence[int]) -> list[int]:
        places: list[int] = self._order[np.asarray(indices, np.int64)].tolist()
        return places


def _is_tar(name: str) -> bool:
    return name.lower().endswith((".tar", *COMPRESSED)) and not name.startswith(".")


def _tars(path: Path) -> list[Path]:
    """The tar files that ``path`` stands for, a folder's by name. Raises UsageError where one is missing or packed."""
    if path.is_dir():
        try:
            names = sorted(name for name in os.listdir(path) if _is_tar(name))
        except OSError as error:
            raise HrfrError(f"{path}: cannot be listed: {error.strerror}") from error
        tars = [path / name for name in names]
    elif path.exists():
        tars = [path]
    else:
        tars = [Path(name) for name in expand(str(path))]
    compressed = [str(tar) for tar in tars if tar.name.lower().endswith(COMPRESSED)]
    if compressed:
        raise UsageError(
            f"{few(compressed)}: a compressed tar gives no picture without all that is before it; decompress it first"
            " (gunzip, bunzip2, unxz, unzstd: JPEG files take as much room without)"
        )
    missing = [str(tar) for tar in tars if not tar.is_file()]
    if missing or not tars:
        raise UsageError(f"{path}: no such tar file: {few(missing)}" if missing else f"{path}: no .tar files in it")
    return tars
