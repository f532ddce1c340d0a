"""What each of several ranks computes for ``test_ranks.py``; alone it computes what they have to agree with.

``part`` is this rank's share of a batch: ranks get different numbers of samples.
"""

import copy

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hrfr_fast.model.backbones.base import _frozen_statistics
from hrfr_fast.model.peers import Peers
from hrfr_fast.model.sync_batchnorm import convert_sync_batchnorm

BATCH, CHANNELS = 12, 5


def part(peers, rows=BATCH):
    """This rank's rows: the first ranks have one more, rank 0 two more."""
    bounds = [0, *(rows * (rank + 1) // peers.count + (rank + 1 < peers.count) for rank in range(peers.count))]
    return slice(bounds[peers.rank], bounds[peers.rank + 1])


def network(seed=0, **options):
    torch.manual_seed(seed)
    layers = [  # no biases: a norm after them makes their gradients 0
        nn.Conv2d(3, CHANNELS, 3, bias=False), nn.BatchNorm2d(CHANNELS, **options), nn.PReLU(),
        nn.Conv2d(CHANNELS, 4, 3, bias=False), nn.BatchNorm2d(4, **options), nn.PReLU(),
        nn.Flatten(), nn.Linear(4 * 16, 6, bias=False), nn.BatchNorm1d(6, **options),
    ]  # fmt: skip
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 1.5), nn.init.normal_(layer.bias)
    return nn.Sequential(*layers)


def plain(model, images):
    return model(images)


def recomputed(model, images):
    for layer in model:
        images = checkpoint(
            layer, images, use_reentrant=False, preserve_rng_state=False, context_fn=_frozen_statistics(layer)
        )
    return images


def in_bfloat16(model, images):
    with torch.autocast("cpu", torch.bfloat16):
        return model(images.to(memory_format=torch.channels_last))


def first_norm_frozen(model, images):
    model[1].eval().requires_grad_(False)
    return model(images)


NORMS = {
    "plain": (plain, {}),
    "recomputed": (recomputed, {}),
    "bfloat16, channels last": (in_bfloat16, {}),
    "first norm frozen": (first_norm_frozen, {}),
    "average of all batches": (plain, {"momentum": None}),
    "no scale and shift": (plain, {"affine": False}),
    "no running statistics": (plain, {"track_running_stats": False}),
}


def normalised(forward, options, peers, steps=2):
    """Outputs of this rank's part, gradients by its images, and by weights (summed over ranks), statistics at last."""
    model = convert_sync_batchnorm(network(**options), peers.group) if peers.count > 1 else network(**options)
    rows, result = part(peers), {}
    for step in range(steps):
        torch.manual_seed(100 + step)
        images = 3 + torch.randn(BATCH, 3, 8, 8)
        images[: BATCH // 3] *= 4  # ranks see different statistics
        target = torch.randn(BATCH, 6)
        own = images[rows].requires_grad_()
        outputs = forward(model, own)
        ((outputs.float() - target[rows]).square().sum()).backward()
        result[f"outputs {step}"], result[f"by images {step}"] = outputs.detach().float(), own.grad
    result |= {f"by {name}": peers.sum(p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None}
    return result | {f"state {name}": value.clone() for name, value in model.state_dict().items()}


def copies(peers):
    """A copy of a synchronised model is one, too, and in evaluation it is torch's to the bit."""
    model = convert_sync_batchnorm(network(), peers.group)
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    copied, ordinary = copy.deepcopy(model).eval(), network().eval()
    return {"equal": torch.equal(copied(images), ordinary(images)), "own": copied[1].peers is model[1].peers}


def cases(peers):
    """All of them for ``peers``, which may be one rank."""
    results = {f"norm: {name}": normalised(*options, peers) for name, options in NORMS.items()}
    return results | {"copies": copies(peers)}


def alone():
    """The reference."""
    return cases(Peers())
