"""Names in a data tree and in a packed directory: splits, pair sets, shards and the files that belong to a shard.

A shard is called as its split is, or ``pairs-<name>`` for a pair set.
"""

SPLITS = ("lowres", "highres", "highres_eval")
TRAINING = ("lowres", "highres")
PAIR_FOLDER = "hres_eval_pairs"  # of a data tree
_PAIRS, _DEVELOPMENT = "pairs-", "dev-"


def pair_shard(pair_set: str) -> str:
    """Name of the shard that holds the pair set ``pair_set``."""
    return _PAIRS + pair_set


def is_pair_shard(shard: str) -> bool:
    """Whether a shard of this name holds a pair set."""
    return shard.startswith(_PAIRS)


def without_prefix(shard: str) -> str:
    """Name of the split or pair set that ``shard`` holds."""
    return shard.removeprefix(_PAIRS)


def development_set(split: str) -> str:
    """Name of the pair set made of identities taken out of the training split ``split``."""
    return _DEVELOPMENT + split


def is_development_set(pair_set: str) -> bool:
    """Whether a pair set of this name is one of identities taken out of a training split."""
    return pair_set.startswith(_DEVELOPMENT)


def identities_file(shard: str) -> str:
    """Name of the file with the identity of each picture of a pair set."""
    return f"{shard}.identities.npy"


def listing_file(shard: str) -> str:
    """Name of the file with the listing that ``shard`` was packed from."""
    return f"{shard}.sources.gz"
