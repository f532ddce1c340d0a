"""``hrfr-fast compare-faces``: are these two pictures of one person?"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.deployment.pictures import PictureFiles, framed_batch
from hrfr_fast.deployment.run_thresholds import RunThresholds, thresholds_of
from hrfr_fast.evaluation.embedder import embed_resampled, open_embedder
from hrfr_fast.evaluation.onnx_embedder import OnnxFlags
from hrfr_fast.evaluation.thresholds import Threshold
from hrfr_fast.runtime.errors import UsageError

FAR = 0.01


@dataclass(frozen=True)
class FaceComparison:
    """The similarity of two faces, and the decision at a threshold where one is known.

    Attributes:
        cosine: of the two embeddings.
        threshold: at the false accept rate that was asked for; None where the model has not been evaluated.
        pairs: which pairs the threshold comes from, in words.
        resampled: the pictures' sizes where they are not the model's.
    """

    cosine: float
    threshold: Threshold | None
    pairs: str
    resampled: tuple[str, ...] = ()

    @property
    def same(self) -> bool | None:
        """The decision; None without a threshold."""
        return None if self.threshold is None else self.cosine >= self.threshold.threshold

    @property
    def certain(self) -> bool:
        """Whether the similarity lies outside of the threshold's interval."""
        found = self.threshold
        return found is not None and not found.low <= self.cosine <= found.high

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        threshold = self.threshold.to_json() if self.threshold else None
        return asdict(self) | {"threshold": threshold, "resampled": list(self.resampled), "same": self.same}

    def lines(self) -> list[str]:
        """The answer for people."""
        lines = [f"cosine {self.cosine:.4f}", *self.resampled]
        found = self.threshold
        if found is None:
            return [*lines, "no decision: the model has not been evaluated on pairs, so no threshold is known"]
        lines.append(
            f"{'same person' if self.same else 'different people'} at FAR {found.far:g}: the threshold is"
            f" {found.threshold:.4f} (95 % interval {found.low:.4f} to {found.high:.4f}, from {self.pairs})"
        )
        if not self.certain:
            lines.append("the cosine lies within the threshold's interval: other pairs might have decided otherwise")
        if found.rests_on_few:
            accepted = found.far * found.impostors
            lines.append(f"the threshold rests on {accepted:g} of {found.impostors:,} impostor pairs: too few to trust")
        return lines


def compare_faces(
    model: str | Path,
    first: str | Path,
    second: str | Path,
    *,
    far: float = FAR,
    picture: str | Path | None = None,
    device: str = "auto",
    flags: OnnxFlags | None = None,
) -> FaceComparison:
    """The similarity of the faces in two picture files, and whether they are one person.

    Args:
        model: run directory, .safetensors checkpoint, or ONNX file.
        far: false accept rate of the threshold: one of those that the model was evaluated at.
        picture: a PNG to write, which shows the two faces as the network sees them.

    Returns:
        The cosine, in [-1, 1], and ``same``: the decision, None where the model has not been evaluated.

    Raises:
        UsageError: a picture that does not decode or is no face-sized one; a rate that was not evaluated.
    """
    if flags and flags.flip_sum is False:
        raise UsageError("--no-flip-sum: thresholds are those of f(x) + f(flip x); embed and search know the option")
    if picture and Path(picture).resolve() in {Path(face).resolve() for face in (first, second)}:
        raise UsageError(f"--picture {picture} is one of the two pictures; name another file")
    embedder = open_embedder(model, device=device, flags=flags)
    images = _pixels([first, second])
    faces = framed_batch(images, embedder.size)
    left, right = embed_resampled(embedder, faces, [min(image.shape[:2]) for image in images]).astype(np.float64)
    known = thresholds_of(embedder)
    comparison = FaceComparison(float(left @ right), _threshold(known, far), known.pairs, _sizes(images, embedder.size))
    if picture:
        _draw(Path(picture), faces, (Path(first).name, Path(second).name), comparison)
    return comparison


def _threshold(known: RunThresholds, far: float) -> Threshold | None:
    found = known.at(far)
    if known.thresholds and found is None:
        rates = ", ".join(f"{threshold.far:g}" for threshold in known.thresholds)
        raise UsageError(f"--far {far:g}: the model was evaluated at {rates}")
    return found


def _pixels(paths: Sequence[str | Path]) -> list[NDArray[np.uint8]]:
    images = []
    with ThreadPoolExecutor(1) as threads:
        for path in paths:
            if Path(path).is_dir():
                raise UsageError(f"{path} is a folder; give two pictures")
            found = PictureFiles([path]).decoded(range(1), threads)[0]
            if not isinstance(found, np.ndarray):
                raise UsageError(f"{path}: {found}")
            images.append(found)
    return images


def _sizes(images: Sequence[NDArray[np.uint8]], size: int) -> tuple[str, ...]:
    return tuple(
        f"the {which} picture was resampled from {image.shape[1]}x{image.shape[0]} to {size}x{size} px (centre square)"
        for which, image in zip(("first", "second"), images, strict=True)
        if image.shape[:2] != (size, size)
    )


def _draw(path: Path, faces: NDArray[np.uint8], names: tuple[str, str], comparison: FaceComparison) -> None:
    from hrfr_fast.reporting.canvas import saved_figure

    with saved_figure(path, (6, 3.6)) as figure:
        for number, (face, name) in enumerate(zip(faces, names, strict=True)):
            axes = figure.add_subplot(1, 2, number + 1)
            axes.imshow(face, interpolation="nearest")
            axes.set_title(name.replace("$", r"\$")[:40], fontsize=9)
            axes.set_axis_off()
        figure.suptitle("\n".join(comparison.lines()[:1] + comparison.lines()[-1:])[:160], fontsize=8, wrap=True)
