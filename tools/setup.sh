#!/usr/bin/env bash
# Make the virtual environment $1 for $2: `demo`, what running on a CPU needs; or `tests`, everything: also DALI (1 GB
# on the disk, of no use without an NVIDIA card), FFCV, which is built here, the development tools, and what builds
# the documentation.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 purpose=$2
python=${PYTHON:-python3}

# What OpenCV and numba need to run, and for the tests what FFCV needs to be built; apt is asked for what is missing.
packages=(libgomp1 libgl1 libglib2.0-0 libxcb1)
[ "$purpose" = demo ] || packages+=(g++ pkg-config libturbojpeg0-dev libopencv-core-dev libopencv-imgproc-dev)
if command -v dpkg-query >/dev/null; then
    listed=$(tools/missing_packages.sh "${packages[@]}")
    read -r -d '' -a missing <<<"$listed" || true
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=("python$version-venv")
    has_headers='import sysconfig, os, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
    [ "$purpose" = demo ] || "$python" -c "$has_headers" || missing+=("python$version-dev")
    if ((${#missing[@]})); then
        if [ "$(id -u)" = 0 ]; then
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
        else
            echo "error: system packages are missing; install them and run make again:" >&2
            echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
            exit 1
        fi
    fi
else
    echo "note: not a Debian or Ubuntu system; these packages (or their like) are needed: ${packages[*]}" >&2
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# In the environment the pins hold for what builds packages, too; on the command line they would not.
# As a URL, since pip takes what a space divides in these variables for several files.
PIP_CONSTRAINT=$("$python" -c 'import pathlib; print(pathlib.Path("constraints.txt").resolve().as_uri())')
export PIP_CONSTRAINT PIP_BUILD_CONSTRAINT=$PIP_CONSTRAINT
install=("$venv/bin/python" -m pip install --quiet --no-compile)
"${install[@]}" torch # first: FFCV's build and everything else settle for the build of it that is there
if [ "$purpose" = demo ]; then
    mapfile -t needed < <("$venv/bin/python" - <<'PY'
import tomllib

with open("pyproject.toml", "rb") as file:
    for requirement in tomllib.load(file)["project"]["dependencies"]:
        if not requirement.startswith("nvidia-dali"):
            print(requirement)
PY
    )
    "${install[@]}" "${needed[@]}"
    "${install[@]}" --no-deps -e .
else
    "${install[@]}" -e '.[dev,docs]' "tbb; platform_machine == 'x86_64'"
    ./tools/install_ffcv.sh "$venv"
fi
# In place of pip's own compiling, which uses one core and does the libraries' tests, too. What only older or newer
# Pythons can read is no error here.
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
PYTHONWARNINGS=ignore "$venv/bin/python" -m compileall -q -j 0 -x 'site-packages/.*/tests?/' "$packages" >/dev/null || true
