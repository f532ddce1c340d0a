"""Names in a data tree and in a packed directory: splits, pair sets, shards and the files that belong to a shard.

A shard is called as its split is, or ``pairs-<name>`` for a pair set.
"""

FACES = "faces"
"""The split of an ordinary set of one resolution, which belongs to no study."""
SPLITS = ("lowres", "highres", "highres_eval", FACES)
TRAINING = ("lowres", "highres", FACES)
PAIR_FOLDER = "hres_eval_pairs"  # of a data tree
DEVELOPMENT = "dev-"  # begins the name of a pair set made of identities taken out of a training split
_PAIRS = "pairs-"


def pair_shard(pair_set: str) -> str:
    """Name of the shard that holds the pair set ``pair_set``."""
    return _PAIRS + pair_set


def is_pair_shard(shard: str) -> bool:
    """Whether a shard of this name holds a pair set."""
    return shard.startswith(_PAIRS)


def without_prefix(shard: str) -> str:
    """Name of the split or pair set that ``shard`` holds."""
    return shard.removeprefix(_PAIRS)


def part_shard(split: str, number: int) -> str:
    """Name of file ``number`` of a split that is divided into several, without its suffix: ``lowres-00003``."""
    return f"{split}-{number:05d}"


def identities_file(shard: str) -> str:
    """Name of the file with the identity of each picture of a pair set."""
    return f"{shard}.identities.npy"


def listing_file(shard: str) -> str:
    """Name of the file with the listing that ``shard`` was packed from."""
    return f"{shard}.sources.gz"
