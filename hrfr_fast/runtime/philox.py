"""Philox4x32-10: random numbers as a pure function of integers.

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11, section 3.3. The generator keeps no
state: ``(seed, epoch, position, view, purpose)`` gives four 32-bit words, so the numbers of any record of any epoch can
be computed alone, in any order, on any machine. The key is the whole tuple and never a sum such as ``seed + epoch``,
where (0, 1) and (1, 0) would collide.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85
LOW = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)
ROUNDS = 10

# Purposes of the words: different purposes never share numbers.
SHUFFLE_LOWRES, SHUFFLE_HIGHRES, SHUFFLE_SLOTS, AUGMENT, SYNTHESIS, SPLIT_CHOICE, FOLDS, BOOTSTRAP = range(8)
DERIVATION = 8
RANKS = 9
CLASS_SAMPLING = 10
BLOCKS = 11
NOISE = 12


def philox(
    seed: int, epoch: ArrayLike, position: ArrayLike, *, purpose: int, view: int = 0, block: int = 0
) -> NDArray[np.uint64]:
    """Four random words for each (epoch, position).

    Args:
        seed: 0 <= seed < 2**64, the key.
        epoch, position: integers or integer arrays that broadcast, 0 <= each < 2**32.
        purpose: one of this module's constants, < 2**16.
        view: which view of the same position, < 2**16.
        block: 0 for the first four words, 1 for the next four, ...

    Returns:
        uint64 array [..., 4], each value in [0, 2**32).
    """
    epoch, position = np.broadcast_arrays(np.asarray(epoch, np.uint64), np.asarray(position, np.uint64))
    tag = np.uint64(purpose << 16 | view)
    counter = [position, epoch, np.full(position.shape, tag), np.full(position.shape, np.uint64(block))]
    return np.stack(_rounds(counter, seed & 0xFFFFFFFF, seed >> 32), axis=-1)


def _rounds(counter: list[NDArray[np.uint64]], key_0: int, key_1: int) -> list[NDArray[np.uint64]]:
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        product_0, product_1 = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        high_0, high_1 = product_0 >> SHIFT, product_1 >> SHIFT
        high_1 ^= c1  # in place: a third of the time is that of new memory
        high_1 ^= np.uint64(key_0)
        high_0 ^= c3
        high_0 ^= np.uint64(key_1)
        product_0 &= LOW
        product_1 &= LOW
        c0, c1, c2, c3 = high_1, product_1, high_0, product_0
        key_0, key_1 = (key_0 + WEYL_0) & 0xFFFFFFFF, (key_1 + WEYL_1) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def uniform(words: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Float32 in [0, 1) from the top 24 bits of each word: exact, so equal on every device."""
    return (words >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
