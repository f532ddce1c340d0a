"""Whether a run's head is sharded over ranks and its classes sampled, and what a step then does beside the usual."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hrfr_fast.model.class_shards import ClassShard
from hrfr_fast.model.heads import MarginHead
from hrfr_fast.model.partial_fc import ClassSampling, sample_classes
from hrfr_fast.model.peers import Peers
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.ranks import Ranks
from hrfr_fast.settings import TrainSettings

if TYPE_CHECKING:
    from torch.amp import GradScaler
    from torch.optim import Optimizer

WORTH_SHARDING = 1 << 30
"""Bytes of float32 class vectors from which on auto shards them: momentum and gradient are as much each, and with
replicas the gradient travels in every step."""


def class_shard(settings: TrainSettings, classes: int, ranks: Ranks, say: Callable[[str], None]) -> ClassShard | None:
    """The part of the head's classes that this rank holds; None where it holds all and uses all in each step.

    Raises UsageError for sampled classes that are not to be sharded, and for more ranks than classes.
    """
    choice, sampled = settings.execution.shard_head, settings.loss.partial_fc < 1
    if not ranks.distributed:
        return ClassShard(classes, Peers()) if sampled else None
    if choice == "off":
        if sampled:
            raise UsageError(
                "--partial-fc on several ranks needs the identities shared out among them: --shard-head on, not off"
            )
        return None
    size = 4 * classes * settings.model.embedding_size
    if choice == "auto" and not sampled and size < WORTH_SHARDING:
        return None
    shard = ClassShard(classes, Peers())
    if choice == "auto":
        say(
            f"the head's {classes:,} identities ({size / 1e9:.1f} GB) are shared out among {ranks.count} ranks,"
            f" {len(shard.rows):,} each"
        )
    return shard


def add_sampling(head: nn.Module, settings: TrainSettings, batch_size: int) -> None:
    """With ``partial_fc`` below 1 a share of the classes takes part in each step."""
    if isinstance(head, MarginHead) and settings.loss.partial_fc < 1:
        sample_classes(head, ClassSampling(settings.loss.partial_fc, settings.seed, batch_size))


class SampledRows:
    """The rows of a step: chosen and fetched before it, put back after it; of an objective without any, nothing."""

    def __init__(self, objective: object) -> None:
        modules = objective.modules() if isinstance(objective, nn.Module) else ()
        heads = [part for part in modules if isinstance(part, MarginHead) and part.shard]
        self.head = next((head for head in heads if head.shard and head.shard.sampling), None)

    def take(self, optimizer: "Optimizer", labels: Tensor, step: int | Tensor) -> None:
        """Before the forward pass; ``labels``: of all micro-batches of this rank."""
        if self.head and self.head.shard and self.head.shard.sampling:
            self.head.shard.sampling.choose(self.head, labels, step)
            self.head.shard.sampling.take_rows(self.head, optimizer)

    def put_back(self, optimizer: "Optimizer") -> None:
        """After the optimiser's step."""
        if self.head and self.head.shard and self.head.shard.sampling:
            self.head.shard.sampling.put_rows(self.head, optimizer)


class ShardedGradients:
    """What has to be known of gradients over all ranks, where some of them are of one rank's rows.

    Args:
        modules: all that train.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        heads = [part for module in modules for part in module.modules() if isinstance(part, MarginHead)]
        sharded = [head for head in heads if head.sharded]
        self.peers = sharded[0].shard.peers if sharded and sharded[0].shard else None
        self._own = {id(parameter) for head in sharded for parameter in head.parameters()}

    def share_overflow(self, optimizer: "Optimizer", scaler: "GradScaler") -> None:
        """Let all ranks skip a step that one of them has to skip; after the gradients are unscaled."""
        if self.peers and scaler.is_enabled():
            for found in scaler._found_inf_per_device(optimizer).values():
                self.peers.max(found)

    def clip(self, parameters: list[nn.Parameter], largest: float) -> None:
        """Scale all gradients so that their norm together, over all ranks' rows, is at most ``largest``."""
        if not self.peers:
            # On CUDA foreach kernels; no host synchronisation, since error_if_nonfinite is off.
            torch.nn.utils.clip_grad_norm_(parameters, largest)
            return
        gradients = [(id(p) in self._own, p.grad) for p in parameters if p.grad is not None]
        own, shared = (
            torch.nn.utils.get_total_norm([gradient for is_own, gradient in gradients if is_own == wanted]).square()
            for wanted in (True, False)
        )
        device = gradients[0][1].device
        norm = (self.peers.sum(own.to(device)) + shared.to(device)).sqrt()
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
