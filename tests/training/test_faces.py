"""An ordinary set of one resolution: packed from a folder, trained, verified on people that were held out of it."""

import cv2
import numpy as np
import pytest

from hrfr_fast.evaluation.evaluate import evaluate
from hrfr_fast.format import manifest
from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.pack import pack
from hrfr_fast.regimes import ORDINARY
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.trainer import Trainer

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight people with four noise pictures of 48 px each, and a list of test pairs of some of them."""
    root = tmp_path_factory.mktemp("set")
    random = np.random.default_rng(5)
    for i in range(32):
        path = root / "faces" / f"n{i // 4}" / f"{i % 4}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 256, (48, 48, 3), np.uint8))
    (root / "hres_eval_pairs").mkdir()
    places = [f"../faces/n{i // 4}/{i % 4}.png" for i in range(32)]
    pairs = [f"{places[4 * i]},{places[4 * i + step]},{int(step == 1)}" for i in range(7) for step in (1, 4)]
    (root / "hres_eval_pairs/seen.csv").write_text("\n".join(pairs) + "\n")
    return root


def settings_of(regime, data, out):
    return TrainSettings(
        regime=regime, data=str(data), out=str(out), steps=2, batch_size=8, width=8, embedding_size=16, device="cpu",
        head="adaface", eval_every=0, log_every=1,
    )  # fmt: skip


def test_an_ordinary_set_is_trained_and_verified_on_held_out_people(folder, tmp_path):
    pack(folder / "faces", tmp_path / "packed", dev_identities=2, workers=1, show_progress=False, format="folder")
    with Trainer(build(settings_of("faces32", tmp_path / "packed", tmp_path / "run")), False) as trainer:
        trainer.start()
        trainer.loop(StopFlag())
        trainer.save()
    results = evaluate(tmp_path / "run", device="cpu")
    assert list(results) == ["dev-faces"] and results["dev-faces"].verification.pairs == 24
    assert results["dev-faces"].pairs.kind == "development" and not results["dev-faces"].pairs.notes


def test_test_pairs_of_people_in_faces_are_known_as_trained_on(folder, tmp_path):
    pack(folder, tmp_path / "packed", workers=1, show_progress=False)
    seen = open_packed(tmp_path / "packed").pairs["seen"]
    assert seen.overlap == {"faces": 28} and seen.identity_coverage == 1


def test_regimes_for_what_is_packed_are_named_and_told_what_is_missing(folder, tmp_path, tiny_packed, capsys):
    pack(folder / "faces", tmp_path / "packed", workers=1, show_progress=False, format="folder")
    with pytest.raises(UsageError, match="there is faces: choose --regime faces112 or faces32"):
        build(settings_of("highlow144", tmp_path / "packed", tmp_path / "run"))
    with pytest.raises(UsageError, match="faces112 is trained on faces, which is not packed there; there is lowres"):
        build(settings_of("faces112", tiny_packed, tmp_path / "run"))
    content = manifest.read(tmp_path / "packed")
    content["splits"]["faces"]["source"]["unreadable"] = 2
    manifest.write(tmp_path / "packed", content)
    for regime in ORDINARY:
        with Trainer(build(settings_of(regime.name, tmp_path / "packed", tmp_path / regime.name)), False) as trainer:
            trainer.start()
            assert "is incomplete: 2 files could not be read" in " ".join(capsys.readouterr().err.split())
            batch = next(iter(trainer.setup.engine.batches(0, 8)))
            assert tuple(batch.images.shape) == (8, 3, regime.input_size, regime.input_size)
