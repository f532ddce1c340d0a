"""What each of several ranks computes for ``test_ranks.py``; alone it computes what they have to agree with.

``part`` is this rank's share of a batch: ranks get different numbers of samples.
"""

import copy
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hrfr_fast.model import heads
from hrfr_fast.model.backbones.base import frozen_statistics
from hrfr_fast.model.class_shards import ClassShard
from hrfr_fast.model.partial_fc import ClassSampling, sample_classes
from hrfr_fast.model.sync_batchnorm import convert_sync_batchnorm
from hrfr_fast.training.sharding import ShardedGradients

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
            layer, images, use_reentrant=False, preserve_rng_state=False, context_fn=frozen_statistics(layer)
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


CLASSES, DIMENSIONS, SAMPLES = 101, 16, 12
HEADS = {
    f"{name}, {entries} entries, {dtype}, {reduction}": (name, entries, getattr(torch, dtype), reduction)
    for name, entries, dtype, reduction in [
        *((name, 12 * 7, "float32", "mean") for name in heads.HEADS),
        ("arcface", heads.ENTRIES, "float32", "mean"),
        ("arcface", heads.ENTRIES, "bfloat16", "mean"),
        ("arcface", 12 * 7, "bfloat16", "mean"),
        ("cosface", 12 * 7, "float32", "none"),
    ]
}
STEP = 200


def batch(seed=3):
    """Embeddings around their class vectors: at 80 degrees and less, and a few labels twice."""
    torch.manual_seed(seed)
    labels = torch.randint(CLASSES, (SAMPLES,))
    labels[:3] = torch.tensor([0, CLASSES - 1, 0])  # the first rank's first and the last rank's last class
    return torch.randn(SAMPLES, DIMENSIONS) * 3, labels


def sharded_head(name, entries, dtype, reduction, peers):
    """Loss, gradients and buffers of two steps in which weights stay and AdaFace's averages move."""
    torch.manual_seed(7)
    shard = ClassShard(CLASSES, peers) if peers.count > 1 else None
    head = heads.build_head(name, DIMENSIONS, CLASSES, shard=shard)
    head.chunk_entries, head.matmul_dtype = entries, dtype
    embeddings, labels = batch()
    rows, result = slice(SAMPLES * peers.rank // peers.count, SAMPLES * (peers.rank + 1) // peers.count), {}
    for step in range(2):
        own = (embeddings[rows] * (1 + step)).requires_grad_()
        loss = head(own, labels[rows], STEP, reduction=reduction)
        (1024 * loss.mean()).backward()  # as a loss scaler does
        result[f"losses {step}" if reduction == "none" else f"loss {step}"] = loss.detach()
        result[f"by embeddings {step}"] = own.grad / peers.count
    result |= {"by weight": head.weight.grad.clone(), "random number": torch.rand(1), "weight": head.weight.detach()}
    return result | {f"buffer {name}": value.clone() for name, value in head.named_buffers()}


RATE, SEED, MANY = 0.3, 2**40 + 5, 401
SGD = partial(torch.optim.SGD, lr=0.5, momentum=0.9, weight_decay=0.01)


def partial_batch(step):
    torch.manual_seed(50 + step)
    return torch.randn(SAMPLES, DIMENSIONS) * 3, torch.randint(MANY, (SAMPLES,))


def partial_fc(peers, steps=4, rate=RATE, optimizer=SGD):
    """The weights after some steps of two micro-batches each, their momenta, the losses, and who took part."""
    torch.manual_seed(7)
    shard = ClassShard(MANY, peers)
    head = heads.build_head("arcface", DIMENSIONS, MANY, shard=shard)
    sample_classes(head, ClassSampling(rate, SEED, SAMPLES))
    optimizer, result = optimizer([head.sampled]), {}
    rows = slice(SAMPLES * peers.rank // peers.count, SAMPLES * (peers.rank + 1) // peers.count)
    for step in range(steps):
        embeddings, labels = (tensor[rows] for tensor in partial_batch(step))
        shard.sampling.choose(head, labels, torch.tensor(step))
        shard.sampling.take_rows(head, optimizer)
        loss = 0
        for some, theirs in zip(embeddings.chunk(2), labels.chunk(2), strict=True):
            part_loss = head(some, theirs, step) / 2
            part_loss.backward()
            loss += part_loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        shard.sampling.put_rows(head, optimizer)
        result[f"loss {step}"] = loss
        result[f"took part {step}"] = head.sampled_rows[~head.left_out] + shard.rows.start
    result["weight"] = head.weight.clone()
    momenta = {n: v for n, v in optimizer.state[head.sampled].items() if n.startswith("all_rows.")}
    return result | momenta | {"keys": list(head.state_dict())}


def clipped(peers):
    """Gradients of a sharded head and of a layer that all ranks have, clipped to a norm of 2."""
    head, layer = heads.build_head("cosface", 8, 21, shard=ClassShard(21, peers)), torch.nn.Linear(3, 3)
    torch.manual_seed(5)
    head.weight.grad = torch.randn(21, 8)[head.shard.rows.start : head.shard.rows.stop]
    layer.weight.grad = torch.randn(3, 3)
    ShardedGradients([head, layer]).clip([layer.weight, layer.bias, head.weight], 2.0)
    return {"rows": head.weight.grad, "layer": layer.weight.grad}


def overflown(peers):
    """Whether every rank skips a step in which the last one has a gradient of inf, and lowers its loss scale."""
    head = heads.build_head("cosface", 8, 21, shard=ClassShard(21, peers))
    optimizer, scaler = torch.optim.SGD([head.weight], lr=1.0, fused=True), torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(head(torch.randn(2, 8), torch.tensor([0, 20]))).backward()
    if peers.rank == peers.count - 1:
        head.weight.grad[0, 0] = torch.inf
    scaler.unscale_(optimizer)
    ShardedGradients([head]).share_overflow(optimizer, scaler)
    before = head.weight.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    return {"kept": torch.equal(before, head.weight), "scale": scaler.get_scale()}


def cases(peers):
    """All of them for ``peers``, which may be one rank."""
    results = {f"norm: {name}": normalised(*options, peers) for name, options in NORMS.items()}
    results |= {f"head: {name}": sharded_head(*options, peers) for name, options in HEADS.items()}
    return results | {
        "copies": copies(peers),
        "partial": partial_fc(peers),
        "clipped": clipped(peers),
        "overflown": overflown(peers),
    }
