"""Kills at the paper's size: a pack of 1,000,000 + 10,000 faces, and a training of one epoch on them.

Both are killed as ``fault_groups.py`` has it; ``--resume`` for a training with a checkpoint.
"""

import json
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from fault_cases import Inputs, cases
from fault_groups import Command, kill_often

from hrfr_fast.format import manifest
from hrfr_fast.format.names import SPLITS
from hrfr_fast.packing.journal import candidates_done
from hrfr_fast.regimes import Regime
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.state import STATE_FILE

COMMAND = (sys.executable, "-m", "hrfr_fast")
PEOPLE = {"lowres": (500, 20), "highres": (125, 4)}
"""People who are drawn, and pictures of each; all others are theirs, shifted."""


def scale(
    folder: Path, faces: int, kills: int, seed: int, only: list[str], say: Callable[[str], object]
) -> dict[str, Any]:
    """Pack and train on ``faces`` faces of 36 px and a hundredth as many of 144 px, each ``kills`` times killed; or
    ``only`` one of them, the training on what was packed before."""
    tree, packed = folder / "tree", folder / "pack" / "whole"
    make_tree(tree, faces)
    say(f"{faces:,} faces are made")
    found = {}
    for command in (pack_command(tree), train_command(folder, packed)):
        if command.name not in (only or [command.name]):
            continue
        place = folder / command.name
        place.mkdir(exist_ok=True)
        found[command.name] = asdict(kill_often(command, place, kills, random.Random(f"{seed} {command.name}"), say))
        say(json.dumps(found[command.name]))
    return found


# ---- the faces -----------------------------------------------------------------------------------------------------


def make_tree(tree: Path, faces: int) -> None:
    """A data tree of JPEG files whose pixels all differ; what exists is kept.

    Test pairs and their people are those of ``synth --scale small``. People of the training splits are drawn as synth
    draws them, then shifted by some pixels to make more people of them: drawing a million would take a quarter of an
    hour.
    """
    from hrfr_fast.synthetic.data_tree import synthesize
    from hrfr_fast.synthetic.scales import SCALES

    if (tree / "made").exists():
        return
    synthesize(tree, "small", workers=1, show_progress=False)
    for split, spec in SCALES["small"].splits().items():
        if split in PEOPLE:
            shutil.rmtree(tree / split)
            wanted = faces if split == "lowres" else faces // 100
            _make_split(tree / split, spec.number, spec.size, wanted, *PEOPLE[split])
    (tree / "made").touch()


def _make_split(folder: Path, number: int, size: int, faces: int, people: int, pictures: int) -> None:
    """``faces`` files in folders of ``pictures``."""
    import simplejpeg

    from hrfr_fast.synthetic.faces import render

    shifts = [(down, right) for down in range(-5, 5) for right in range(-5, 5)]
    wanted = faces // pictures
    assert 0 < wanted <= people * len(shifts), f"{faces} faces are not a number that can be made of {people} people"
    for person in range(min(people, wanted)):
        drawn, _ = render(0, number, person, np.arange(pictures), size)
        for name, shift in zip(range(person, wanted, people), shifts, strict=False):
            identity = folder / f"{folder.name[0]}{name:06d}"
            identity.mkdir(parents=True)
            for picture, pixels in enumerate(np.roll(drawn, shift, (1, 2))):
                content = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 85, "RGB", "420")
                (identity / f"{picture:03d}.jpg").write_bytes(content)


# ---- the commands --------------------------------------------------------------------------------------------------


def pack_command(tree: Path) -> Command:
    """``pack`` with two workers, and validation pairs of 20 people of each split."""
    arguments = [*COMMAND, "pack", str(tree), "--workers", "2", "--dev-identities", "20", "--out"]
    result = cases(Inputs.below(tree.parent))["pack"].result
    return Command("pack", lambda out: [*arguments, str(out)], packed_so_far, result)


def packed_so_far(out: Path) -> int:
    """Candidates that the next pack does not decode again."""
    work, done = out / manifest.WORK, 0
    finished = {path.name.split(".")[0]: path for path in work.glob("*.done.json")}
    for path in finished.values():
        with suppress(OSError):  # it is the output by now
            done += json.loads(path.read_bytes())["entry"]["source"]["candidates"]
    going = {path.name.split(".")[0] for path in work.glob("*.journal")} - finished.keys()
    return done + sum(candidates_done(work, name) for name in going)


def train_command(folder: Path, packed: Path) -> Command:
    """One epoch of both splits at 32 px through the smallest network, with a head over all identities of which a step
    compares a tenth; it verifies four times and saves every three seconds."""
    regime, config = folder / "regime.toml", folder / "train.toml"
    Regime(name="highlow32", sources=SPLITS[:2], input_size=32).save(regime)
    TrainSettings(
        regime=str(regime), data=str(packed), epochs=1.0, batch_size=512, width=8, embedding_size=16, partial_fc=0.1,
        dropout=0.2, device="cpu", precision="fp32", eval_every=0.25, save_minutes=0.05, log_every=1,
    ).save(config)  # fmt: skip

    def arguments(out: Path) -> list[str]:
        begun = (out / "checkpoints" / STATE_FILE).exists()
        return [*COMMAND, "train", "--out", str(out), *(["--resume"] if begun else ["--config", str(config)])]

    return Command("train", arguments, trained_so_far, cases(Inputs.below(folder))["train"].result)


def trained_so_far(run: Path) -> int:
    """Steps in the run's last checkpoint."""
    from hrfr_fast.model.checkpoint import load_state
    from hrfr_fast.runtime.device import choose_compute

    path = run / "checkpoints" / STATE_FILE
    return load_state(path, choose_compute("cpu", "fp32").device)["step"] if path.exists() else 0
