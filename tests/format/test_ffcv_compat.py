"""Stock FFCV opens what we pack, and sees the same labels and pixels."""

import numpy as np
import pytest

from hrfr_fast.engines.ffcv import thread_counts_kept
from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.pack import pack


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_ffcv_reads_our_shards(tree, tmp_path, encoding):
    with thread_counts_kept():
        read_with_ffcv(tree, tmp_path, encoding)


def read_with_ffcv(tree, tmp_path, encoding):
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    (tree / "lowres/l003/2.jpg").write_bytes(b"broken")  # leaves room in the metadata region
    pack(tree, tmp_path / "out", encoding=encoding, workers=1, show_progress=False)
    for name, split in open_packed(tmp_path / "out").splits.items():
        pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
        loader = Loader(
            str(split.path), 7, num_workers=1, os_cache=True, drop_last=False,
            order=OrderOption.SEQUENTIAL, pipelines=pipelines,
        )  # fmt: skip
        batches = [(images.copy(), labels.copy()) for images, labels in loader]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        assert labels.ravel().tolist() == split.labels.tolist(), name
        assert images.shape == (split.samples, split.size, split.size, 3)
        difference = np.abs(images.astype(int) - split.read(np.arange(split.samples)))
        # FFCV asks libjpeg-turbo for its fast, less exact DCT: 5 levels were seen.
        assert difference.max() <= (0 if encoding == "raw" else 10) and difference.mean() < 1.5, name
