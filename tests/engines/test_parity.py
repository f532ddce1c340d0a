"""Every engine gives the same batches: labels exactly, pixels within 1.5 of the float64 reference."""

from functools import cache

import numpy as np
import pytest
import torch
from engine_cases import DEVICES, ENGINES, EVERYTHING, STILL, build, stream_over
from reference import execute

from hrfr_fast.settings import AugmentSettings

CASES = {
    "36->144": (("lowres",), 144),
    "36->32": (("lowres",), 32),
    "144->32": (("highres",), 32),
    "144->144": (("highres",), 144),
    "highlow144": (("lowres", "highres"), 144),
}
# Largest and mean difference. JPEG is compared with the exact DCT, which simplejpeg and DALI on a CPU compute
# equally; FFCV's fast one was measured to be off by up to 7, 1.1 on average, before contrast and resampling
# magnify that. For nvJPEG, which decodes for DALI on a GPU, it is reckoned and not measured: DALI's own tests hold it
# within a level of a CPU's decoder on average; a level in each of Y, Cb and Cr makes 2.8 of blue, and contrast and
# saturation up to 1.3 * 1.5 times as much.
TOLERANCE = {"raw": (1.5, 0.3), "jpeg": (1.5, 0.3), "ffcv jpeg": (16.0, 1.5), "nvjpeg": (8.0, 2.0)}
BATCH = 16
RESUME = 5 * BATCH  # mid-epoch in the second epoch of the single splits, in the first of the mixed one


@pytest.fixture(scope="module")
def expected(shards):
    """(case, encoding, augment) -> the stream and its reference pictures from RESUME on, float64, made once for all."""

    @cache
    def make(case, encoding, augment):
        names, size = CASES[case]
        stream = stream_over([shards[one, encoding] for one in names], size, augment, BATCH)
        pictures = np.empty((2, BATCH, size, size, 3))
        for number, batch in enumerate(pictures):
            for part in stream.batch_spec(RESUME + number * BATCH).parts:
                for row, picture in enumerate(part.split.read(part.records)):
                    batch[part.rows[row]] = execute(picture, part.augmentation, row, size)
        return stream, pictures

    return make


def tolerance(name, encoding, device):
    if encoding == "jpeg" and name == "ffcv":
        return TOLERANCE["ffcv jpeg"]
    return TOLERANCE["nvjpeg" if (name, encoding, device) == ("dali", "jpeg", "cuda") else encoding]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("device", DEVICES)
def test_engine_gives_the_reference_batches(expected, device, name, encoding, case):
    largest, mean = tolerance(name, encoding, device)
    for augment in (STILL, EVERYTHING):
        stream, pictures = expected(case, encoding, augment)
        with build(name, stream, device=device) as engine:
            batches = list(engine.batches(RESUME, RESUME + 2 * BATCH))
        assert [batch.start for batch in batches] == [RESUME, RESUME + BATCH]
        for batch in batches:
            assert batch.labels.tolist() == stream.batch_spec(batch.start).labels.tolist()
            assert batch.images.dtype == torch.uint8 and batch.images.device.type == batch.labels.device.type == device
        found = torch.stack([batch.images for batch in batches]).permute(0, 1, 3, 4, 2)
        error = np.abs(found.cpu().numpy() - pictures)
        assert error.max() <= largest and error.mean() < mean, (error.max(), error.mean())


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_float_batches_are_normalised_channels_last(shards, device, name, dtype):
    splits = [shards["lowres", "raw"], shards["highres", "raw"]]
    stream = stream_over(splits, 32, AugmentSettings())
    with build(name, stream, dtype, device=device) as engine, build("resident", stream) as plain:
        batch, pixels = next(engine.batches(24, 48)), next(plain.batches(24, 48))
    assert batch.images.dtype == dtype and batch.images.is_contiguous(memory_format=torch.channels_last)
    found = batch.images.cpu().double() * 127.5 + 127.5
    assert (found - pixels.images).abs().max() < 1.5


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("device", DEVICES)
def test_slices_of_the_ranks_make_the_whole(shards, device, name, encoding):
    splits = [shards["lowres", encoding], shards["highres", encoding]]
    with build(name, stream_over(splits, 32, EVERYTHING), device=device) as engine:
        whole = list(engine.batches(0, 48))
    slices = []
    for rank in range(3):
        with build(name, stream_over(splits, 32, EVERYTHING, rank=rank, ranks=3), device=device) as engine:
            slices.append(list(engine.batches(0, 48)))
    for number, batch in enumerate(whole):
        assert torch.cat([part[number].labels for part in slices]).equal(batch.labels)
        images = torch.cat([part[number].images for part in slices])
        # Matrix products over fewer pictures may round differently: a level at most.
        assert (images.int() - batch.images.int()).abs().max() <= (1 if name == "resident-torch" else 0)
