"""The pictures of WebDataset tars with their labels: names, places and people in arrays.

The members of a key usually follow one another; any other order works, too, and takes more memory.
"""

import re
from array import array
from dataclasses import dataclass, field

import numpy as np

from hrfr_fast.packing.file_bytes import LargeFile
from hrfr_fast.packing.sources.tar_members import Member, members
from hrfr_fast.runtime.names import few, one_line
from hrfr_fast.runtime.untrusted import parsed_json

Label = int | str

PICTURES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json")
LABEL_NAMES = ("label", "cls", "class", "identity")
"""Where a .json has the label."""
LARGEST_LABEL = 1 << 20  # bytes of a .cls or .json
LONGEST_NAME = 200

NO_LABEL = "it has no label: expected <key>.cls or <key>.json beside it"
TWICE = "a picture of this key came before"
_NUMBER = re.compile(r"-?[0-9]{1,18}")


@dataclass
class Samples:
    """What is known of each of the N pictures, in the order in which they were found."""

    tars: "array[int]" = field(default_factory=lambda: array("i"))
    starts: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    people: "array[int]" = field(
        default_factory=lambda: array("i")
    )  # number of the label in the order of its appearance
    problems: "array[int]" = field(default_factory=lambda: array("i"))  # number of the reason, 0 for none
    names: bytearray = field(default_factory=bytearray)
    ends: "array[int]" = field(default_factory=lambda: array("q"))  # of each name in ``names``
    labels: dict[Label, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=lambda: {"": 0})

    def add(self, tar: int, picture: Member, label: Label | None, problem: str) -> None:
        """Add one picture; without a ``label`` it takes that of the one before, and is rejected."""
        self.tars.append(tar)
        self.starts.append(picture.start)
        self.sizes.append(min(picture.size, 1 << 62))
        number = -1 if label is None else self.labels.setdefault(label, len(self.labels))
        self.people.append(number)
        self.problems.append(self.reasons.setdefault(problem, len(self.reasons)))
        self.names += picture.name.encode("utf-8", "surrogateescape")
        self.ends.append(len(self.names))

    def reject(self, place: int, problem: str) -> None:
        """Have one picture rejected."""
        self.problems[place] = self.reasons.setdefault(problem, len(self.reasons))

    def __len__(self) -> int:
        return len(self.starts)

    def name(self, place: int) -> str:
        """The name of one picture in its tar."""
        begin = self.ends[place - 1] if place else 0
        return self.names[begin : self.ends[place]].decode("utf-8", "surrogateescape")


def key_of(name: str) -> tuple[str, str]:
    """(key, extension) of a member; the extension is "" where WebDataset takes it for none of a sample."""
    last = name.rfind("/") + 1
    dot = name.find(".", last)
    if dot <= last or name.startswith("__", last):
        return name, ""
    return name[:dot], name[dot + 1 :].lower()


class TarSamples:
    """The listing of one tar into ``samples``. ``number``: of the tar."""

    def __init__(self, number: int, file: LargeFile, samples: Samples) -> None:
        self.number, self.file, self.samples = number, file, samples
        self.first = len(samples)
        self.pictures: dict[str, Member] = {}  # that still lack a label
        self.labels: dict[
            str, tuple[Label | None, str]
        ] = {}  # (label, what is wrong with it) that still lack a picture
        self.keys: array[int] = array("q")  # hash of the key of each sample from ``first`` on
        self.last = ""  # the key that was completed last

    def list(self) -> list[str]:
        """Add the pictures of the tar to the samples. Returns warnings. Raises UsageError where it is no tar."""
        others: list[str] = []
        for member in members(self.file):
            key, extension = key_of(member.name)
            if extension in PICTURES:
                self._picture(key, member)
            elif extension in LABELS:
                self._label(key, member, extension)
            elif member.problem:
                others.append(f"{member.name}: {member.problem}")
        for key, picture in self.pictures.items():
            self._add(key, picture, None, NO_LABEL)
        self._mark_repeated()
        if self.labels:
            others.append(f"{len(self.labels):,} labels without a picture, such as that of {next(iter(self.labels))}")
        return [f"{self.file.path}: {one_line(few(others, '; '))}"] if others else []

    def _picture(self, key: str, member: Member) -> None:
        if key in self.labels:
            self._add(key, member, *self.labels.pop(key))
        elif key in self.pictures:
            self._add(key, member, None, TWICE)
        else:
            self.pictures[key] = member

    def _label(self, key: str, member: Member, extension: str) -> None:
        if key == self.last:
            return
        label, problem = self._read(member, extension)
        if label is None and not problem:
            return  # A .json without a label may stand beside a .cls.
        if key in self.pictures:
            self._add(key, self.pictures.pop(key), label, problem)
        else:
            self.labels.setdefault(key, (label, problem))

    def _add(self, key: str, picture: Member, label: Label | None, problem: str) -> None:
        self.samples.add(self.number, picture, label, picture.problem or problem)
        self.keys.append(hash(key))
        if problem != TWICE:
            self.last = key

    def _mark_repeated(self) -> None:
        """Have every picture rejected whose key an earlier one of this tar has."""
        twice = self.samples.reasons.get(TWICE, -1)
        kept = np.flatnonzero(np.array(self.samples.problems[self.first :], np.int32) != twice)
        keys = np.array(self.keys, np.int64)[kept]
        order = np.argsort(keys, kind="stable")
        for at in np.flatnonzero(keys[order[1:]] == keys[order[:-1]]).tolist():
            before, after = (self.first + int(place) for place in kept[order[at : at + 2]])
            if key_of(self.samples.name(before))[0] == key_of(self.samples.name(after))[0]:
                self.samples.reject(after, TWICE)

    def _read(self, member: Member, extension: str) -> tuple[Label | None, str]:
        """(label, "") or (None, what is wrong with it); (None, "") for a .json without a label."""
        if member.problem or member.size > LARGEST_LABEL:
            problem = member.problem or f"{member.size:,} bytes"
            return None, f"its label {one_line(member.name)} is not usable: {problem}"
        self.file.load(member.start, member.size)
        begin = member.start - self.file.start
        content = self.file.block[begin : begin + member.size]
        if extension == "cls":
            label = _label_of(content.decode("utf-8", "replace"))
        else:
            try:
                values = parsed_json(content)
            except ValueError:
                return None, f"its label {one_line(member.name)} is not JSON"
            found = [values[key] for key in LABEL_NAMES if key in values] if isinstance(values, dict) else []
            if not found:
                return None, ""
            label = _label_of(found[0])
        if label is None:
            return None, f"its label {one_line(member.name)} is neither a whole number nor a name"
        return label, ""


def _label_of(value: object) -> Label | None:
    """A whole number, or else a name of printable characters; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    if _NUMBER.fullmatch(text):
        return int(text)
    return text if text and len(text) <= LONGEST_NAME and text.isprintable() and "\ufffd" not in text else None
