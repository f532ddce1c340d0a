"""Synthetic faces packed straight away: the raw shards that the packed data tree would give, without picture files."""

import zlib
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format import beton, manifest, names
from hrfr_fast.format.divided_writer import DividedWriter, refuse_too_many_files
from hrfr_fast.format.writer import SplitWriter
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_array
from hrfr_fast.runtime.output_directory import raise_if_stopped, writing_in
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.synthetic.chunks import IdentityChunk, identity_chunks, jpegs, map_chunks, worker_count
from hrfr_fast.synthetic.directory import PARTIAL, check_seed, claim
from hrfr_fast.synthetic.pairs import ChosenPairs, choose_pairs
from hrfr_fast.synthetic.scales import HIGH, Scale, find_scale, identity_name, summary
from hrfr_fast.synthetic.traits import DEFAULT, Strengths

PAIR_SET = "hres"


def synthesize_packed(
    out: str | Path,
    scale: str = "small",
    *,
    seed: int = 0,
    workers: int = 0,
    show_progress: bool = True,
    stop: StopFlag | None = None,
    strengths: Strengths = DEFAULT,
    shard_samples: int = 0,
) -> dict[str, Any]:
    """Make the faces of ``synthesize`` as raw shards: the same pixels, packed, and no picture files.

    An interrupted run leaves no manifest and starts anew when called again.

    Args:
        out: the packed directory, absent or empty (or left by an interrupted run of this function).
        scale, workers, stop: as for ``synthesize``.
        shard_samples: most faces of a split in one file; 0: one file a split.

    Returns:
        As ``synthesize``.

    Raises:
        UsageError: ``out`` holds something else, or a ``shard_samples`` that is negative or gives too many files.
        Interrupted: stopped.
    """
    chosen, out = find_scale(scale), Path(out)
    settings = _settings(scale, seed, strengths, shard_samples)
    evaluation: list[NDArray[np.uint8]] = []
    entries: dict[str, Any] = {}
    with (
        writing_in(out, "the same `hrfr-fast synth --packed` makes it anew"),
        StopFlag() if stop is None else nullcontext(stop) as flag,
        progress_bar(show_progress) as bars,
    ):
        claim(out, {"packed": True, **settings})
        (out / PARTIAL).rmdir()
        (out / manifest.NAME).unlink(missing_ok=True)
        for split, spec in chosen.splits().items():
            task = bars.add_task(split, total=spec.identities * spec.pictures, note="")
            writer = DividedWriter(out, split, spec.identities * spec.pictures, spec.size, shard_samples)
            count = worker_count(workers, spec.identities * spec.pictures)
            chunks = identity_chunks(seed, split, spec, range(spec.identities), strengths)
            try:
                for blob, labels, checksums in map_chunks(_pixels, chunks, count, flag):
                    lengths = np.full(len(labels), 3 * spec.size**2)
                    writer.extend(blob, lengths, labels, np.full(len(labels), beton.RAW), checksums)
                    if split == "highres_eval":
                        evaluation.append(np.frombuffer(blob, np.uint8).reshape(-1, spec.size, spec.size, 3))
                    bars.advance(task, len(labels))
                raise_if_stopped(flag, f"{out} is incomplete; the same `hrfr-fast synth --packed` makes it anew")
            except BaseException:
                writer.close()
                raise
            entries[split] = writer.finish([identity_name(split, identity) for identity in range(spec.identities)])
        pairs = _pack_pairs(out, chosen, choose_pairs(chosen, seed), np.concatenate(evaluation))
        manifest.write(out, manifest.build(entries, {PAIR_SET: pairs}, {"synthetic": settings}))
    return summary(chosen, scale, seed)


def _settings(scale: str, seed: int, strengths: Strengths, shard_samples: int) -> dict[str, Any]:
    """What decides the bytes; without files of so many faces it is that of earlier versions."""
    check_seed(seed)
    if shard_samples < 0:
        raise UsageError(f"--shard-samples {shard_samples}: it takes 0 or more")
    for split, spec in find_scale(scale).splits().items() if shard_samples else ():
        refuse_too_many_files(split, spec.identities * spec.pictures, shard_samples)
    settings = {"scale": scale, "seed": seed, "strengths": asdict(strengths)}
    return settings | ({"shard_samples": shard_samples} if shard_samples else {})


def _pixels(chunk: IdentityChunk) -> tuple[bytes, list[int], list[int]]:
    """The pixels that a chunk's JPEG files decode to, one after the other, with label and CRC-32 of each."""
    import simplejpeg

    payloads = [
        simplejpeg.decode_jpeg(content, colorspace="RGB").tobytes()
        for identity in chunk.identities
        for content in jpegs(chunk, identity)
    ]
    labels = np.repeat(chunk.identities, chunk.spec.pictures).tolist()
    return b"".join(payloads), labels, [zlib.crc32(payload) for payload in payloads]


def _pack_pairs(out: Path, scale: Scale, pairs: ChosenPairs, pictures: NDArray[np.uint8]) -> dict[str, Any]:
    """Write the pair shard and the identity of each of its pictures; returns the manifest's entry."""
    shard = names.pair_shard(PAIR_SET)
    writer = SplitWriter(out / f"{shard}.beton", 2 * scale.pairs, HIGH)
    records = (pairs.identities * scale.highres_eval[1] + pairs.pictures).ravel()
    for record, same in zip(records.tolist(), np.repeat(pairs.same, 2).tolist(), strict=True):
        writer.append(pictures[record], int(same), beton.RAW)
    path = out / names.identities_file(shard)
    write_array(path, pairs.identities.ravel().astype(np.int32))
    digest = beton.file_digest(path)
    return manifest.pair_entry(PAIR_SET, writer.finish(), size=HIGH, identities_digest=digest, identity_coverage=1.0)
