"""hrfr-fast: pack, feed, train and judge face embedders on data of mixed resolution.

The verbs of the command line as functions; each is imported when it is first used, so that ``import hrfr_fast`` is
cheap:

    pack, open_packed, check_packed, synthesize    hrfr_fast.data
    TrainSettings, train                           hrfr_fast.training
    evaluate                                       hrfr_fast.evaluation
    analyze                                        hrfr_fast.analysis
    run_study                                      hrfr_fast.study
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "pack": "hrfr_fast.data.pack",
    "open_packed": "hrfr_fast.data.shards",
    "check_packed": "hrfr_fast.data.check",
    "inspect_packed": "hrfr_fast.data.inspect",
    "synthesize": "hrfr_fast.data.synthetic",
    "synthesize_packed": "hrfr_fast.data.synthetic",
    "TrainSettings": "hrfr_fast.settings",
    "train": "hrfr_fast.training.trainer",
    "evaluate": "hrfr_fast.evaluation.evaluate",
    "analyze": "hrfr_fast.analysis.run",
    "run_study": "hrfr_fast.study.run",
}
__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from hrfr_fast.analysis.run import analyze as analyze
    from hrfr_fast.data.check import check_packed as check_packed
    from hrfr_fast.data.inspect import inspect_packed as inspect_packed
    from hrfr_fast.data.pack import pack as pack
    from hrfr_fast.data.shards import open_packed as open_packed
    from hrfr_fast.data.synthetic import synthesize as synthesize
    from hrfr_fast.data.synthetic import synthesize_packed as synthesize_packed
    from hrfr_fast.evaluation.evaluate import evaluate as evaluate
    from hrfr_fast.settings import TrainSettings as TrainSettings
    from hrfr_fast.study.run import run_study as run_study
    from hrfr_fast.training.trainer import train as train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hrfr_fast' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
