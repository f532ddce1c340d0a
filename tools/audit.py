"""Known vulnerabilities of what ``constraints.txt`` pins: ``python tools/audit.py``, or ``make audit``.

pip-audit asks PyPI's advisory service, so this needs the network. It is installed into a virtual environment of its own
(``build/audit``). Exit code 1: something pinned is vulnerable. Where nothing, or not everything, could be looked up,
that is said in words; with ``--strict`` it ends with exit code 2, too.
"""

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PINNED = ROOT / "constraints.txt"
TOOL = "pip-audit>=2.7,<3"


def installed(place: Path) -> Path | None:
    """Python of a virtual environment at ``place`` that has pip-audit; None where it cannot be installed."""
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
    has = subprocess.run([python, "-c", "import pip_audit"], capture_output=True)
    if has.returncode:
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", TOOL], capture_output=True, encoding="utf-8")
        if done.returncode:
            print(f"{TOOL} cannot be installed: {_last_line(done.stderr)}")
            return None
    return python


def audited(python: Path) -> dict[str, Any] | None:
    """What pip-audit says of the pinned packages, None where it could not ask."""
    command: list[str | Path] = [
        python,
        "-m",
        "pip_audit",
        "-r",
        PINNED,
        "--no-deps",
        "--disable-pip",
        "--progress-spinner",
        "off",
    ]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, encoding="utf-8")
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        print(f"pip-audit gave no answer: {_last_line(done.stderr)}")
        return None
    return found


def report(found: dict[str, Any] | None) -> tuple[list[str], bool, bool]:
    """Lines to print, whether something is vulnerable, and whether all was looked up."""
    packages = found["dependencies"] if found else []
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    known = len(packages) - len(skipped)
    lines = [
        f"VULNERABLE: {one['name']} {one['version']}: {flaw['id']}, fixed in"
        f" {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in packages
        for flaw in one.get("vulns", ())
    ]
    vulnerable = bool(lines)
    if not known:
        lines.append("NOT AUDITED: no advisory could be looked up; run `make audit` where PyPI can be reached")
    elif skipped:
        lines.append(f"NOT AUDITED: {len(skipped)} of {len(packages)} packages, such as {skipped[0]}")
    if known and not vulnerable:
        lines.append(f"{known} of {len(packages)} pinned packages have no known vulnerability")
    return lines, vulnerable, bool(known) and not skipped


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strict", action="store_true", help="fail where not everything could be looked up")
    options = parser.parse_args()
    python = installed(ROOT / "build" / "audit")
    lines, vulnerable, complete = report(audited(python) if python else None)
    print("\n".join(lines))
    return 1 if vulnerable else 2 if options.strict and not complete else 0


if __name__ == "__main__":
    sys.exit(main())
