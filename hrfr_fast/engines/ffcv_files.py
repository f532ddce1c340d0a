"""A split of several files as one dataset of FFCV, whose Loader opens one file."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hrfr_fast.format import beton
from hrfr_fast.format.reader import Split


@contextmanager
def tables_of_all_files(split: Split) -> Iterator[None]:
    """A context in which a Loader of the first file of ``split`` takes the tables of all its files.

    The places in them are places in ``split.data``, where the files lie one after the other. A Loader a file would
    need its own threads and ring of buffers for each.
    """
    from ffcv.loader import loader

    if len(split.parts) == 1:
        yield
        return
    reader = loader.Reader

    class AllFiles(reader):  # type: ignore[misc,valid-type]
        """Reader of the first file, with the records of all."""

        def read_metadata(self) -> None:
            self.num_samples = split.samples
            self.metadata = np.zeros(split.samples, self.metadata_type)
            image, label = (self.metadata[name] for name in self.metadata_type.names)
            image["mode"], image["data_ptr"] = split.modes, split.offsets
            image["width"] = image["height"] = split.size
            label[...] = split.labels
            self.metadata.setflags(write=False)

        def read_allocation_table(self) -> None:
            self.alloc_table = np.zeros(split.samples, beton.ALLOCATION)
            self.alloc_table["sample_id"] = np.arange(split.samples)
            self.alloc_table["ptr"], self.alloc_table["size"] = split.offsets, split.lengths

    loader.Reader = AllFiles
    try:
        yield
    finally:
        loader.Reader = reader
