"""The sampler's order made by torch on the device: the same Philox words, the same stable sort, the same records.

The host launches and never waits; every shape follows from integers. Once an epoch, off the critical path: a million
records cost about 100 small launches over 8 MB arrays and one radix sort.
"""

import torch
from torch import Tensor

from hrfr_fast.runtime.philox import (
    MULTIPLIER_0,
    MULTIPLIER_1,
    ROUNDS,
    SHUFFLE_HIGHRES,
    SHUFFLE_LOWRES,
    SHUFFLE_SLOTS,
    WEYL_0,
    WEYL_1,
)
from hrfr_fast.sampling.sampler import Sampler

LOW = 0xFFFFFFFF
FACTOR_0, FACTOR_1 = int(MULTIPLIER_0), int(MULTIPLIER_1)


def philox_words(seed: int | Tensor, epoch: Tensor, position: Tensor, *, purpose: int, block: int = 0) -> list[Tensor]:
    """``philox`` for tensors: four int64 tensors with values in [0, 2**32).

    Args:
        seed: 0 <= seed < 2**64; or an int64 tensor of seeds below 2**63, which broadcasts with the others.
        epoch, position: int64 tensors that broadcast, 0 <= each < 2**32.
        purpose: one of the constants of ``runtime.philox``; the view is 0.

    A product of two 32-bit words wraps in int64, which leaves its bits right: the shift's sign bits are masked off.
    """
    c0, c1 = torch.broadcast_tensors(position, epoch)
    c2, c3 = torch.full_like(c0, purpose << 16), torch.full_like(c0, block)
    key_0, key_1 = seed & LOW, seed >> 32
    for _ in range(ROUNDS):
        product_0, product_1 = c0 * FACTOR_0, c2 * FACTOR_1
        c0, c1 = (product_1 >> 32 & LOW) ^ c1 ^ key_0, product_1 & LOW
        c2, c3 = (product_0 >> 32 & LOW) ^ c3 ^ key_1, product_0 & LOW
        key_0, key_1 = key_0 + WEYL_0 & LOW, key_1 + WEYL_1 & LOW
    return [c0, c1, c2, c3]


def permutations(seed: int, epochs: range, size: int, purpose: int, device: torch.device) -> Tensor:
    """``permutation`` for several epochs: int64 [len(epochs), size], each row a permutation of range(size).

    Keys are unsigned 64-bit words; lowering the upper half by 2**31 sorts them alike as signed ones.
    """
    epoch = torch.arange(epochs.start, epochs.stop, device=device)[:, None]
    words = philox_words(seed, epoch, torch.arange(size, device=device)[None], purpose=purpose)
    keys = words[0] - 2**31 << 32 | words[1]
    return torch.sort(keys, dim=1, stable=True).indices


def epoch_records(sampler: Sampler, epoch: int, device: torch.device) -> Tensor:
    """The records of one epoch by position: int32 [epoch_length].

    A value below ``sampler.first`` is a record of the first split, ``sampler.first + r`` is record r of the second.
    """
    if not sampler.draws_of_second:
        return permutations(sampler.seed, range(epoch, epoch + 1), sampler.first, SHUFFLE_LOWRES, device)[0].int()
    slot = permutations(sampler.seed, range(epoch, epoch + 1), sampler.epoch_length, SHUFFLE_SLOTS, device)[0]
    begin = epoch * sampler.draws_of_second  # samples of the second split before this epoch
    cycles = range(begin // sampler.second, (begin + sampler.draws_of_second - 1) // sampler.second + 1)
    drawn = permutations(sampler.seed, cycles, sampler.second, SHUFFLE_HIGHRES, device).flatten()
    index = slot - sampler.first + (begin - cycles.start * sampler.second)
    second = sampler.first + drawn[index.clamp_(min=0, max=len(drawn) - 1)]
    return torch.where(slot < sampler.first, slot, second).int()
