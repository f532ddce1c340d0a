"""The choice of a degradation that a network cannot tell from native low resolution."""

import shutil
import tomllib

import numpy as np
import pytest
import torch

from hrfr_fast.analysis.degradation_candidates import neighbour, random_candidate
from hrfr_fast.analysis.degradation_faces import Auc, development_faces, probe_auc
from hrfr_fast.analysis.degradation_match import REST, MatchedDegradation, _halved, _search, match_degradation
from hrfr_fast.analysis.models import Model
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.checkpoint import save_weights
from hrfr_fast.regimes import regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.sampling.degradation import NativeView
from hrfr_fast.settings import DegradationSettings, TrainSettings

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def packed_with_development(tmp_path_factory):
    from hrfr_fast.packing.pack import pack
    from hrfr_fast.synthetic.data_tree import synthesize

    for library in ("simplejpeg", "bcolz"):
        pytest.importorskip(library)
    root = tmp_path_factory.mktemp("development")
    synthesize(root / "data", "tiny", workers=1, show_progress=False)
    # The tiny tree has too few people of high resolution to hold eight of them out.
    for person in sorted((root / "data" / "highres_eval").iterdir()):
        shutil.copytree(person, root / "data" / "highres" / f"more-{person.name}")
    pack(root / "data", root / "packed", dev_identities=8, workers=1, show_progress=False)
    return root / "packed"


@pytest.fixture(scope="module")
def run(packed_with_development, tmp_path_factory):
    """A run directory with an untrained network, which sees resolution as well as any."""
    path = tmp_path_factory.mktemp("runs") / "run"
    backbone = {"input_size": 48, "width": 8, "embedding_size": 16, "dropout": 0.0}
    torch.manual_seed(0)
    network = build_backbone(BackboneSettings(**backbone)).eval()
    (path / "checkpoints").mkdir(parents=True)
    data = {"path": str(packed_with_development), "digest": open_packed(packed_with_development).digest}
    metadata = {"regime": "highlow144", "backbone": backbone, "data": data}
    save_weights(path / "checkpoints" / "last.safetensors", network, torch.nn.Identity(), metadata)
    (path / "settings.toml").write_text("degrade_min = 20\ndegrade_max = 24\n")
    return path


def test_it_writes_settings_with_their_evidence_and_the_same_again(packed_with_development, run, tmp_path):
    out, options = tmp_path / "matched.toml", {"candidates": 2, "neighbours": 1, "show_progress": False}
    matched = match_degradation(packed_with_development, run, out=out, **options)
    assert match_degradation(packed_with_development, run, **options) == matched
    assert TrainSettings(degradation=str(out)).degradation == matched.settings
    evidence = tomllib.loads(out.read_text())["evidence"]
    assert evidence["candidates"] == 3 and set(evidence["searched"]) == {"downsampling", "published", "matched", REST}
    for half in (matched.searched, matched.held_out):
        assert all(0 <= auc.mean <= 1 and auc.error >= 0 for auc in half.values())
    assert matched.searched["matched"].distance <= matched.searched["published"].distance + 1e-9


def test_a_search_shows_many_candidates_few_pictures_and_few_all():
    """Nine candidates a third of the pictures, the best three all of them; the published ranges are never dropped."""
    seen = []

    class Half:
        def auc(self, view, share=1.0, stage="chosen"):
            seen.append(share)
            return Auc(0.5 + view.settings.noise_max / 100, 0.01)

    pool = [DegradationSettings(noise_max=float(number)) for number in (9, 3, 8, 5, 1, 7, 2, 6, 4)]
    found = _halved(Half(), pool, "random")
    assert seen == pytest.approx([1 / 3] * 9 + [1.0] * 3) and [one.noise_max for _, one in found] == [1, 2, 3]
    nearest = _search(Half(), 0.25, 9, 3, 0)
    assert nearest.noise_max <= DegradationSettings().noise_max and nearest == _search(Half(), 0.25, 9, 3, 0)


def test_a_regime_of_ones_own_says_what_it_degrades_to(tmp_path):
    """The copy in the run directory counts; without one, the built-in regime of the name in the settings."""
    kept, other = (tmp_path / name / "checkpoints" / "last.safetensors" for name in ("kept", "other"))
    kept.parent.mkdir(parents=True)
    regime_named("matched-views").replaced(name="mine").save(tmp_path / "kept" / "regime.toml")
    known = {"regime": "somewhere/mine.toml", "degrade_min": 28, "degrade_max": 44}
    assert Model("mine", kept, {}, known).degraded_to(56, 144) is True
    assert Model("plain", other, {}, known).degraded_to(56, 144) is False
    assert Model("built in", other, {}, known | {"regime": "matched-views"}).degraded_to(56, 144) is True


def test_what_no_degradation_takes_away_is_the_measure_of_the_rest():
    def matched(plain, rest):
        held_out = {"downsampling": Auc(plain, 0.02), REST: Auc(rest, 0.02)}
        return MatchedDegradation(DegradationSettings(), {}, held_out, 2, (10, 10))

    assert matched(0.9, 0.89).nothing_to_match and matched(0.55, 0.5).nothing_to_match
    assert not matched(0.9, 0.6).nothing_to_match


def test_only_development_pictures_are_read(packed_with_development):
    packed = open_packed(packed_with_development)
    native, sharp = (development_faces(packed, split) for split in ("lowres", "highres"))
    assert native.split.path.name == "pairs-dev-lowres.beton" and sharp.split.path.name == "pairs-dev-highres.beton"
    for faces in (native, sharp):
        first, second = faces.halves(0)
        assert len(set(first.identities)) == len(set(second.identities)) == 4
        assert not set(first.identities) & set(second.identities)


def test_data_without_development_identities_are_refused(tiny_packed, run):
    with pytest.raises(UsageError, match="lowres has no development identities.*--dev-identities"):
        match_degradation(tiny_packed, run, show_progress=False)


def test_the_probe_tells_what_differs_and_nothing_else():
    random = np.random.default_rng(0)
    people, others = np.repeat(np.arange(40), 4), np.repeat(np.arange(30), 5)
    same = probe_auc(random.normal(size=(160, 8)), people, random.normal(size=(150, 8)), others, 0)
    apart = probe_auc(random.normal(size=(160, 8)), people, random.normal(1, 1, size=(150, 8)), others, 0)
    assert same.distance < 3 * same.error + 0.05 and 0 < same.error < 0.1 and apart.mean > 0.95


def test_candidates_are_settings_that_can_be_drawn():
    random = np.random.default_rng(1)
    pool = [random_candidate(random, 0.25) for _ in range(200)]
    pool += [neighbour(random, one, 0.25) for one in [*pool[:100], DegradationSettings()]]
    assert len({str(one) for one in pool}) == len(pool)
    assert all(NativeView(one).settings == one and "lanczos" not in one.down for one in pool)
