"""What torch.load does not look at in a file of torch.save: that its parts are what was written.

The file is a zip, whose parts have checksums. torch compares none, and believes the zip's directory, which has none of
its own: where that calls a tensor compressed or a folder, torch can return other bytes or memory nobody has written.
"""

import os
import zipfile
from pathlib import Path

ZIP = b"PK\x03\x04"
_FOLDER = 0x10  # of a zip's external attributes, after MS-DOS


def is_zip(path: Path) -> bool:
    """Whether the file of torch.save is a zip, as torch sees it; PyTorch before 1.6 wrote others."""
    with open(path, "rb") as file:
        return file.read(len(ZIP)) == ZIP


def check_parts(path: Path) -> None:
    """Raise ValueError, or one of zipfile's many errors, where the zip ``path`` is not what torch.save wrote.

    Where all checksums are 0 none was written (``torch.serialization.set_crc32_options(False)``), and none is compared.
    """
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
        for part in parts:
            if part.compress_type != zipfile.ZIP_STORED or part.compress_size != part.file_size:
                raise ValueError(f"{part.filename} is not stored as it was written")
            if part.external_attr & _FOLDER:
                raise ValueError(f"{part.filename} is marked as a folder, which torch fills with whatever is in memory")
        if sum(part.file_size for part in parts) > os.path.getsize(path):
            raise ValueError("its parts are larger than the file")
        if any(part.CRC for part in parts) and (damaged := file.testzip()):
            raise ValueError(f"{damaged} does not match its checksum")
