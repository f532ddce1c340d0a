"""The check that every test runs under sees what a test leaves behind."""

import logging
import os
import signal
import subprocess
import threading

import cv2
import numba
import numpy as np
import pytest
import torch
from process_state import changes, process_state, seed_everything

LEFT = {
    "environment": lambda patch: patch.setenv("LEFT_BY_A_TEST", "1"),
    "working directory": lambda patch: patch.chdir("/"),
    "umask": lambda patch: os.umask(0o077),
    "signal handlers": lambda patch: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "logging": lambda patch: logging.disable(logging.INFO),
    "torch's threads": lambda patch: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's settings": lambda patch: torch.set_default_dtype(torch.float64),
    "OpenCV's threads": lambda patch: cv2.setNumThreads(cv2.getNumThreads() + 1),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_is_named(name, monkeypatch):
    before = process_state()
    try:
        LEFT[name](monkeypatch)
        found = changes(before, patience=0)
    finally:
        put_back(before)
        monkeypatch.undo()
    assert len(found) == 1 and found[0].startswith(f"{name}: "), found
    assert not changes(before)


def put_back(before):
    os.umask(before["umask"])
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    logging.disable(before["logging"]["disabled"])
    torch.set_num_threads(before["torch's threads"])
    torch.set_default_dtype(before["torch's settings"]["dtype"])
    cv2.setNumThreads(before["OpenCV's threads"])


def test_threads_processes_and_files_are_seen(tmp_path):
    before, end = process_state(), threading.Event()
    thread = threading.Thread(target=end.wait, name="left-behind")
    thread.start()
    child = subprocess.Popen(["sleep", "60"])
    file = (tmp_path / "left.txt").open("w")
    try:
        found = "\n".join(changes(before, patience=0))
    finally:
        end.set(), thread.join(), child.kill(), child.wait(), file.close()
    assert "left-behind" in found and str(child.pid) in found and "left.txt" in found
    assert not changes(before)


def test_numba_is_asked_only_where_its_threads_run():
    assert 1 <= process_state()["numba's threads"] <= numba.config.NUMBA_NUM_THREADS


def test_every_test_draws_the_same_numbers():
    drawn = []
    for _ in range(2):
        seed_everything()
        drawn.append((np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]
