"""An adopted ONNX graph beside the network it became: the same embeddings of the same pictures."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.optional import require_export

LARGEST = 1e-4  # of unit embeddings; exact folding leaves 1e-6


def refuse_other_embeddings(path: Path, network: nn.Module, size: int, *, takes_pixels: bool) -> float:
    """The largest difference between unit embeddings of random pictures.

    Args:
        network: in evaluation mode, RGB in [-1, 1] to embeddings.
        takes_pixels: the graph is fed pixel values, 0 to 255.

    Raises:
        UsageError: they differ, so the graph has another structure than its layers told; the graph does not run, or
            onnxruntime is not installed.
    """
    onnxruntime = require_export("onnxruntime", f"comparing {path} with our network")
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # none: it prints names in the graph as they are, escape sequences too
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        fed = (127.5 * images + 127.5 if takes_pixels else images).numpy()
        name = session.get_inputs()[0].name  # one picture at a time: some graphs have a fixed batch of one
        theirs = np.concatenate([session.run(None, {name: fed[number : number + 1]})[0] for number in range(2)])
    except Exception as error:  # ONNX Runtime raises classes of its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"{path}: ONNX Runtime cannot run it: {reason}") from None
    with torch.inference_mode():
        ours = nn.functional.normalize(network(images)).numpy()
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    difference = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
    if not difference < LARGEST:
        raise UsageError(
            f"{path}: its layers were matched, but its embeddings are not those of our network (largest difference "
            f"{difference:.2g}): the graph is of another structure"
        )
    return difference
