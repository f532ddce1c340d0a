"""Coverage-guided fuzzing of every parser of files: ``python tools/fuzz.py --seconds 60 [TARGET ...]``.

It needs atheris (``pip install atheris``; libFuzzer for Python). Each target runs in a process of its own, from the
good files of its kind, the cases of earlier findings, and the corpus that earlier runs left in ``--corpus``. Seconds
are of CPU time, so that a crowded machine takes longer and looks as far. Anything but the project's own errors is a
finding, and so are an allocation beyond ``MEGABYTES`` and more than ``SLOW`` seconds for one input: the shortest input
of each is left in ``<corpus>/<target>.findings``, called by its error and line. Mend it, and put the input into
``tests/fuzz/cases/<target>/``.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "fuzz" / "cases"
MEGABYTES, SLOW = 4096, 20
"""Of the whole process, libraries and the fuzzer's own tables included; torch alone takes 500."""
LONGEST = 1 << 18  # bytes of an input
_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
CROWDED = 60
"""How many times its CPU time a target may take, before it is ended as one that waits."""


def fuzz(name: str, corpus: Path, seconds: int, seed: int) -> list[str]:
    """Fuzz one target in a process of its own. Returns the names of the findings there are.

    Raises RuntimeError where the process ended, without a finding, before its time.
    """
    place, findings = corpus / name, corpus / f"{name}.findings"
    for folder in (place, findings):
        folder.mkdir(parents=True, exist_ok=True)
    cases = [str(CASES / name)] if (CASES / name).is_dir() else []
    command = [
        sys.executable, __file__, "--one", name, str(seconds), str(findings), str(place), *cases,
        f"-max_total_time={CROWDED * seconds}", f"-artifact_prefix={findings}/crash-", f"-rss_limit_mb={MEGABYTES}",
        f"-timeout={SLOW}", f"-max_len={LONGEST}", f"-seed={seed}", "-print_final_stats=1",
    ]  # fmt: skip
    # The process ends without cleaning up: the folder that its inputs are written to is this one's.
    with open(corpus / f"{name}.log", "ab") as log, tempfile.TemporaryDirectory(dir=_MEMORY) as scratch:
        surroundings = _environment() | {"TMPDIR": scratch}
        ended = subprocess.run(command, cwd=ROOT, env=surroundings, stdout=log, stderr=log, check=False).returncode
    found = sorted(path.name for path in findings.iterdir())
    if ended and not found:
        raise RuntimeError(f"it ended with status {ended}; see {corpus / name}.log")
    return found


def _processor_seconds() -> float:
    """CPU time of all targets that were fuzzed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}


def _one(name: str, seconds: int, findings: Path, arguments: list[str]) -> None:
    """libFuzzer's loop over one target for ``seconds`` of CPU time, its start not counted; goes on behind an error,
    but not behind a crash of the process."""
    import atheris

    with atheris.instrument_imports(include=["hrfr_fast", "tomllib", "json", "csv", "zipfile", "gzip"]):
        from tools.fuzz_targets import TARGETS
    target = TARGETS[name]
    resource.setrlimit(resource.RLIMIT_AS, (2 * MEGABYTES << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number, content in enumerate(target.seeds(folder)):
            seed = Path(arguments[0]) / f"seed-{number}"
            seed.write_bytes(content)

        until = time.process_time() + seconds

        def one_input(content: bytes) -> None:
            if time.process_time() > until:
                os.kill(os.getpid(), signal.SIGUSR1)  # libFuzzer writes its figures and ends
            try:
                target.accepts(content, folder)
            except Exception as error:
                _keep(findings, content, error)

        atheris.Setup([sys.argv[0], *arguments], one_input)
        atheris.Fuzz()


def _keep(findings: Path, content: bytes, error: Exception) -> None:
    """Keep the shortest input of each error and place in the project."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT) in frame.filename]
    where = f"{Path(frames[-1].filename).stem}-{frames[-1].lineno}" if frames else "unknown"
    path = findings / f"{type(error).__name__}-{where}"
    if path.exists() and path.stat().st_size <= len(content):
        return
    if not path.exists():
        traceback.print_exception(error)
    path.write_bytes(content)


def main() -> int:
    """Command line. The exit status is 1 where there was a finding."""
    if sys.argv[1:2] == ["--one"]:
        _one(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="names; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="of CPU time, for each target")
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    from tools.fuzz_targets import TARGETS

    unknown = sorted(set(options.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no target is called {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    failed = []
    for name in options.targets or TARGETS:
        started, before = time.monotonic(), _processor_seconds()
        try:
            found = fuzz(name, options.corpus.resolve(), options.seconds, options.seed)
            said = f"FINDINGS: {', '.join(found)}" if found else "no finding"
        except RuntimeError as error:
            found, said = [str(error)], f"NOT FUZZED: {error}"
        took = f"{time.monotonic() - started:.0f} s, {_processor_seconds() - before:.0f} s of CPU"
        print(f"{name}: {took}, {said}", flush=True)
        failed += [name] if found else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
