"""A head whose classes are sharded over gloo ranks on this machine's CPU: agreement, cost of a step, memory.

python benchmarks/sharded_head.py --ranks 2 [--classes 100000] [--dimensions 512] [--batch 64] [--rate 0.1]

Agreement: the largest difference of loss and gradients from those of one process, for each head, relative to their
norm. Cost: one step with SGD and momentum, sharded, sampled at --rate, and replicated (each rank has all classes and
its share of the batch, and the gradient of the weights is averaged), in turn. Ranks share the machine's cores, so that
CPU seconds of all ranks together say what the work is; seconds on the clock include waiting for each other.
"""

import argparse
import multiprocessing
import resource
import socket
import time

import torch
from torch import Tensor, distributed, nn

from hrfr_fast.model.class_shards import ClassShard
from hrfr_fast.model.heads import HEADS, MarginHead, build_head
from hrfr_fast.model.partial_fc import ClassSampling, sample_classes
from hrfr_fast.model.peers import Peers

STEPS = 3


def main() -> None:
    """Fork the ranks, which print through rank 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("ranks", 2), ("classes", 100_000), ("dimensions", 512), ("batch", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=0.1)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, port, options)) for rank in range(options.ranks)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()


def _rank(rank: int, port: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=options.ranks)
    peers = Peers()
    for name in HEADS:
        _say(peers, f"{name}: largest relative difference {_difference(name, peers):.1e}")
    _say(peers, f"{options.classes:,} classes x {options.dimensions}, batch {options.batch} over {peers.count} ranks")
    for kind in ("sampled", "sharded", "replicated"):
        _measure(kind, options, peers)
    distributed.barrier()
    distributed.destroy_process_group()


def _difference(name: str, peers: Peers, classes: int = 10_001, size: int = 128, batch: int = 48) -> float:
    """Of loss, gradient by embeddings and gradient by weights from those of the whole head: the largest, relative."""
    results = []
    for own in (None, ClassShard(classes, peers)):
        torch.manual_seed(1)
        head = build_head(name, size, classes, shard=own)
        embeddings, labels = torch.randn(batch, size) * 3, torch.randint(classes, (batch,))
        rows = slice(peers.rank * batch // peers.count, (peers.rank + 1) * batch // peers.count)
        if own is None:
            embeddings.requires_grad_()
            loss = head(embeddings, labels, 100)
            loss.backward()
            assert embeddings.grad is not None and head.weight.grad is not None
            shard = ClassShard(classes, peers)
            by_weight = head.weight.grad[shard.rows.start : shard.rows.stop]
            results.append((loss.detach(), embeddings.grad[rows], by_weight))
        else:
            part = embeddings[rows].clone().requires_grad_()
            loss = head(part, labels[rows], 100)
            loss.backward()
            assert part.grad is not None and head.weight.grad is not None
            results.append((loss.detach(), part.grad / peers.count, head.weight.grad))
    differences = [((a - b).norm() / a.norm()) for a, b in zip(*results, strict=True)]
    return float(peers.max(torch.stack(differences).max()))


def _measure(kind: str, options: argparse.Namespace, peers: Peers) -> None:
    """Print CPU seconds, seconds and peak memory of a step; the first, which makes the momenta, does not count."""
    torch.manual_seed(2)
    shard = None if kind == "replicated" else ClassShard(options.classes, peers)
    head = build_head("arcface", options.dimensions, options.classes, shard=shard)
    if kind == "sampled":
        sample_classes(head, ClassSampling(options.rate, 0, options.batch))
    optimizer = torch.optim.SGD([head.trained_rows], lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    embeddings = torch.randn(options.batch // peers.count, options.dimensions)
    labels = torch.randint(options.classes, (len(embeddings),))
    began = (0.0, 0.0)
    for step in range(STEPS + 1):
        if step == 1:
            distributed.barrier()
            began = (time.process_time(), time.perf_counter())
        _step(head, optimizer, embeddings, labels, step, peers)
    spent = time.process_time() - began[0], time.perf_counter() - began[1]
    cpu = peers.sum(torch.tensor(spent[0])) / STEPS
    peak = peers.max(torch.tensor(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
    _say(
        peers,
        f"  {kind}: {cpu:.2f} CPU s a step of all ranks, {spent[1] / STEPS:.2f} s; peak of a rank so far"
        f" {peak:.2f} GiB",
    )


def _step(
    head: MarginHead, optimizer: torch.optim.Optimizer, embeddings: Tensor, labels: Tensor, step: int, peers: Peers
) -> None:
    sampling = head.shard.sampling if head.shard else None
    if sampling:
        sampling.choose(head, labels, step)
        sampling.take_rows(head, optimizer)
    head(embeddings.clone().requires_grad_(), labels, step).backward()
    if head.shard is None:
        assert isinstance(head.weight, nn.Parameter) and head.weight.grad is not None
        peers.sum(head.weight.grad).div_(peers.count)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if sampling:
        sampling.put_rows(head, optimizer)


def _say(peers: Peers, text: str) -> None:
    if peers.rank == 0:
        print(text, flush=True)


if __name__ == "__main__":
    main()
