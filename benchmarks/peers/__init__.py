"""Every loader that is measured, by name: our engines and the loaders in common use, one file each.

``load("opencv")`` imports its file and nothing else, so a process holds only the libraries it measures.
"""

from importlib import import_module

from benchmarks.peers.base import Peer

ENGINES = {"resident": "ours", "dali": "ours", "ffcv": "ours"}
PEERS = {
    "torch+PIL": "torch_pil",
    "torch+OpenCV": "torch_opencv",
    "stock FFCV": "stock_ffcv",
    "stock DALI": "stock_dali",
    "stock DALI mxnet": "stock_dali_mxnet",
    "SPDL": "spdl_threads",
    "WebDataset": "web_dataset",
    "LitData": "lit_data",
}
PIXELS = {
    "DALI external source": "pixels_dali",
    "torch interpolate": "pixels_torch",
    "cv2.resize": "pixels_opencv",
    "FFCV raw copy": "pixels_ffcv_copy",
}
"""Loaders that start from decoded pixels."""


def load(name: str) -> Peer:
    """The loader of that name."""
    loader: Peer
    if name in ENGINES:
        loader = import_module("benchmarks.peers.ours").Engine(name)
    else:
        loader = import_module(f"benchmarks.peers.{(PEERS | PIXELS)[name]}").Loader()
    return loader
