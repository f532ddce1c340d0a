"""Losses between the two views of a face, and between a network and one that it learns from.

Formulas are those of the text beside each; cosines and losses are float32 whatever the autocast type. The rows of a
micro-batch are those of ``sampling/two_view_stream.py``: native low resolution, then sharp, degraded, sharp, ...
"""

import torch
from torch import Tensor
from torch.nn import functional

FEATURE_WEIGHT = 20.0
"""Of the distance of features (Shin, Yu and Lee, "Enhancing Low-Resolution Face Recognition with Feature Similarity
Knowledge Distillation", arXiv 2303.04681: lambda = 20)."""


def view_distance(embeddings: Tensor) -> Tensor:
    """mean(1 - cos) of rows (0, 1), (2, 3), ... of [2K, D], not normalised; a float32 scalar in [0, 2]."""
    with torch.autocast(embeddings.device.type, enabled=False):
        directions = functional.normalize(embeddings.float())
        return (1 - (directions[0::2] * directions[1::2]).sum(dim=1)).mean()


def contrast_loss(
    degraded: Tensor, labels: Tensor, candidates: Tensor, candidate_labels: Tensor, first: int, scale: float
) -> Tensor:
    """Stop-gradient contrast: each degraded view against its own sharp view and all faces of other people.

    -(1 / K) sum_i log(e^(s c_ii) / (e^(s c_ii) + sum over j with y_j != y_i of e^(s c_ij))), with
    c_ij = cos(f(x'_i), sg[f_EMA(x_j)]): the cross entropy of InfoNCE (van den Oord et al., 2018) with a slowly moving
    copy of the network (He et al., "MoCo", CVPR 2020) on the other side, as in QGFace (Song and Wang, 2023). Other
    pictures of the same person are neither positive nor negative.

    Args:
        degraded: [K, D], not normalised; the only argument that gets a gradient.
        labels: int64 [K].
        candidates: [M, D], not normalised; row ``first + i`` is the sharp view of row i.
        candidate_labels: int64 [M]; negative: not a face, left out.
        scale: s, > 0.

    Returns:
        A float32 scalar.
    """
    with torch.autocast(degraded.device.type, enabled=False):
        cosines = functional.normalize(degraded.float()) @ functional.normalize(candidates.detach().float()).T
        own = torch.arange(len(labels), device=labels.device) + first
        counts = (candidate_labels[None, :] != labels[:, None]) & (candidate_labels >= 0)[None, :]
        counts = counts.scatter(1, own[:, None], torch.ones_like(own[:, None], dtype=torch.bool))
        return functional.cross_entropy((scale * cosines).masked_fill(~counts, -torch.inf), own)


def feature_distance(views: Tensor, teacher: Tensor) -> Tensor:
    """20 mean(1 - cos) between both views of K faces and the teacher's embedding of the sharp one; float32 scalar.

    Args:
        views: [2K, D], sharp, degraded, sharp, ..., not normalised.
        teacher: [K, D], not normalised, without gradient.
    """
    with torch.autocast(views.device.type, enabled=False):
        directions = functional.normalize(views.float())
        goals = functional.normalize(teacher.detach().float()).repeat_interleave(2, dim=0)
        return FEATURE_WEIGHT * (1 - (directions * goals).sum(dim=1)).mean()


def relation_distance(views: Tensor, teacher: Tensor) -> Tensor:
    """mean over i of 1 - cos(C_i, T_i), with C_ij = cos(f(x'_i), t(x_j)) and T_ij = cos(t(x_i), t(x_j)).

    How the degraded view of a face stands to the teacher's sharp ones is to be as the teacher's sharp view of it does:
    the cross relations of F-SKD (see FEATURE_WEIGHT), which compares them by their cosine too, here between the faces
    of a batch in place of the positions of a map. Arguments as of ``feature_distance``; a float32 scalar.
    """
    with torch.autocast(views.device.type, enabled=False):
        goals = functional.normalize(teacher.detach().float())
        relations = functional.normalize(views[1::2].float()) @ goals.T
        return (1 - functional.cosine_similarity(relations, goals @ goals.T)).mean()
