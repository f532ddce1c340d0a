import numpy as np
import pytest

from hrfr_fast.runtime import philox as p

# Known answers of the Random123 distribution (kat_vectors, philox4x32 with 10 rounds).
KNOWN = {
    "zeros": ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    "ones": ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    "pi": (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_matches_the_published_known_answers(name):
    counter, key, expected = KNOWN[name]
    assert [int(word) for word in p._rounds([np.uint64(c) for c in counter], *key)] == expected


def test_a_batch_equals_its_members():
    whole = p.philox(7, 3, np.arange(50), purpose=p.AUGMENT)
    alone = p.philox(7, 3, 17, purpose=p.AUGMENT)
    assert (whole[17] == alone).all()


def test_neighbouring_tuples_do_not_collide():
    keys = [(s, e, n, v) for s in (0, 1) for e in (0, 1) for n in (0, 1) for v in (0, 1)]
    words = [tuple(p.philox(s, e, n, purpose=p.AUGMENT, view=v).tolist()) for s, e, n, v in keys]
    assert len(set(words)) == len(words)


def test_uniform_is_uniform_and_below_one():
    numbers = p.uniform(p.philox(0, 0, np.arange(100_000), purpose=p.AUGMENT)).ravel()
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.003 and abs(numbers.var() - 1 / 12) < 0.002
