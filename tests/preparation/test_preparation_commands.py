"""The commands align and derive as a user types them."""

import cv2
import numpy as np
from picture_trees import aligned_set, picture
from typer.testing import CliRunner

from hrfr_fast.cli import app
from hrfr_fast.preparation.align import IncompleteAlignment
from hrfr_fast.runtime.errors import StrictRefusal, UsageError


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_derive(tmp_path):
    source = aligned_set(tmp_path / "source", 48, identities=9)
    (source / "person 01" / "0.png").write_bytes(b"no picture")
    wanted = (source, tmp_path / "data", "--highres", 0, "--eval-size", 36, "--eval-pictures", 5, "--highres-eval", 6)
    done = run("derive", *wanted, "--strict")
    assert isinstance(done.exception, StrictRefusal)
    again = run("derive", *wanted)
    assert again.exit_code == 0 and again.stdout.splitlines()[:4] == [
        "nothing to do: this tree was derived before, with the same settings",
        "lowres: 3 identities, 6 faces, 36 px",
        "highres_eval: 6 identities, 29 faces, 36 px",
        "hres_eval_pairs: 112 pairs, half of them genuine",
    ]
    refused = run("derive", source, tmp_path / "other", "--highres", 2, "--highres-eval", 2, "--lowres", 2)
    assert isinstance(refused.exception, UsageError) and "--allow-upsampling" in str(refused.exception)


def test_align(tmp_path):
    (tmp_path / "photographs").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "photographs" / f"{name}.jpg"), picture(ord(name), 200))
    points = ",".join(map(str, np.array([[70, 80], [130, 80], [100, 110], [75, 140], [125, 140]]).ravel()))
    (tmp_path / "marks.csv").write_text(f"a.jpg,{points}\n", encoding="utf-8")
    wanted = (tmp_path / "photographs", tmp_path / "out", "--landmarks", tmp_path / "marks.csv", "--size", 56)
    done = run("align", *wanted, "--keep-names", "--strict")
    assert isinstance(done.exception, StrictRefusal)
    assert cv2.imread(str(tmp_path / "out" / "a.jpg")).shape == (56, 56, 3)
    again = run("align", *wanted, "--keep-names")
    assert again.exit_code == 0 and again.stdout.splitlines()[:2] == [
        f"1 face aligned (1 of them in an earlier run): {tmp_path / 'out'}",
        f"1 photograph without an aligned face; files and reasons: {tmp_path / 'out' / 'rejected.jsonl'}",
    ]
    (tmp_path / "photographs" / "c.jpg").symlink_to("nowhere")
    incomplete = run("align", *wanted, "--keep-names")
    assert isinstance(incomplete.exception, IncompleteAlignment)
    assert incomplete.stdout.splitlines()[0] == again.stdout.splitlines()[0], "what was done is told before the error"
