"""Search in a gallery: exact and the same by every backend, and files of embeddings that do not belong together."""

import numpy as np
import pytest
from model_cases import linear_onnx

from hrfr_fast.deployment import nearest as nearest_module
from hrfr_fast.deployment.embed import embed
from hrfr_fast.deployment.embeddings_file import read_embeddings
from hrfr_fast.deployment.nearest import nearest
from hrfr_fast.deployment.search import search
from hrfr_fast.evaluation.onnx_embedder import OnnxFlags
from hrfr_fast.runtime.errors import UsageError

cv2 = pytest.importorskip("cv2")
HALF = OnnxFlags(normalisation="0.5")
BACKENDS = [
    "numpy",
    pytest.param("faiss", marks=pytest.mark.skipif(not nearest_module.find_spec("faiss"), reason="no faiss")),
]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_hand(probes, gallery, count):
    """Rows by falling cosine in float64, equal ones in the gallery's order."""
    cosines = np.round(probes.astype(np.float64) @ gallery.astype(np.float64).T, 12)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :count]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["random", "equal rows", "nearly equal rows", "few rows"])
def test_the_nearest_are_those_of_a_whole_sort(backend, kind, monkeypatch):
    monkeypatch.setattr(nearest_module, "GALLERY", 64)
    monkeypatch.setattr(nearest_module, "PROBES", 7)
    generator = np.random.default_rng(5)
    gallery = unit(generator.normal(size=(3 if kind == "few rows" else 300, 16)))
    if kind == "equal rows":
        gallery = gallery[generator.integers(0, 6, 300)]
    if kind == "nearly equal rows":
        gallery = unit(gallery[:1] + 1e-6 * generator.normal(size=(300, 16)))
    probes = unit(generator.normal(size=(20, 16)))
    count = min(5, len(gallery))
    rows, cosines = nearest(probes, gallery, count, backend=backend)
    np.testing.assert_array_equal(rows, by_hand(probes, gallery, count))
    np.testing.assert_allclose(cosines, np.take_along_axis(probes @ gallery.T, rows, axis=1), atol=1e-6)


@pytest.fixture
def place(tmp_path):
    """A model, and folders ``gallery`` and ``probes`` whose pictures 1 and 3 are equal."""
    linear_onnx(tmp_path / "m.onnx")
    generator = np.random.default_rng(1)
    for number in range(5):
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        for folder in ("gallery", *(["probes"] if number in (1, 3) else [])):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), pixels)
    return tmp_path


def run(place, gallery, probes, **more):
    return search(place / "m.onnx", gallery, probes, device="cpu", flags=HALF, show_progress=False, **more)


def test_a_picture_finds_itself(place):
    result = run(place, place / "gallery", place / "probes", top=2)
    first = [match for match in result.matches() if match[1] == 1]
    assert [(probe[-5:], name[-5:]) for probe, _, name, _ in first] == [("1.png", "1.png"), ("3.png", "3.png")]
    assert all(abs(cosine - 1) < 1e-6 for *_, cosine in first)
    assert [len(matches) for matches in result.to_json().values()] == [2, 2]


def test_files_of_embeddings_give_what_their_pictures_give(place, capsys):
    for folder in ("gallery", "probes"):
        embed(
            place / "m.onnx", [place / folder], place / f"{folder}.npz", device="cpu", flags=HALF, show_progress=False
        )
    from_files = run(place, place / "gallery.npz", place / "probes.npz", top=9)
    from_pictures = run(place, place / "gallery", place / "probes", top=9)
    np.testing.assert_array_equal(from_files.rows, from_pictures.rows)
    assert from_files.rows.shape == (2, 5) and "warning" not in capsys.readouterr().err


def test_embeddings_of_another_model_are_refused_or_told(place, capsys):
    linear_onnx(place / "other.onnx", dimension=7)
    linear_onnx(place / "like.onnx", metadata={"any": "thing"})
    for name in ("other", "like"):
        embed(place / f"{name}.onnx", [place / "gallery"], place / f"{name}.npz", device="cpu", flags=HALF,
              show_progress=False)  # fmt: skip
    with pytest.raises(UsageError, match="other.npz holds embeddings of 7 numbers, m makes 5"):
        run(place, place / "other.npz", place / "probes")
    run(place, place / "like.npz", place / "probes")
    assert "the cosines mean nothing" in " ".join(capsys.readouterr().err.split())


def npz(path, **arrays):
    np.savez(path, **arrays)


GOOD = {"embeddings": np.ones((2, 5), np.float32), "names": np.array(["a", "b"]), "about": np.array("{}")}


@pytest.mark.parametrize(
    "write,message",
    [
        (lambda path: path.write_bytes(b"PK broken"), "not a file of embeddings"),
        (lambda path: npz(path, other=np.ones(3)), "not a file of embeddings"),
        (lambda path: np.savez_compressed(path, **GOOD), "compressed"),
        (lambda path: npz(path, **{**GOOD, "names": np.array(["a", None], object)}), "not a file of embeddings"),
        (lambda path: npz(path, **{**GOOD, "names": np.array(["a"])}), "1 names for embeddings of shape"),
        (lambda path: npz(path, **{**GOOD, "embeddings": np.full((2, 5), np.nan, np.float32)}), "not finite"),
        (lambda path: npz(path, **{**GOOD, "about": np.array("[]")}), "no JSON object"),
    ],
)  # fmt: skip
def test_damaged_files_of_embeddings_are_told(tmp_path, write, message):
    write(tmp_path / "e.npz")
    with pytest.raises(UsageError, match=message):
        read_embeddings(tmp_path / "e.npz")


def test_a_header_that_promises_more_than_the_file_holds_allocates_nothing(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive, archive.open("embeddings.npy", "w") as member:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 512)}
        np.lib.format.write_array_header_2_0(member, header)
    with pytest.raises(UsageError, match="1099511627776"):
        read_embeddings(tmp_path / "e.npz")
