"""``hrfr-fast export``: a trained model in a file that other programs run, checked against the model itself."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.deployment.check_faces import CheckFaces, faces_to_calibrate, faces_to_check
from hrfr_fast.deployment.exported_domain import choose_domain, in_words, sizes_of
from hrfr_fast.deployment.formats import SUFFIXES, WRITERS, Embed
from hrfr_fast.deployment.int8_cost import Int8Cost, int8_cost
from hrfr_fast.deployment.run_thresholds import (
    NO_THRESHOLDS,
    RunThresholds,
    best_pairs,
    data_of,
    measured_thresholds,
    recorded_thresholds,
)
from hrfr_fast.evaluation.description import HALF, EmbedderDescription
from hrfr_fast.format import alignment_record
from hrfr_fast.format.reader import Packed
from hrfr_fast.model.domain_norm import LOW
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.files import fsync_directory
from hrfr_fast.runtime.version import __version__

if TYPE_CHECKING:
    from hrfr_fast.evaluation.embedder import BackboneEmbedder

DEFAULT_ENDINGS = {**SUFFIXES, "safetensors": "-weights.safetensors"}
INPUTS = ("uint8", "normalised")
PRECISIONS = {"onnx": ("fp32", "fp16", "int8"), "torch-export": ("fp32",), "safetensors": ("fp32", "fp16")}
LEAST_COSINE = {"fp32": 0.9999, "fp16": 0.999}


@dataclass(frozen=True)
class ExportResult:
    """What was written and how well it agrees with the model.

    Attributes:
        out: the file.
        description: what its metadata say.
        faces: what it was checked on, in words, and ``count`` of them.
        least_cosine, mean_cosine: between the file's embeddings and the model's own.
        cost: of int8, on pairs; None otherwise, and where no pairs are at hand.
    """

    out: Path
    description: EmbedderDescription
    faces: str
    count: int
    least_cosine: float
    mean_cosine: float
    cost: Int8Cost | None = None
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The account of the export for people."""
        description = self.description
        size, side = os.path.getsize(self.out), description.input_size
        shape = f"[N, {side}, {side}, 3]" if description.layout == "NHWC" else f"[N, 3, {side}, {side}]"
        flip = "f(x) + f(flip x)" if description.flip_sum else "f(x)"
        return [
            f"{self.out}: {size / 1e6:,.1f} MB, {description.precision}",
            f"input {description.dtype} {shape} {description.colour_order.upper()}, output {flip}, float32"
            f" [N, {description.embedding_size}]",
            f"checked on {self.count} faces ({self.faces}): cosine with the model's own embeddings"
            f" {self.least_cosine:.7f} at least, {self.mean_cosine:.7f} on average",
            *(self.cost.lines() if self.cost else []),
            *self.notes,
        ]


def export(
    run: str | Path,
    out: str | Path | None = None,
    *,
    format: str = "onnx",
    input: str = "uint8",
    flip_sum: bool = False,
    precision: str = "fp32",
    check: Sequence[str | Path] = (),
    data: str | Path | None = None,
    domain: str = "",
    show_progress: bool = True,
) -> ExportResult:
    """Write the model of a run to a file for other programs, and check the file against the model.

    Args:
        run: run directory (its ``last`` checkpoint) or .safetensors checkpoint.
        out: the file; ``<run>.onnx``, ``.pt2`` or ``-weights.safetensors`` in the working directory if not given.
        format: "onnx"; "torch-export" (an ExportedProgram); "safetensors" (the plain state dict).
        input: "uint8": pixel values [N, S, S, 3] RGB, normalised inside; "normalised": float32 [N, 3, S, S] in [-1, 1].
        flip_sum: return f(x) + f(flip x) instead of f(x).
        precision: "fp32"; "fp16" (onnx, safetensors); "int8" (onnx), calibrated on training faces.
        check: pictures to check the file on (files, folders, lists); the run's own packed faces if not given, or
            synthetic ones where those are gone.
        data: where the run's packed data are, if they are not found.
        domain: of a run with BatchNorm by resolution "low" or "high": the file is for pictures of that one.

    Returns:
        The file, what its metadata say, and the cosines between its embeddings and the model's on ``count`` faces.

    Raises:
        UsageError: no such run; no ``domain`` where there are two, or one where there is none;
            a combination that a format does not have; a package that is not installed.
        HrfrError: the file's embeddings are not those of the model; nothing is written then.
    """
    from hrfr_fast.evaluation.embedder import BackboneEmbedder, open_embedder

    _refuse_unknown(format, input, precision, flip_sum)
    model = open_embedder(run, device="cpu", precision="fp32")
    if not isinstance(model, BackboneEmbedder):
        raise UsageError(f"{run}: it is exported already; give a run directory or a .safetensors checkpoint")
    limit = choose_domain(model, domain)
    path = _path(out, model, format)
    packed = data_of(model.metadata, model.weights, data)
    given = [Path(path) for path in check]
    faces = faces_to_check(model.size, given, packed)
    thresholds = NO_THRESHOLDS if domain == LOW else _thresholds(model, packed, precision, show_progress)
    description = _description(model, packed, format, input, flip_sum, precision, thresholds)
    description = description.replaced(domain=domain, domain_limit=limit)
    sizes = sizes_of(domain, limit)
    calibration = faces_to_calibrate(model.size, given, packed, sizes) if precision == "int8" else None
    task = _Task(path, format, model, packed, faces, calibration, show_progress)
    description, cosines, cost = task.write(description)
    return ExportResult(
        path, description, faces.origin, len(cosines), float(cosines.min()), float(cosines.mean()), cost,
        _notes(format, description, calibration),
    )  # fmt: skip


