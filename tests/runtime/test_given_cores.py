"""Cores that a piece of work is given: its threads, and only its."""

import cv2
import numba
import pytest
import torch

from hrfr_fast.runtime.system import cores, given_cores


def threads() -> tuple[int, int, int, int]:
    return cores(), torch.get_num_threads(), numba.get_num_threads(), cv2.getNumThreads()


def test_all_libraries_compute_with_the_threads_they_are_given():
    before = threads()
    with pytest.raises(ZeroDivisionError), given_cores(1):
        assert threads() == (1, 1, 1, 1)
        with given_cores(0):
            assert threads() == (1, 1, 1, 1), "0 changes nothing"
        raise ZeroDivisionError
    assert threads() == before
