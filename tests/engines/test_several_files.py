"""Batches of a split in several files are, bit for bit, those of the same split in one."""

import numpy as np
import pytest
import torch
from engine_cases import DEVICES, ENGINES, EVERYTHING, build, stream_over

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.divided_writer import DividedWriter
from hrfr_fast.format.reader import Split, split_of
from hrfr_fast.runtime.errors import DamageFound


def divided(split: Split, directory, shard_samples: int) -> Split:
    """The records of ``split`` in files of ``shard_samples``."""
    writer = DividedWriter(directory, split.name, split.samples, split.size, shard_samples)
    payloads = [split.payload(record).tobytes() for record in range(split.samples)]
    writer.extend(b"".join(payloads), split.lengths, split.labels, split.modes, split.crc32)
    names = [str(identity) for identity in range(split.identities)]
    return split_of(directory, split.name, writer.finish(names))


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_those_of_one_file(shards, tmp_path, device, name, encoding):
    whole = [shards[split, encoding] for split in ("lowres", "highres")]
    several = [divided(split, tmp_path, 13) for split in whole]
    assert [len(split.parts) for split in several] == [4, 4]
    found = []
    for splits in (whole, several):
        with build(name, stream_over(splits, 36, EVERYTHING), verify=True, device=device) as engine:
            found.append(list(engine.batches(24, 96)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_a_damaged_record_is_named_by_its_file(shards, tmp_path):
    split = divided(shards["lowres", "raw"], tmp_path, 13)
    with open(split.parts[2].path, "r+b") as file:
        file.seek(int(split.offsets[2 * 13 + 5] - split._mapped.begins[2]))
        file.write(b"\xff" * 20 + b"\x00" * 20)
    with (
        build("resident", stream_over([split], 36, EVERYTHING), verify=True) as engine,
        pytest.raises(DamageFound, match=r"lowres-00002\.beton: record 5 does not match its checksum"),
    ):
        list(engine.batches(0, 96))


def test_a_file_that_becomes_shorter_is_refused_and_a_replaced_one_is_not(shards, tmp_path):
    split = divided(shards["lowres", "raw"], tmp_path, 13)
    pixels = split.read(np.arange(split.samples))
    path = split.parts[1].path
    replaced = path.rename(path.with_suffix(".old"))
    path.write_bytes(b"another")
    split.refuse_shrunk()
    split.free_pages()
    assert (split.read(np.arange(split.samples)) == pixels).all()
    replaced.rename(path)
    with open(path, "r+b") as file:
        file.truncate(4096)
    with pytest.raises(DamageFound, match=r"lowres-00001\.beton has become shorter"):
        split.refuse_shrunk()


def test_places_lie_within_their_files(shards, tmp_path):
    split = divided(shards["highres", "raw"], tmp_path, 20)
    mapped = split._mapped
    assert (mapped.begins % 4096 == 0).all() and (mapped.begins[1:] >= mapped.ends[:-1]).all()
    for part, begin, end in zip(split.parts, mapped.begins.tolist(), mapped.ends.tolist(), strict=True):
        assert mapped.data[begin:end].tobytes() == part.path.read_bytes()
        beton.read_tables(part.path, mapped.data[begin:end])
    assert manifest.parts_of({"file": "lowres.beton"}) == [{"file": "lowres.beton"}]
