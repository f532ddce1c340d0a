"""Everything that is measured, by name: our engines and the loaders people use today. One file each.

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
"""Peers that start from decoded pixels."""


def load(name: str) -> Peer:
    """The peer or engine of that name."""
    peer: Peer
    if name in ENGINES:
        peer = import_module("benchmarks.peers.ours").Engine(name)
    else:
        peer = import_module(f"benchmarks.peers.{(PEERS | PIXELS)[name]}").Peer()
    return peer
