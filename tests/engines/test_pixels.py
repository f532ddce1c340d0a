"""Batch memory is used again, but never while anybody still reads it; records decode alike, whatever decodes them."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hrfr_fast.engines.pixels import BatchMemory, fetch, to_model_input
from hrfr_fast.engines.turbojpeg import _is_exact, turbojpeg
from hrfr_fast.format.beton import JPEG, RAW
from hrfr_fast.format.reader import Split
from hrfr_fast.format.writer import SplitWriter
from hrfr_fast.runtime.errors import DamageFound

simplejpeg = pytest.importorskip("simplejpeg")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16])
def test_memory_in_use_is_not_handed_out_again(dtype):
    memory = BatchMemory(dtype)
    held = memory.images(memory.empty(2, 4))
    assert held.dtype == dtype and held.shape == (2, 3, 4, 4)
    assert held.is_contiguous(memory_format=torch.channels_last)
    if dtype == torch.float16:
        return  # converted: a copy of its own
    view = held[1:, :1]
    other = memory.images(memory.empty(2, 4))
    assert other.data_ptr() != held.data_ptr()
    address = held.data_ptr()
    del held
    assert memory.empty(2, 4).ctypes.data not in (address, other.data_ptr()), "a view still holds it"
    del view, other
    assert memory.empty(2, 4).ctypes.data == address
    assert memory.empty(3, 4).shape == (3, 4, 4, 3)


def test_levels_become_the_models_range():
    values = torch.arange(48, dtype=torch.uint8).reshape(1, 4, 4, 3)
    images = to_model_input(values, torch.float32).permute(0, 2, 3, 1)
    torch.testing.assert_close(images, (values - 127.5) / 127.5)


@pytest.fixture
def mixed(tmp_path):
    """A shard of raw and JPEG records; of records 3, 4 and 5 the JPEG is cut, of another size, and no JPEG."""
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (12, 20, 20, 3), dtype=np.uint8)
    writer = SplitWriter(tmp_path / "faces.beton", len(pictures), 20, page_size=1 << 18)
    for number, picture in enumerate(pictures):
        jpeg = simplejpeg.encode_jpeg(picture, 90, "RGB", "420" if number % 2 else "444")
        other = simplejpeg.encode_jpeg(np.zeros((40, 40, 3), np.uint8), 90)
        payload = {3: jpeg[: len(jpeg) // 2], 4: other, 5: b"\xff\xd8" + bytes(30)}.get(number, jpeg)
        writer.append(picture if number > 8 else payload, 0, RAW if number > 8 else JPEG)
    writer.finish()
    return Split("faces", tmp_path / "faces.beton", 20, len(pictures), 1, "mixed")


@pytest.mark.parametrize("compiled", [True, False])
def test_both_decoders_give_the_readers_pixels_and_its_errors(mixed, monkeypatch, compiled):
    if compiled and turbojpeg() is None:
        pytest.skip("needs libturbojpeg")
    whole = np.array([11, 0, 6, 1, 9, 2, 7] * 10)  # more than one task of either decoder
    with ThreadPoolExecutor(2) as threads:
        if not compiled:
            monkeypatch.setattr("hrfr_fast.engines.pixels.turbojpeg", lambda: None)
            monkeypatch.setattr("hrfr_fast.engines.pixels._decoders", lambda: threads)
        assert np.array_equal(fetch(mixed, whole), mixed.read(whole))
        for broken, reason in ((3, "record 3: "), (4, "record 4: it is 40x40"), (5, "record 5: ")):
            with pytest.raises(DamageFound, match=f"faces.beton: {reason}"):
                fetch(mixed, np.array([0, broken, 1]))


def test_a_thread_leaves_numbas_own_threads_to_the_main_one(mixed, monkeypatch):
    """Two callers at once would end the process: DALI's thread decodes while the main one resamples for a test."""
    whole = np.array([11, 0, 6])
    monkeypatch.setattr("numba.threading_layer", lambda: "workqueue")
    monkeypatch.setattr("hrfr_fast.engines.pixels._decode_compiled", None)  # to be called by nobody
    with ThreadPoolExecutor(1) as threads:
        assert np.array_equal(threads.submit(fetch, mixed, whole).result(), mixed.read(whole))


@pytest.mark.parametrize("colours", ["grey", "progressive"])
def test_other_kinds_of_jpeg_decode_alike(tmp_path, colours):
    cv2 = pytest.importorskip("cv2")
    picture = np.random.default_rng(2).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    jpeg = cv2.imencode(".jpg", picture[..., 0] if colours == "grey" else picture, options)[1].tobytes()
    writer = SplitWriter(tmp_path / "faces.beton", 1, 20, page_size=1 << 18)
    writer.append(jpeg, 0, JPEG)
    writer.finish()
    split = Split("faces", tmp_path / "faces.beton", 20, 1, 1, "jpeg")
    assert np.array_equal(fetch(split, np.array([0])), split.read(0))


def test_a_library_with_other_pixels_or_without_checks_is_not_used(monkeypatch):
    if (found := turbojpeg()) is None:
        pytest.skip("needs libturbojpeg")
    library = ctypes.CDLL(found.library)
    assert _is_exact(library)
    decode = library.tjDecompress2

    def fast(*arguments):  # the flag of the fast DCT
        return decode(*arguments[:-1], 2048)

    def careless(*arguments):
        return decode(*arguments) and 0

    for other in (fast, careless):
        wrong = SimpleNamespace(
            tjInitDecompress=library.tjInitDecompress, tjDestroy=library.tjDestroy, tjDecompress2=other
        )
        assert not _is_exact(wrong)
