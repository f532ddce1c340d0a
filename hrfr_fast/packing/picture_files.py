"""Reading of picture files that nothing is known about, and the reasons why a picture is rejected."""

import errno
import os

MAX_FILE_BYTES = 64 << 20
AT_ONCE = 1 << 16  # bytes: more than most pictures of faces have
NO_FILE = (errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG)  # a folder, a socket, a name that no file can have


class Rejected(ValueError):
    """This picture cannot be packed; the message is the reason that goes to ``quarantine.jsonl``."""


class Unreadable(Rejected):
    """The system could not read the file: no rights, a failing disk, a lost mount, a link that leads nowhere.

    That says nothing about the picture, so the next pack tries it again.
    """


def read_named(path: str) -> bytes:
    """A picture that a pair list names, as :func:`read_file`.

    A name that leads to nothing is a mistake of the list; the listing notices when the file appears.
    """
    try:
        return read_file(path)
    except Unreadable as reason:
        assert isinstance(reason.__cause__, OSError)
        if reason.__cause__.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.islink(path):
            raise Rejected(str(reason)) from reason
        raise


def read_file(path: str) -> bytes:
    """The whole file.

    Raises:
        Unreadable: the system does not let it be read.
        Rejected: it is no picture by its length, or no file at all.
    """
    try:
        # O_NONBLOCK: a named pipe among the pictures must not hang the packer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            data = os.read(descriptor, AT_ONCE)
            # A second read, which finds the end of a small file, takes a third of the time of asking for its size.
            if data and (more := os.read(descriptor, AT_ONCE)):
                data += more + _rest(descriptor, len(data) + len(more))
        finally:
            os.close(descriptor)
    except OSError as error:
        kind = Rejected if error.errno in NO_FILE else Unreadable
        raise kind(f"cannot be read: {error.strerror}") from error
    if not data:
        raise Rejected("the file is empty")
    return data


def _rest(descriptor: int, done: int) -> bytes:
    """What an open file holds behind its first ``done`` bytes, read already. Raises Rejected where it is too large."""
    size = os.fstat(descriptor).st_size
    if size > MAX_FILE_BYTES:
        raise Rejected(f"the file has {size} bytes, more than {MAX_FILE_BYTES}")
    rest = b""
    while done + len(rest) < size and (more := os.read(descriptor, size - done - len(rest))):
        rest += more
    return rest


def all_readable(folder: str | os.PathLike[str]) -> bool:
    """Whether the system lets us list all of ``folder`` and begin to read every file in it, whatever it holds."""
    failed: list[OSError] = []
    for place, _, names in os.walk(folder, onerror=failed.append):
        for name in names:
            try:
                with open(os.path.join(place, name), "rb") as file:
                    file.read(1)
            except OSError as error:
                failed.append(error)
    return not failed
