"""A model in an ONNX file as an embedder: one of our export, which describes itself, or anybody's, by flags."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.description import NORMALISATIONS, EmbedderDescription
from hrfr_fast.evaluation.onnx_files import Signature, read_signature
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.optional import require_export
from hrfr_fast.runtime.system import threads_per_rank

NUMPY_TYPES: dict[str, Any] = {"uint8": np.uint8, "float32": np.float32, "float16": np.float16}
TRIAL = 2  # pictures of the trial run: a file whose batch is not really open fails with two


@dataclass(frozen=True)
class OnnxFlags:
    """What a user says about an ONNX file; it wins over the file's metadata. None: not said.

    ``normalisation``: a key of NORMALISATIONS. ``mean`` and ``std``: of the red, green and blue values in [0, 1],
    instead of it. ``flip_sum``: whether f(x) + f(flip x) is made at all.
    """

    input_size: int | None = None
    normalisation: str | None = None
    mean: str | None = None
    std: str | None = None
    colour_order: str | None = None
    flip_sum: bool | None = None

    @property
    def given(self) -> bool:
        """Whether anything is said that only ONNX files understand."""
        return any(value is not None for name, value in vars(self).items() if name != "flip_sum")


NO_FLAGS = OnnxFlags()


class OnnxEmbedder:
    """An ONNX file as an ``Embedder``; ONNX Runtime executes it.

    Args:
        path: the file; see ``onnx_files`` for what is refused.
        flags: what the metadata do not say, or say wrongly.
        device: "auto", "cpu" or "cuda".

    Raises:
        UsageError: not an embedder, or nothing says how its pictures are normalised.
    """

    def __init__(self, path: str | Path, flags: OnnxFlags = NO_FLAGS, device: str = "auto") -> None:
        self.path = Path(path)
        self.signature = read_signature(self.path)
        self._session = _session(self.path, device)
        try:
            self.description = described(self.signature, flags, self._trial)
        except UsageError as error:
            raise UsageError(f"{self.path}: {error}") from None
        self._flips = not self.description.flip_sum and flags.flip_sum is not False
        self._flags = flags

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def size(self) -> int:
        return self.description.input_size

    @property
    def dimension(self) -> int:
        return self.description.embedding_size

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        from hrfr_fast.format.beton import file_digest

        return file_digest(self.path)

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        total = self.embed_unscaled(images)
        return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12), np.float32)

    def embed_unscaled(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        total = self.raw(images)
        return total + self.raw(images[:, :, ::-1]) if self._flips else total

    def raw(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the file itself returns, float32 [N, dimension], for uint8 [N, size, size, 3] RGB."""
        return self._run(model_input(images, self.signature, self.description))

    def _run(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The output for prepared input; where the file wants a fixed number of pictures, so many at a time."""
        step = self.signature.batch or len(values)
        rows = []
        for start in range(0, len(values), step):
            part = values[start : start + step]
            missing = step - len(part)
            full = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            output = self._session.run([self.signature.output_name], {self.signature.input_name: full})[0]
            rows.append(np.asarray(output, np.float32)[: len(part)])
        return np.concatenate(rows)

    def _trial(self, size: int) -> int:
        """The embedding size that two black pictures of ``size`` px show. Raises UsageError where they fail."""
        shape = (TRIAL, 3, size, size) if self.signature.layout == "NCHW" else (TRIAL, size, size, 3)
        try:
            output = self._run(np.zeros(shape, NUMPY_TYPES[self.signature.dtype]))
        except Exception as error:  # ONNX Runtime raises many kinds
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"not a face embedder: pictures of {size} px cannot be embedded: {reason}") from None
        if output.ndim != 2 or len(output) != TRIAL or not 2 <= output.shape[1] <= 1 << 16:
            raise UsageError(f"not a face embedder: two pictures give {list(output.shape)}; embeddings are [N, D]")
        return int(output.shape[1])

    def describe(self) -> dict[str, Any]:
        description = self.description
        return {
            "kind": "ONNX file",
            "path": str(self.path),
            "digest": self.digest,
            "input_size": self.size,
            "dimension": self.dimension,
            "colour_order": description.colour_order,
            "normalisation": {"mean": list(description.mean), "std": list(description.std)},
            "flip_sum": description.flip_sum or self._flips,
            "precision": description.precision,
            "alignment": description.alignment,
            "run": description.run,
            "trained_on": description.trained_on.split(),
            "weights_digest": description.weights_sha256 or self.digest,
        }


def model_input(images: NDArray[np.uint8], signature: Signature, description: EmbedderDescription) -> NDArray[Any]:
    """The input that the file wants, of its type and layout, for uint8 [N, S, S, 3] RGB."""
    if description.colour_order == "bgr":
        images = images[..., ::-1]
    if signature.dtype == "uint8":
        values: NDArray[Any] = images
    else:
        order = slice(None, None, -1 if description.colour_order == "bgr" else 1)
        mean, std = (255 * np.array(triple[order], np.float32) for triple in (description.mean, description.std))
        values = ((images.astype(np.float32) - mean) / std).astype(NUMPY_TYPES[signature.dtype])
    if signature.layout == "NCHW":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values)


def described(signature: Signature, flags: OnnxFlags, trial: Any) -> EmbedderDescription:
    """The description of a file by its metadata and ``flags``; ``trial(size)`` gives the embedding size by running it.

    Raises:
        UsageError: something is missing that nobody can guess, or does not fit the file.
    """
    own = EmbedderDescription.from_text(signature.metadata)
    if own and own.flip_sum and flags.flip_sum is False:
        raise UsageError("--no-flip-sum: the file itself returns f(x) + f(flip x); export one without --flip-sum")
    size = flags.input_size or (own.input_size if own else signature.size)
    if size is None:
        raise UsageError("neither the file nor its metadata say how large its pictures are; give --input-size")
    if signature.size not in (None, size):
        raise UsageError(f"it takes pictures of {signature.size} px, not of {size}")
    mean, std = _normalisation(signature, flags, own)
    values = dict(own) if own else {}
    values |= {"input_size": size, "embedding_size": trial(size), "mean": mean, "std": std}
    values |= {"layout": signature.layout, "dtype": signature.dtype}
    if flags.colour_order:
        values["colour_order"] = flags.colour_order
    return EmbedderDescription(**values)


def _normalisation(signature: Signature, flags: OnnxFlags, own: EmbedderDescription | None) -> tuple[Any, Any]:
    """Mean and standard deviation by flags, else by metadata, else of a graph that takes pixel values."""
    if (flags.mean is None) != (flags.std is None):
        raise UsageError("--mean and --std belong together: give both")
    if flags.mean is not None:
        if flags.normalisation:
            raise UsageError("give --normalisation, or --mean and --std, not both")
        return _triple("--mean", flags.mean), _triple("--std", flags.std or "")
    if flags.normalisation:
        if flags.normalisation not in NORMALISATIONS:
            raise UsageError(f"--normalisation {flags.normalisation}: give {', '.join(NORMALISATIONS)}")
        return NORMALISATIONS[flags.normalisation]
    if own:
        return own.mean, own.std
    if signature.dtype == "uint8":
        return NORMALISATIONS["none"]
    raise UsageError(
        "its metadata do not say how pictures are normalised; give --normalisation 0.5 (InsightFace, AdaFace: also"
        " --colour bgr), imagenet, or none where the file itself does it"
    )


def _triple(flag: str, text: str) -> tuple[float, ...]:
    """Three numbers, or one for all channels."""
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not np.isfinite(numbers).all() or (flag == "--std" and min(numbers) <= 0):
        raise UsageError(f"{flag} {text}: give one number, or three for red, green and blue, of values from 0 to 1")
    return tuple(numbers * (3 // len(numbers)))


def _session(path: Path, device: str) -> Any:
    """ONNX Runtime's session on ``device``, with one thread a core. Raises UsageError where it refuses the file."""
    runtime = require_export("onnxruntime", f"{path}: running it")
    on_cuda = device != "cpu" and "CUDAExecutionProvider" in runtime.get_available_providers()
    if device == "cuda" and not on_cuda:
        raise UsageError(
            "--device cuda: this onnxruntime has no CUDA; pip install onnxruntime-gpu, or use --device cpu"
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads_per_rank(), 1
    options.log_severity_level = 4  # none: it prints a file's names as they are, escape sequences too; we say them
    providers = [*(["CUDAExecutionProvider"] if on_cuda else []), "CPUExecutionProvider"]
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises many kinds
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{path}: ONNX Runtime cannot load it: {reason}") from None
