"""A picture that one worker does not get done with is named while it hangs; quick ones are not."""

import threading
import time
from pathlib import Path

import pytest
from picture_trees import jpeg, picture

from hrfr_fast.packing import chunks
from hrfr_fast.packing.decode import Target
from hrfr_fast.packing.slow_pictures import watched_chunks
from hrfr_fast.packing.sources.candidates import Candidates

pytest.importorskip("simplejpeg")


class Faces(Candidates):
    """Five pictures, of which number ``slow`` is not read before it is let go."""

    def __init__(self, slow=None):
        super().__init__("faces", Path("faces"), 32, 5, "", "")
        self.slow, self.go_on = slow, threading.Event()

    def paths(self, first, last):
        return [f"ann/{number}.jpg" for number in range(first, last)]

    def readers(self, first, last):
        return [lambda number=number: self.read(number) for number in range(first, last)]

    def read(self, number):
        if number == self.slow:
            assert self.go_on.wait(30), "nobody was told"
        return jpeg(picture(number, 32))

    def listing_lines(self):
        return iter(())


def told_of(faces):
    said = []

    def say(message):
        said.append(message)
        faces.go_on.set()

    found = list(watched_chunks(faces, [(0, 3), (3, 5)], Target(32), say, patience=0.2))
    assert [chunk.kept for chunk in found] == [[0, 1, 2], [0, 1]]
    return said


def test_the_picture_in_work_is_named_and_packing_goes_on_when_it_comes():
    (said,) = told_of(Faces(slow=4))
    assert "faces/ann/4.jpg has been in work for" in said and "kill -9" in said


def test_many_quick_pictures_are_not_told_of_however_long_all_take():
    class Steady(Faces):
        def read(self, number):
            time.sleep(0.1)
            return super().read(number)

    assert told_of(Steady()) == []


def test_sources_that_decode_many_at_once_name_the_first_and_the_last():
    class Together(Faces):
        in_workers = False

        def chunk(self, first, last, target):
            return chunks.decode_chunk(self.readers(first, last), target, False)

    (said,) = told_of(Together(slow=1))
    assert "one of faces/ann/0.jpg to faces/ann/2.jpg" in said


def test_the_thread_ends_with_the_chunks_and_when_they_are_left():
    faces = Faces()
    left = watched_chunks(faces, [(0, 3), (3, 5)], Target(32))
    assert len(next(left).kept) == 3
    assert any(thread.name == "hrfr-slow-pictures" for thread in threading.enumerate())
    left.close()
    assert not any(thread.name == "hrfr-slow-pictures" for thread in threading.enumerate())
