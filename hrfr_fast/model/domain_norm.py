"""BatchNorm with statistics of its own for pictures of low and of high resolution.

After Chang et al., "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation", CVPR 2019
(arXiv 1906.03950), section 3.2: y_d = gamma_d (x - mu_d) / sqrt(var_d + eps) + beta_d, each domain d with the
statistics of its own rows. Here a domain is a resolution, "low" (native low resolution, and degraded views) or "high",
and it is known when a picture is embedded: from the size that was recorded for it. "separate" is their layer;
"statistics" shares gamma and beta.

The low domain has the names that an ordinary BatchNorm has, so that checkpoints gain keys and none is renamed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

LOW, HIGH = "low", "high"
KINDS = ("shared", "statistics", "separate")
"""Values of ``domain_norm``: one BatchNorm for all, statistics by domain, or statistics, scale and shift by domain."""


class Domains:
    """Which rows of a network's next batch are of which domain; one object for a network and all its layers.

    Either all rows are of one domain, or the network puts those of the low one in front (``ordered``), where a layer
    finds them with one cut, and puts the embeddings back (``restored``).
    """

    def __init__(self) -> None:
        self.of_all = ""
        """LOW or HIGH: every row; "": as follows."""
        self.native = 0
        """Leading rows of native low resolution."""
        self.pairs = 0
        """Pairs of rows behind them: sharp, degraded, sharp, ... (``sampling/two_view_stream.py``)."""

    def ordered(self, rows: Tensor) -> Tensor:
        """``rows`` [B, ...] with those of the low domain in front: native, degraded, sharp."""
        if self.of_all or not self.pairs:
            return rows
        return torch.cat([rows[: self.native], rows[self.native + 1 :: 2], rows[self.native :: 2]])

    def restored(self, rows: Tensor) -> Tensor:
        """The inverse of ``ordered``."""
        if self.of_all or not self.pairs:
            return rows
        degraded, sharp = rows[self.native :].chunk(2)
        return torch.cat([rows[: self.native], torch.stack([sharp, degraded], dim=1).flatten(0, 1)])

    def low_rows(self, count: int) -> int:
        """How many of ``count`` ordered rows are of the low domain. Raises RuntimeError where nobody has said."""
        if self.of_all:
            return count if self.of_all == LOW else 0
        if not self.native and not self.pairs:
            raise RuntimeError("a network with BatchNorm by resolution was not told the resolution of its pictures")
        return self.native + self.pairs


class _DomainBatchNorm(_BatchNorm):
    """A BatchNorm in place of ``norm``, whose statistics and weights both domains begin with.

    Args:
        separate: scale and shift are one a domain too.
    """

    high_mean: Tensor
    high_var: Tensor

    def __init__(self, norm: _BatchNorm, domains: Domains, *, separate: bool) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.load_state_dict(norm.state_dict())
        assert self.running_mean is not None and self.running_var is not None
        self.register_buffer("high_mean", self.running_mean.clone())
        self.register_buffer("high_var", self.running_var.clone())
        self.domains, self.separate = domains, separate
        if separate:
            self.high_weight = nn.Parameter(self.weight.detach().clone())
            self.high_bias = nn.Parameter(self.bias.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, ...] of any float type; in training every domain that has rows needs two values a channel."""
        low = self.domains.low_rows(len(input))
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        parts = [(input[:low], LOW), (input[low:], HIGH)] if 0 < low < len(input) else [(input, LOW if low else HIGH)]
        made = [self._normalised(rows, domain) for rows, domain in parts]
        return torch.cat(made) if len(made) > 1 else made[0]

    def _normalised(self, rows: Tensor, domain: str) -> Tensor:
        self._check_input_dim(rows)
        high, own = domain == HIGH, domain == HIGH and self.separate
        return functional.batch_norm(
            rows, self.high_mean if high else self.running_mean, self.high_var if high else self.running_var,
            self.high_weight if own else self.weight, self.high_bias if own else self.bias,
            self.training, self.momentum or 0.0, self.eps,
        )  # fmt: skip

    def of_domain(self, domain: str) -> _BatchNorm:
        """An ordinary BatchNorm with the numbers of ``domain``."""
        flat = isinstance(self, nn.BatchNorm1d)
        made: _BatchNorm = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(self.num_features, self.eps, self.momentum)
        state = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("high_")}
        if domain == HIGH:
            state |= {"running_mean": self.high_mean, "running_var": self.high_var}
            state |= {"weight": self.high_weight, "bias": self.high_bias} if self.separate else {}
        made.load_state_dict(state)
        return made.train(self.training)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: object) -> None:
        """Both domains begin with what a checkpoint of an ordinary BatchNorm, or of shared weights, holds."""
        ordinary = {"high_mean": "running_mean", "high_var": "running_var"}
        ordinary |= {"high_weight": "weight", "high_bias": "bias"} if getattr(self, "separate", False) else {}
        for name, other in ordinary.items():
            if hasattr(self, "high_mean") and prefix + other in state_dict:
                state_dict.setdefault(prefix + name, state_dict[prefix + other].clone())
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class DomainBatchNorm1d(_DomainBatchNorm, nn.BatchNorm1d):
    """Of [B, C]."""


class DomainBatchNorm2d(_DomainBatchNorm, nn.BatchNorm2d):
    """Of [B, C, H, W]; the memory format stays."""


def add_domains(network: nn.Module, kind: str) -> Domains:
    """Replace every BatchNorm in ``network`` by one with two domains, in place; ``kind``: see KINDS."""
    domains = Domains()
    for module in list(network.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, _BatchNorm):
                made = DomainBatchNorm1d if isinstance(norm, nn.BatchNorm1d) else DomainBatchNorm2d
                setattr(module, name, made(norm, domains, separate=kind == "separate"))
    return domains


def keep_domain(network: nn.Module, domain: str) -> None:
    """Replace every BatchNorm with two domains by an ordinary one, that of ``domain``, in place."""
    for module in list(network.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, _DomainBatchNorm):
                setattr(module, name, norm.of_domain(domain))
        if isinstance(getattr(module, "domains", None), Domains) and not isinstance(module, _DomainBatchNorm):
            setattr(module, "domains", None)  # noqa: B010


def domains_of(model: nn.Module) -> Domains | None:
    """The domains of a network, also inside of another module; None where its BatchNorm, if any, is an ordinary one."""
    return next((part.domains for part in model.modules() if isinstance(part, _DomainBatchNorm)), None)


@contextmanager
def in_domain(model: nn.Module, domain: str) -> Iterator[None]:
    """Embed rows of one domain, LOW or HIGH, inside; nothing where the model has none."""
    domains = domains_of(model)
    if domains is None:
        yield
        return
    before, domains.of_all = domains.of_all, domain
    try:
        yield
    finally:
        domains.of_all = before


def domain_of_side(model: nn.Module, side: int, *, swapped: bool = False) -> str:
    """The domain of pictures of ``side`` pixels, as the model's settings draw the line; ``swapped``: the other one."""
    limit = next(
        (getattr(part.settings, "domain_limit", 0) for part in model.modules() if hasattr(part, "settings")), 0
    )
    return LOW if (side <= limit) != swapped else HIGH


def domain_limit(low: int, high: int) -> int:
    """Largest side in pixels of a picture of low resolution, between training pictures of ``low`` and ``high`` px.

    Their geometric mean, as resolutions are ratios: 72 px between 36 and 144.
    """
    return round((low * high) ** 0.5)
