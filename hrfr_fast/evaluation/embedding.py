"""Embeddings of pictures: normalise(f(x) + f(flip x)), the summands not normalised."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.engines.base import refuse_damaged
from hrfr_fast.engines.pixels import resample_records, to_model_input
from hrfr_fast.format.reader import PairSet, Split
from hrfr_fast.runtime.ranks import ALONE, Ranks
from hrfr_fast.runtime.shared_work import in_order, own_share
from hrfr_fast.sampling.augmentation import Augmentation, no_augmentation

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute


def embed(
    backbone: "nn.Module",
    split: Split,
    size: int,
    compute: "Compute",
    *,
    records: NDArray[np.int64] | None = None,
    degrade: int = 0,
    augmentation: Augmentation | None = None,
    batch_size: int = 128,
    unit: bool = True,
    ranks: Ranks = ALONE,
    swap_domain: bool = False,
) -> NDArray[np.float32]:
    """Embeddings of a split's pictures, each compared with its checksum. Raises DamageFound.

    Whole batches are shared out over ``ranks``, and each gets all embeddings. A batch holds the same pictures however
    many ranks there are, so an embedding differs in no bit where they compute with equal kernels: on CPUs, with as
    many threads each as one process would have.

    Args:
        backbone: maps [B, 3, size, size] to [B, D]; put in eval mode here and given back as it was.
        size: input size of the backbone in pixels; the whole frame is resampled to it.
        records: which pictures, int64 [n]; None for all.
        degrade: size in pixels to which a picture is shrunk (and upscaled again) first; 0: not at all.
        augmentation: n rows to execute in place of that; of BatchNorm by resolution a row that degrades is of the low
            one, as in training.
        unit: divide each by its norm; else f(x) + f(flip x) as it is.
        ranks: all of them call this alike, with a process group between them.
        swap_domain: with BatchNorm by resolution take the other resolution's statistics, to see what that would cost.

    Returns:
        float32 [n, D], rows of norm 1 where ``unit``.
    """
    import torch

    from hrfr_fast.model.domain_norm import in_domain

    records = np.arange(split.samples) if records is None else records
    modes = [(module, module.training) for module in backbone.modules()]  # so that frozen parts stay in eval mode
    backbone.eval()

    def embedded(start: int) -> NDArray[np.float32]:
        batch = records[start : start + batch_size]
        refuse_damaged(split, batch)
        pixels = np.empty((len(batch), size, size, 3), np.uint8)
        plain = no_augmentation(len(batch), degrade=degrade)
        given = augmentation and augmentation.take(np.arange(start, start + len(batch)))
        resample_records(split, batch, given or plain, pixels)
        images = to_model_input(torch.from_numpy(pixels).to(compute.device), compute.image_dtype)
        total = backbone(images).float() + backbone(images.flip(3)).float()
        return np.asarray((torch.nn.functional.normalize(total) if unit else total).cpu().numpy())

    starts = range(0, len(records), batch_size)
    domain = _domain(backbone, split.size, degrade, augmentation, swapped=swap_domain)
    with torch.inference_mode(), compute.autocast(), in_domain(backbone, domain):
        rows = list(in_order(ranks, map(embedded, own_share(ranks, starts)), len(starts), everywhere=True))
    for module, training in modes:
        module.training = training
    return np.concatenate(rows)


def _domain(backbone: "nn.Module", size: int, degrade: int, augmentation: Augmentation | None, *, swapped: bool) -> str:
    """The domain of pictures of ``size`` pixels in this view, see ``model/domain_norm.py``.

    Raises ValueError where an ``augmentation`` degrades some pictures and others not, which then are of two domains.
    """
    from hrfr_fast.model.domain_norm import HIGH, LOW, domain_of_side, domains_of

    if domains_of(backbone) is None or augmentation is None or not augmentation.degrade.any():
        return domain_of_side(backbone, min(size, degrade or size), swapped=swapped)
    if not augmentation.degrade.all():
        raise ValueError("some of these pictures are degraded and some are not: embed each kind by itself")
    return HIGH if swapped else LOW


def pair_scores(
    backbone: "nn.Module", pairs: PairSet, size: int, compute: "Compute", *, degrade: int | tuple[int, int] = 0,
    ranks: Ranks = ALONE, swap_domain: bool = False,
) -> NDArray[np.float64]:  # fmt: skip
    """Cosine of every pair, float64 [P]. A picture of several pairs is embedded once in each view.

    ``degrade``: the view of all pictures, or of every pair's (first, second) picture; (0, 36) is HR-LR.
    ``ranks``, ``swap_domain``: see ``embed``.
    """
    unique, rows = distinct_pictures(pairs.split)
    first, second = degrade if isinstance(degrade, tuple) else (degrade, degrade)
    if first == second:
        shown = embed(
            backbone, pairs.split, size, compute, records=unique, degrade=first, ranks=ranks, swap_domain=swap_domain
        )
        embeddings = shown.astype(np.float64)
        return np.einsum("pd,pd->p", embeddings[rows[0::2]], embeddings[rows[1::2]])
    faces = []
    for position, view in enumerate((first, second)):
        needed, rows_needed = np.unique(rows[position::2], return_inverse=True)
        shown = embed(
            backbone, pairs.split, size, compute, records=unique[needed], degrade=view, ranks=ranks,
            swap_domain=swap_domain,
        )  # fmt: skip
        faces.append(shown.astype(np.float64)[rows_needed])
    return np.einsum("pd,pd->p", *faces)


def distinct_pictures(split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One record of each distinct picture, int64 [U], and for every record its row among them, int64 [N].

    Records with equal checksum and length are compared byte by byte, so a checksum collision merges nothing.
    """
    first: dict[tuple[int, int], list[int]] = {}
    unique: list[int] = []
    rows = np.empty(split.samples, np.int64)
    for record, key in enumerate(zip(split.crc32.tolist(), split.lengths.tolist(), strict=True)):
        for candidate in first.setdefault(key, []):
            if np.array_equal(split.payload(unique[candidate]), split.payload(record)):
                rows[record] = candidate
                break
        else:
            first[key].append(len(unique))
            rows[record] = len(unique)
            unique.append(record)
    return np.array(unique, np.int64), rows
