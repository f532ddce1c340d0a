"""Embedders: whatever turns face pictures into unit vectors, so that a protocol can judge it.

A run's backbone is one, a model in another file format another. Protocols know nothing but this interface.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.engines.pixels import to_model_input
from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.evaluation.onnx_embedder import OnnxFlags
    from hrfr_fast.runtime.device import Compute


Sides = Sequence[int] | NDArray[np.int64] | None
"""Sides in pixels that pictures had before they were resampled to an embedder's input."""


class Embedder(Protocol):
    """A model from pictures to embeddings, normalise(f(x) + f(flip x)), the summands not normalised."""

    @property
    def name(self) -> str:
        """What tables and messages call it: the run's directory, or the file."""

    @property
    def size(self) -> int:
        """Width and height of the input in pixels."""

    @property
    def dimension(self) -> int:
        """Length of an embedding."""

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings of one batch.

        Args:
            images: uint8 [N, size, size, 3] RGB, N >= 1.

        Returns:
            float32 [N, dimension], rows of norm 1.
        """

    def describe(self) -> dict[str, Any]:
        """Facts for the record, plain JSON values: ``kind``, ``path``, ``digest`` (SHA-256 of the file),
        ``weights_digest`` (of the checkpoint that it was exported from), ``input_size``, ``dimension``,
        ``colour_order``, ``normalisation``, ``flip_sum``, and ``trained_on``, the splits that it was trained on, where
        that is known."""


@runtime_checkable
class UnscaledEmbedder(Embedder, Protocol):
    """An embedder that also gives embeddings as they are before they are divided by their norms."""

    def embed_unscaled(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """f(x) + f(flip x) of one batch, float32 [N, dimension]; the argument is that of ``embed``."""


class BackboneEmbedder:
    """The backbone of a run's checkpoint as an embedder.

    Attributes:
        metadata: of the checkpoint.
        weights: its file.
        backbone: the module, in eval mode.
    """

    def __init__(
        self, weights: Path, backbone: "nn.Module", metadata: dict[str, Any], compute: "Compute", flip_sum: bool = True
    ) -> None:
        self.weights, self.metadata = weights, metadata
        self.backbone = backbone.eval()
        self._compute, self._flip_sum = compute, flip_sum

    @property
    def name(self) -> str:
        from hrfr_fast.model.lineage import run_directory_of

        if self.weights.parent.name != "checkpoints":
            return self.weights.name
        run = run_directory_of(self.weights).name
        return run if self.weights.stem == "last" else f"{run}-{self.weights.stem}"

    @property
    def size(self) -> int:
        return int(self.metadata["backbone"]["input_size"])

    @property
    def dimension(self) -> int:
        return int(self.metadata["backbone"]["embedding_size"])

    @property
    def by_resolution(self) -> bool:
        """Whether its BatchNorm has statistics of its own for low and for high resolution."""
        from hrfr_fast.model.domain_norm import domains_of

        return domains_of(self.backbone) is not None

    def embed(self, images: NDArray[np.uint8], sides: Sides = None) -> NDArray[np.float32]:
        total = self.embed_unscaled(images, sides)
        return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))

    def embed_unscaled(self, images: NDArray[np.uint8], sides: Sides = None) -> NDArray[np.float32]:
        return self.sums(images, flip_sum=self._flip_sum, sides=sides)

    def sums(self, images: NDArray[np.uint8], *, flip_sum: bool, sides: Sides = None) -> NDArray[np.float32]:
        """f(x) + f(flip x), or f(x), as it is: float32 [N, dimension] for uint8 [N, size, size, 3] RGB.

        ``sides``: of the pictures before they were resampled, [N]; without them all have the input's size.
        """
        from hrfr_fast.model.domain_norm import domain_of_side

        if not self.by_resolution:
            return self._sums(images, flip_sum, "")
        sides = np.full(len(images), self.size) if sides is None else np.asarray(sides)
        domains = np.array([domain_of_side(self.backbone, int(side)) for side in sides])
        total = np.empty((len(images), self.dimension), np.float32)
        for domain in np.unique(domains):
            total[domains == domain] = self._sums(images[domains == domain], flip_sum, str(domain))
        return total

    def _sums(self, images: NDArray[np.uint8], flip_sum: bool, domain: str) -> NDArray[np.float32]:
        """``sums`` of pictures of one domain."""
        import torch

        from hrfr_fast.model.domain_norm import in_domain

        with in_domain(self.backbone, domain), torch.inference_mode(), self._compute.autocast():
            pixels = torch.from_numpy(images).to(self._compute.device)
            inputs = to_model_input(pixels, self._compute.image_dtype)
            total = self.backbone(inputs).float()
            if flip_sum:
                total = total + self.backbone(inputs.flip(3)).float()
            return np.asarray(total.cpu().numpy())

    def describe(self) -> dict[str, Any]:
        from hrfr_fast.format.beton import file_digest
        from hrfr_fast.model.lineage import trained_on

        digest = file_digest(self.weights)
        return {
            "kind": "hrfr-fast checkpoint",
            "path": str(self.weights),
            "digest": digest,
            "weights_digest": digest,
            "regime": self.metadata.get("regime"),
            "input_size": self.size,
            "dimension": self.dimension,
            "colour_order": "rgb",
            "normalisation": "(value - 127.5) / 127.5",
            "flip_sum": self._flip_sum,
            "trained_on": sorted(trained_on(self.metadata)),
            "precision": self._compute.precision,
        }


def embed_resampled(
    embedder: Embedder, images: NDArray[np.uint8], sides: Sides, *, unit: bool = True
) -> NDArray[np.float32]:
    """``embedder.embed`` of pictures that had these ``sides`` before they were resampled, which some models ask for.

    ``unit``: rows of norm 1; else f(x) + f(flip x) as it is, of an embedder that gives it.

    Raises:
        UsageError: an embedding is no number: decisions about it would look like others.
    """
    rows = _embedded(embedder, images, sides, unit)
    if not np.isfinite(rows).all():
        raise UsageError(
            f"{embedder.name}: its embeddings are not finite numbers: the model is broken, or its precision too low"
        )
    return rows


def _embedded(embedder: Embedder, images: NDArray[np.uint8], sides: Sides, unit: bool) -> NDArray[np.float32]:
    if isinstance(embedder, BackboneEmbedder):
        return embedder.embed(images, sides) if unit else embedder.embed_unscaled(images, sides)
    if unit or not isinstance(embedder, UnscaledEmbedder):
        return embedder.embed(images)
    return embedder.embed_unscaled(images)


def open_embedder(
    path: str | Path, *, device: str = "auto", precision: str = "auto", flags: "OnnxFlags | None" = None,
    kernels: bool = False,
) -> Embedder:  # fmt: skip
    """The embedder of a run directory (its ``last`` checkpoint), of a .safetensors checkpoint or of an ONNX file.

    Args:
        device: auto, cpu or cuda.
        precision: auto, bf16, fp16 or fp32; an ONNX file has its own.
        flags: what a user says about an ONNX file; its ``flip_sum`` is for all.
        kernels: for many pictures: see ``load_backbone``.

    Raises:
        UsageError: there is no such file, hrfr-fast has not written it, or an ONNX file is not an embedder.
    """
    from hrfr_fast.evaluation.onnx_embedder import NO_FLAGS, OnnxEmbedder

    flags = flags or NO_FLAGS
    if Path(path).suffix.lower() == ".onnx":
        return OnnxEmbedder(path, flags, device)
    if flags.given:
        raise UsageError(f"{path}: input size, normalisation and colours are asked of ONNX files; a run knows its own")
    from hrfr_fast.evaluation.evaluate import load_backbone
    from hrfr_fast.model.checkpoint import weights_path
    from hrfr_fast.runtime.device import choose_compute

    weights, compute = weights_path(path), choose_compute(device, precision)
    backbone, metadata = load_backbone(weights, compute, kernels=kernels)
    return BackboneEmbedder(weights, backbone, metadata, compute, flags.flip_sum is not False)
