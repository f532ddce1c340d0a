#!/usr/bin/env bash
# Make the virtual environment $1 with everything: the package, its development tools, FFCV.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
python=${PYTHON:-python3}

# What building FFCV and running OpenCV need; nothing is asked of apt where all are there.
packages=(g++ pkg-config libturbojpeg0-dev libopencv-core-dev libopencv-imgproc-dev libgomp1 libgl1 libglib2.0-0 libxcb1)
if command -v dpkg-query >/dev/null; then
    missing=()
    for package in "${packages[@]}"; do
        # Newer releases renamed some (libglib2.0-0t64): a package that another one provides counts as there.
        dpkg-query -W -f '${Status} ${Package} ${Provides}\n' 2>/dev/null |
            grep -q "^install ok installed.*[ ,]${package//+/\\+}\([ ,]\|$\)" || missing+=("$package")
    done
    "$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
    "$python" -c 'import sysconfig, os, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        missing+=(python3-dev)
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
"$venv/bin/python" -m pip install --quiet -c constraints.txt torch
"$venv/bin/python" -m pip install --quiet -c constraints.txt -e '.[dev]' tbb
./tools/install_ffcv.sh "$venv"
