"""Packed noise of a given scale: training is as fast on it as on faces."""

import sys
import time
from collections.abc import Sequence

from benchmarks.made_shards import NOISE_SCALES, write_noise
from tools.gpu_stages.findings import Findings, parser_of


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--scale", choices=NOISE_SCALES, required=True)
    found = Findings(parser.parse_args(arguments))
    began = time.perf_counter()
    write_noise(found.data, found.options.scale)
    size = sum(path.stat().st_size for path in found.data.iterdir())
    found.tell("data", scale=found.options.scale, seconds=time.perf_counter() - began, gigabytes=size / 1e9)
    return found.exit_code


if __name__ == "__main__":
    sys.exit(main())
