"""Batch memory is used again, but never while anybody still reads it."""

import pytest
import torch

from hrfr_fast.engines.pixels import BatchMemory, to_model_input


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
