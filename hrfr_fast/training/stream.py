"""What a run is fed with: the regime's splits, their order and their augmentation."""

from hrfr_fast.format.reader import Packed, Split
from hrfr_fast.regimes import REGIMES, Regime, regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.ranks import ALONE, Ranks
from hrfr_fast.sampling.block_stream import BlockStream
from hrfr_fast.sampling.degradation import NativeView
from hrfr_fast.sampling.sampler import Sampler, draws_for_share
from hrfr_fast.sampling.stream import BatchStream, SingleViewStream
from hrfr_fast.sampling.two_view_stream import DegradedView, SecondView, TwoViewStream, pairs_for_share
from hrfr_fast.settings import TrainSettings


def training_splits(packed: Packed, regime: Regime, settings: TrainSettings) -> tuple[Split, ...]:
    """The regime's splits of ``packed``, cut to ``highres_identities`` and ``most_identities``.

    Raises UsageError for a missing one.
    """
    for name in regime.sources:
        if name not in packed.splits:
            raise UsageError(
                f"{packed.path}: regime {regime.name} is trained on {name}, which is not packed there"
                f"{_what_can_be_trained(packed)}"
            )
    splits = [packed.splits[name] for name in regime.sources]
    if settings.sampling.highres_identities < 1:
        splits = [
            split.first(max(2, round(settings.sampling.highres_identities * split.identities)))
            if split.name == "highres" else split
            for split in splits
        ]  # fmt: skip
    most = settings.sampling.most_identities
    return tuple(split.first(most) if most and most < split.identities else split for split in splits)


def fitting_regimes(packed: Packed) -> list[str]:
    """Names of the built-in regimes whose splits are packed, and which start from no other."""
    return [one.name for one in REGIMES.values() if set(one.sources) <= set(packed.splits) and not one.parents]


def _what_can_be_trained(packed: Packed) -> str:
    """The rest of a sentence: what is packed, and regimes for it; "" where there are none."""
    fitting = fitting_regimes(packed)
    return f"; there is {', '.join(packed.splits)}: choose --regime {' or '.join(fitting)}" if fitting else ""


def build_stream(packed: Packed, settings: TrainSettings, batch_size: int, ranks: Ranks = ALONE) -> BatchStream:
    """The regime's splits, order and augmentation over ``packed``; each rank's is its share of the same batches.

    Raises UsageError for a missing split, and for a batch that cannot be shared out among the ranks.
    """
    _refuse_uneven(batch_size, settings.sampling.accumulate, ranks)
    regime = regime_named(settings.regime)
    splits = training_splits(packed, regime, settings)
    first, second = splits[0].samples, splits[1].samples if len(splits) > 1 else 0
    given = settings.sampling.highres_share
    share = regime.highres_share if given is None else given
    blocks = settings.sampling.resident_shard
    if regime.second_view:
        if blocks:
            raise UsageError(f"--resident-shard: regime {regime.name}, which pairs views of faces, needs all of them")
        if share == 0:
            raise UsageError(f"regime {regime.name} pairs views of highres faces; highres_share must be above 0")
        view = degraded_view(regime, settings)
        pairs = pairs_for_share(share, batch_size, first, second, settings.sampling.accumulate)
        return TwoViewStream(
            (splits[0], splits[1]), settings.seed, settings.augment, view, regime.input_size, batch_size, pairs,
            ranks.rank, ranks.count, micro_batches=settings.sampling.accumulate,
        )  # fmt: skip
    if blocks:
        return BlockStream(
            splits, settings.seed, share, settings.augment, regime.input_size, batch_size, blocks,
            ranks.rank, ranks.count,
        )  # fmt: skip
    draws = draws_for_share(share, first, second) if second else None
    sampler = Sampler(settings.seed, first, second, draws)
    return SingleViewStream(splits, sampler, settings.augment, regime.input_size, batch_size, ranks.rank, ranks.count)


def degraded_view(regime: Regime, settings: TrainSettings) -> DegradedView:
    """How a regime with second views degrades them."""
    if regime.degradation == "native":
        return NativeView(settings.degradation)
    kernels = tuple(kernel.strip() for kernel in settings.sampling.kernels.split(","))
    return SecondView(settings.sampling.degrade_min, settings.sampling.degrade_max, kernels)


def _refuse_uneven(batch_size: int, accumulate: int, ranks: Ranks) -> None:
    """Raise UsageError where a batch is no multiple of the micro-batches of all ranks, or one has a single sample."""
    parts = accumulate * ranks.count
    if not ranks.distributed or (batch_size % parts == 0 and batch_size >= 2 * parts):
        return
    each = f" in {accumulate} micro-batches each" if accumulate > 1 else ""
    below, above = batch_size // parts * parts, -(-batch_size // parts) * parts
    fitting = sorted({max(size, 2 * parts) for size in (below, above)})
    raise UsageError(
        f"a batch of {batch_size} cannot be shared out among {ranks.count} ranks{each}: --batch-size is that of a step"
        f" of all ranks together, a multiple of {parts} with 2 samples in each part; the next is"
        f" {' or '.join(map(str, fitting))}"
    )
