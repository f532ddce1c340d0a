"""Packed noise of a given scale: training is as fast on it as on faces."""

import sys
import time
from collections.abc import Sequence

from benchmarks.made_shards import NOISE_SCALES, write_noise
from tools.gpu_stages.report import StageReport, parser_of


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--scale", choices=NOISE_SCALES, required=True)
    report = StageReport(parser.parse_args(arguments))
    began = time.perf_counter()
    write_noise(report.data, report.options.scale)
    size = sum(path.stat().st_size for path in report.data.iterdir())
    report.add("data", scale=report.options.scale, seconds=time.perf_counter() - began, gigabytes=size / 1e9)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
