"""The exponential moving average of a model's weights: smoother than the last step's, at no cost in evaluation."""

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """A copy of backbone and head whose numbers follow theirs: average = d average + (1 - d) weight after each step.

    BatchNorm's running statistics are averaged as weights are; integers are copied. After step t (from 0) d is
    min(decay, (1 + t) / (10 + t)), so that the initial weights are soon forgotten.

    Args:
        backbone, head: the trained modules, on their device.
        decay: d in the long run, in (0, 1); the average reaches back over about 1 / (1 - d) steps.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, decay: float) -> None:
        self.decay = decay
        self.backbone, self.head = (copy.deepcopy(module).eval().requires_grad_(False) for module in (backbone, head))
        pairs = [
            (ours, theirs)
            for average, trained in ((self.backbone, backbone), (self.head, head))
            for ours, theirs in zip(_tensors(average), _tensors(trained), strict=True)
        ]
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._integers = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step ``step`` (0-based). A few kernels on CUDA, and no synchronisation."""
        decay = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = zip(*self._floats, strict=True)
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for average, trained in self._integers:
            average.copy_(trained)

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name, for a checkpoint."""
        return {"backbone": self.backbone.state_dict(), "head": self.head.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What ``state_dict`` gave, written in place."""
        self.backbone.load_state_dict(state["backbone"])
        self.head.load_state_dict(state["head"])


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*(parameter.detach() for parameter in module.parameters()), *module.buffers()]
