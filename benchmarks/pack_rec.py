"""A million faces in one InsightFace .rec: speed and memory of packing it, and a pack that is killed and continued.

    python benchmarks/pack_rec.py --scratch /tmp/rec

The file is made of 20,000 synthetic 112-px JPEGs of a few KB, repeated, in InsightFace's layout: record 0, the
pictures, an identity record for every 20 of them. `hrfr-fast pack --encoding jpeg` keeps the JPEG bytes, but decodes
every one to know that it is whole; the lower bound is reading and decoding alone, with as many processes. Memory: the
peaks of the resident set of the parent, of that of a worker, and of the sum of all proportional sets. The second pack
is killed with SIGKILL, parent and workers, when the given share of the shard is written, and started again.
"""

import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import record  # noqa: E402
from benchmarks.command import run  # noqa: E402

EACH, SIZE, QUALITY = 20, 112, 85
SAMPLE_SECONDS = 0.5
CHUNK = 500


def faces(count: int) -> list[bytes]:
    """``count`` different JPEG files, ``EACH`` of a person."""
    import simplejpeg

    from hrfr_fast.synthetic.faces import render
    from hrfr_fast.synthetic.traits import Strengths

    made: list[bytes] = []
    for person in range(-(-count // EACH)):
        pictures, _ = render(0, 0, person, np.arange(EACH), SIZE, Strengths())
        made += [simplejpeg.encode_jpeg(picture, QUALITY, "RGB", "420") for picture in pictures]
    return made[:count]


def write_records(folder: Path, pictures: int, different: int) -> Path:
    """``train.rec`` and ``train.idx``; what is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    path, people = folder / "train.rec", -(-pictures // EACH)
    if path.exists():
        return path
    made = faces(min(different, pictures))
    with open(folder / "partial", "wb", 1 << 20) as file, open(folder / "train.idx", "w", encoding="ascii") as index:

        def write(key: int, label: tuple[float, ...], content: bytes) -> None:
            flag, first = (0, label[0]) if len(label) == 1 else (len(label), 0.0)
            labels = b"" if len(label) == 1 else struct.pack(f"<{len(label)}f", *label)
            length = 24 + len(labels) + len(content)
            index.write(f"{key}\t{file.tell()}\n")
            file.write(struct.pack("<IIIfQQ", 0xCED7230A, length, flag, first, key, 0) + labels + content)
            file.write(bytes(-length % 4))

        write(0, (pictures + 1, pictures + 1 + people), b"")
        for number in range(pictures):
            write(number + 1, (number // EACH,), made[number % len(made)])
        for person in range(people):
            write(pictures + 1 + person, (person * EACH + 1, min((person + 1) * EACH, pictures) + 1), b"")
    os.replace(folder / "partial", path)
    return path


def _pack(path: Path, out: Path, workers: int, answers: Any) -> None:
    from hrfr_fast.packing.pack import pack

    start, before = time.perf_counter(), _cpu()
    summary = pack(path, out, encoding="jpeg", workers=workers, show_progress=False)
    shard = summary.shards["faces"]
    answers.put((shard.samples, time.perf_counter() - start, _cpu() - before, shard.action, summary.digest))


def _floor(path: Path, out: Path, workers: int, answers: Any) -> None:
    start, before = time.perf_counter(), _cpu()
    places = [
        int(line.split("\t")[1]) for line in path.with_suffix(".idx").read_text(encoding="ascii").splitlines()[1:]
    ]
    chunks = [(str(path), places[first : first + CHUNK]) for first in range(0, len(places), CHUNK)]
    with get_context("fork").Pool(workers) as pool:
        count = sum(pool.imap_unordered(_decode, chunks))
    pool.join()
    answers.put((count, time.perf_counter() - start, _cpu() - before, "decoded", ""))


def _decode(chunk: tuple[str, list[int]]) -> int:
    import simplejpeg

    path, places = chunk
    count = 0
    with open(path, "rb") as file:
        for place in places:
            file.seek(place)
            _, length, flag = struct.unpack("<III", file.read(12))
            content = file.read(length - 4)
            if not flag:
                count += simplejpeg.decode_jpeg(content[20:], "RGB").shape[0] == SIZE
    return count


def _cpu() -> float:
    """CPU seconds of this process and its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def watched(
    task: Callable[..., None], path: Path, out: Path, workers: int, stop_at: int = 0
) -> tuple[tuple[int, float, float, str, str] | None, dict[str, int]]:
    """What ``task`` answers, and peaks of memory in bytes; killed, with None, once the shard has ``stop_at`` bytes."""
    import psutil

    context = get_context("spawn")
    answers, peaks = context.SimpleQueue(), {"parent": 0, "worker": 0, "all": 0}
    process = context.Process(target=task, args=(path, out, workers, answers))
    process.start()
    answer = None
    while process.is_alive() or not answers.empty():
        if not answers.empty():
            answer = answers.get()
        try:
            parent = psutil.Process(process.pid)
            children = parent.children(recursive=True)
            peaks["parent"] = max(peaks["parent"], parent.memory_info().rss)
            peaks["worker"] = max([peaks["worker"], *(child.memory_info().rss for child in children)])
            peaks["all"] = max(peaks["all"], sum(one.memory_full_info().pss for one in [parent, *children]))
            if stop_at and sum(file.stat().st_blocks * 512 for file in out.rglob("*.beton.partial")) >= stop_at:
                for one in [parent, *children]:
                    one.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            pass  # A process ended during the sampling.
        process.join(SAMPLE_SECONDS)
    if answer is None and not stop_at:
        raise RuntimeError(f"{task.__name__} failed")
    return answer, peaks


def main(
    scratch: Annotated[Path, typer.Option(help="where the .rec and the shards go; about 3 times the .rec is needed")],
    out: Annotated[Path, typer.Option(help="where the JSON goes")] = Path("benchmarks/out"),
    pictures: Annotated[int, typer.Option(help="records with a picture")] = 1_000_000,
    different: Annotated[int, typer.Option(help="different pictures among them")] = 20_000,
    workers: Annotated[int, typer.Option(help="worker processes; 0: one for each core")] = 0,
    killed_at: Annotated[float, typer.Option(help="share of the shard after which the second pack is killed")] = 0.5,
    record_it: Annotated[bool, typer.Option("--record", help="append to benchmarks/history.jsonl")] = False,
) -> None:
    """Pack a large .rec, and again with a kill in the middle."""
    from hrfr_fast.runtime.system import cores

    workers = workers or cores()
    path = write_records(scratch / f"set-{pictures}-{different}", pictures, different)
    size = path.stat().st_size
    typer.echo(f"{path}: {size / 1e9:.2f} GB, {pictures:,} pictures")
    rows: dict[str, Any] = {}

    def measure(name: str, task: Callable[..., None], folder: Path, stop_at: int = 0) -> str:
        answer, peaks = watched(task, path, folder, workers, stop_at)
        rows[name] = {f"peak_{who}_bytes": value for who, value in peaks.items()}
        if answer:
            rows[name] |= dict(zip(("faces", "seconds", "cpu_seconds", "action"), answer, strict=False))
        typer.echo(f"{name}: {json.dumps(rows[name])}")
        return answer[4] if answer else ""

    measure("read and decode", _floor, scratch)
    shutil.rmtree(scratch / "packed", ignore_errors=True)
    whole = measure("pack", _pack, scratch / "packed")
    shutil.rmtree(scratch / "packed")
    measure("pack, killed", _pack, scratch / "packed", int(killed_at * size))
    continued = measure("pack, continued", _pack, scratch / "packed")
    shutil.rmtree(scratch / "packed")
    typer.echo(f"the digest after the kill is {'the same' if whole == continued else 'ANOTHER'}: {continued}")
    results = [{"contestant": name, "group": "pack_rec", **row} for name, row in rows.items()]
    entry = record.record("pack_rec", results, faces=pictures, workers=workers, bytes=size)
    out.mkdir(parents=True, exist_ok=True)
    (out / "pack_rec.json").write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    if record_it:
        record.append(entry)
    if whole != continued:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