def _path(out: str | Path | None, model: "BackboneEmbedder", format: str) -> Path:
    """The file to write. Raises UsageError for a folder, the checkpoint, and the ending of another format."""
    path = Path(out) if out else Path(f"{model.name}{DEFAULT_ENDINGS[format]}")
    if path.is_dir() or path.resolve() == model.weights.resolve():
        what = "a folder" if path.is_dir() else "the checkpoint that is exported"
        raise UsageError(f"--out {path} is {what}; name another file")
    if path.suffix in set(SUFFIXES.values()) - {SUFFIXES[format]}:
        raise UsageError(f"--out {path} has the ending of another format than --format {format} writes")
    return path


def _alignment(metadata: Mapping[str, Any], packed: Packed | None) -> str:
    """The template that the model's faces were aligned to, and by whom, in words; empty where that is not recorded."""
    record = metadata.get("adopted")
    if record is None and packed:
        record = packed.manifest["provenance"].get(alignment_record.KEY)
    if not isinstance(record, Mapping) or not record.get("template"):
        return ""
    return str(record["template"]) + (f", aligned by {record['aligner']}" if record.get("aligner") else "")


@dataclass(frozen=True)
class _Task:
    """One export: what is written, where, and the faces that it is checked and calibrated with."""

    path: Path
    format: str
    model: "BackboneEmbedder"
    packed: Packed | None
    faces: CheckFaces
    calibration: CheckFaces | None
    show_progress: bool

    def write(
        self, description: EmbedderDescription
    ) -> tuple[EmbedderDescription, NDArray[np.float64], Int8Cost | None]:
        """Write the file under another name, check it, and move it into place: the description as it was written, the
        cosines with the model's embeddings, and what int8 costs."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}{SUFFIXES[self.format]}")
        pixels = self.calibration.pixels if self.calibration else None
        cost = None
        try:
            embed = WRITERS[self.format](temporary, self.model, description, pixels)
            cosines = cosines_with(self.model, embed, self.faces, description.flip_sum)
            _refuse_different(self.path, cosines, description.precision, self.faces)
            if description.precision == "int8" and self.packed and description.domain != LOW:  # no pairs are of it
                description, cost = _with_cost(temporary, self.model, self.packed, description, self.show_progress)
            os.replace(temporary, self.path)
            fsync_directory(self.path.parent)
        finally:
            with suppress(OSError):  # a read-only file system refuses even this: what failed was said
                temporary.unlink()
        return description, cosines, cost


def _notes(format: str, description: EmbedderDescription, calibration: CheckFaces | None) -> list[str]:
    notes = in_words(description.domain, description.domain_limit)
    if format == "onnx":
        from hrfr_fast.deployment.onnx_writer import OPSET

        notes.append(f"opset {OPSET}")
    if calibration:
        notes.append(f"calibrated on {len(calibration.pixels)} faces ({calibration.origin})")
    if description.thresholds:
        return [*notes, f"thresholds from {description.threshold_pairs}"]
    if description.domain == LOW:
        return [*notes, "no thresholds: those of the run are of its pairs' own resolution, not of low-resolution faces"]
    return [*notes, "no thresholds: the run has not been evaluated, and its pairs are not here"]


def _refuse_unknown(format: str, input: str, precision: str, flip_sum: bool) -> None:
    if format not in SUFFIXES:
        raise UsageError(f"--format {format}: give {', '.join(SUFFIXES)}")
    if input not in INPUTS:
        raise UsageError(f"--input {input}: give {' or '.join(INPUTS)}")
    if precision not in PRECISIONS[format]:
        raise UsageError(f"--precision {precision}: {format} has {', '.join(PRECISIONS[format])}")
    if format == "safetensors" and flip_sum:
        raise UsageError("--flip-sum: safetensors hold weights alone; the flip sum is made by the code that uses them")


def _thresholds(model: "BackboneEmbedder", packed: Packed | None, precision: str, show_progress: bool) -> RunThresholds:
    """Those the run recorded, else from its pairs; int8 gets its own after it is written."""
    if precision == "int8":
        return NO_THRESHOLDS
    if recorded := recorded_thresholds(model.weights):
        return recorded
    pairs = best_pairs(packed, model.metadata) if packed else None
    return measured_thresholds(model, pairs, show_progress=show_progress) if pairs else NO_THRESHOLDS


def _description(
    model: "BackboneEmbedder", packed: Packed | None, format: str, input: str, flip_sum: bool, precision: str,
    thresholds: RunThresholds,
) -> EmbedderDescription:  # fmt: skip
    from hrfr_fast.format.beton import file_digest
    from hrfr_fast.model.backbones.table import NORMALISATIONS
    from hrfr_fast.model.lineage import run_directory_of, trained_on

    pixels = input == "uint8" and format != "safetensors"
    own = NORMALISATIONS[model.metadata["backbone"].get("normalisation", "half")]
    mean, std = own if own and format == "safetensors" else HALF  # a graph does its network's own step itself
    return EmbedderDescription(
        input_size=model.size,
        layout="NHWC" if pixels else "NCHW",
        dtype="uint8" if pixels else "float32",
        mean=mean,
        std=std,
        flip_sum=flip_sum,
        embedding_size=model.dimension,
        precision=precision,
        run=run_directory_of(model.weights).name,
        regime=str(model.metadata.get("regime", "")),
        weights_sha256=file_digest(model.weights),
        trained_on=" ".join(sorted(trained_on(model.metadata))),
        hrfr_fast=__version__,
        alignment=_alignment(model.metadata, packed),
        threshold_pairs=thresholds.pairs,
        thresholds=thresholds.thresholds,
    )


def cosines_with(model: "BackboneEmbedder", embed: Embed, faces: CheckFaces, flip_sum: bool) -> NDArray[np.float64]:
    """Cosine of each face's embedding by the written file with that by the model, float64 [n].

    The file gets one face alone, and then the others together: the number of pictures must be free.
    """
    parts = [faces.pixels[:1], faces.pixels[1:]]
    found = np.concatenate([embed(part) for part in parts if len(part)]).astype(np.float64)
    expected = model.sums(faces.pixels, flip_sum=flip_sum).astype(np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return np.asarray((found * expected).sum(axis=1) / np.maximum(norms, 1e-300))


def _refuse_different(path: Path, cosines: NDArray[np.float64], precision: str, faces: CheckFaces) -> None:
    least = LEAST_COSINE.get(precision)
    if not np.isfinite(cosines).all() or (least is not None and cosines.min() <= least):
        raise HrfrError(
            f"{path} was not written: on {len(cosines)} faces ({faces.origin}) the cosine between its embeddings and"
            f" the model's own is {cosines.min():.6f} at least and {cosines.mean():.6f} on average; more than {least}"
            " is needed"
        )


def _with_cost(
    path: Path, model: "BackboneEmbedder", packed: Packed, description: EmbedderDescription, show_progress: bool
) -> tuple[EmbedderDescription, Int8Cost | None]:
    """What int8 costs on the pairs of the run's data; the file gets the thresholds of its own scores."""
    import onnx

    from hrfr_fast.deployment.onnx_writer import write_onnx
    from hrfr_fast.evaluation.onnx_embedder import OnnxEmbedder

    pairs = best_pairs(packed, model.metadata)
    if pairs is None:
        return description, None
    cost, thresholds = int8_cost(model, OnnxEmbedder(path, device="cpu"), pairs, show_progress=show_progress)
    description = description.replaced(threshold_pairs=thresholds.pairs, thresholds=thresholds.thresholds)
    write_onnx(path, onnx.load(str(path)), description)
    return description, cost
