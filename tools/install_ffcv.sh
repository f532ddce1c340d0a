#!/usr/bin/env bash
# Build and install ffcv into the virtual environment given as $1 (default .venv).
#
# ffcv 1.0.2 comes as source only and asks pkg-config for all of OpenCV. Debian's answer names modules that pull in
# 2 GB; ffcv uses core and imgproc alone. So a small opencv4.pc and an opencv2/opencv.hpp that includes just those two
# are put first in its way.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${1:-.venv}/bin/python
shim=$(mktemp -d)
trap 'rm -rf "$shim"' EXIT
mkdir -p "$shim/opencv2"
printf '#pragma once\n#include <opencv2/core.hpp>\n#include <opencv2/imgproc.hpp>\n' >"$shim/opencv2/opencv.hpp"
include=/usr/include/opencv4
cat >"$shim/opencv4.pc" <<PC
Name: opencv4
Description: OpenCV core and imgproc only
Version: 4
Libs: -lopencv_imgproc -lopencv_core
Cflags: -I$shim -I$include
PC
export PKG_CONFIG_PATH="$shim${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
"$python" -m pip install --quiet -c "$here/../constraints.txt" 'setuptools<81' wheel
"$python" -m pip install --quiet --no-build-isolation -c "$here/../constraints.txt" 'ffcv==1.0.2'
"$python" -c 'import ffcv' && echo "ffcv is installed"
