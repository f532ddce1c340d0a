"""hrfr-fast: pack, feed, train and judge face embedders on data of mixed resolution.

The verbs of the command line as functions; each is imported when it is first used, so that ``import hrfr_fast`` is
cheap:

    align, derive, DeriveSettings                  hrfr_fast.preparation
    pack, open_packed, check_packed                hrfr_fast.packing and format
    inspect_packed                                 hrfr_fast.format
    synthesize, synthesize_packed                  hrfr_fast.synthetic
    TrainSettings, train, adopt, check_run         hrfr_fast.training
    evaluate, evaluate_protocol, compare_models    hrfr_fast.evaluation
    export, embed, compare_faces, search           hrfr_fast.deployment
    analyze, match_degradation                     hrfr_fast.analysis
    run_study                                      hrfr_fast.study
    bench                                          hrfr_fast.benchmarking
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hrfr_fast.runtime.version import __version__ as __version__

_HOME = {
    "pack": "hrfr_fast.packing.pack",
    "align": "hrfr_fast.preparation.align",
    "derive": "hrfr_fast.preparation.derive",
    "DeriveSettings": "hrfr_fast.preparation.derive_settings",
    "open_packed": "hrfr_fast.format.reader",
    "check_packed": "hrfr_fast.format.verify",
    "inspect_packed": "hrfr_fast.format.inspect",
    "synthesize": "hrfr_fast.synthetic.data_tree",
    "synthesize_packed": "hrfr_fast.synthetic.packed",
    "TrainSettings": "hrfr_fast.settings",
    "train": "hrfr_fast.training.trainer",
    "adopt": "hrfr_fast.training.adopt",
    "check_run": "hrfr_fast.training.check_run",
    "evaluate": "hrfr_fast.evaluation.evaluate",
    "evaluate_protocol": "hrfr_fast.evaluation.protocols.evaluate",
    "compare_models": "hrfr_fast.evaluation.protocols.compare",
    "export": "hrfr_fast.deployment.export",
    "embed": "hrfr_fast.deployment.embed",
    "compare_faces": "hrfr_fast.deployment.compare_faces",
    "search": "hrfr_fast.deployment.search",
    "analyze": "hrfr_fast.analysis.run",
    "match_degradation": "hrfr_fast.analysis.degradation_match",
    "run_study": "hrfr_fast.study.run",
    "bench": "hrfr_fast.benchmarking.measure",
}
__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from hrfr_fast.analysis.degradation_match import match_degradation as match_degradation
    from hrfr_fast.analysis.run import analyze as analyze
    from hrfr_fast.benchmarking.measure import bench as bench
    from hrfr_fast.deployment.compare_faces import compare_faces as compare_faces
    from hrfr_fast.deployment.embed import embed as embed
    from hrfr_fast.deployment.export import export as export
    from hrfr_fast.deployment.search import search as search
    from hrfr_fast.evaluation.evaluate import evaluate as evaluate
    from hrfr_fast.evaluation.protocols.compare import compare_models as compare_models
    from hrfr_fast.evaluation.protocols.evaluate import evaluate_protocol as evaluate_protocol
    from hrfr_fast.format.inspect import inspect_packed as inspect_packed
    from hrfr_fast.format.reader import open_packed as open_packed
    from hrfr_fast.format.verify import check_packed as check_packed
    from hrfr_fast.packing.pack import pack as pack
    from hrfr_fast.preparation.align import align as align
    from hrfr_fast.preparation.derive import derive as derive
    from hrfr_fast.preparation.derive_settings import DeriveSettings as DeriveSettings
    from hrfr_fast.settings import TrainSettings as TrainSettings
    from hrfr_fast.study.run import run_study as run_study
    from hrfr_fast.synthetic.data_tree import synthesize as synthesize
    from hrfr_fast.synthetic.packed import synthesize_packed as synthesize_packed
    from hrfr_fast.training.adopt import adopt as adopt
    from hrfr_fast.training.check_run import check_run as check_run
    from hrfr_fast.training.trainer import train as train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hrfr_fast' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
