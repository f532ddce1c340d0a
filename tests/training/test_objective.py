"""Every term between two views against an independent float64 version in a few lines, gradients included."""

import numpy as np
import torch

from hrfr_fast.model.heads import build_head
from hrfr_fast.training.objective import Consistency, Contrast, Features, ReferenceEmbeddings, Relations, TwoViewLoss
from hrfr_fast.training.two_view_losses import contrast_loss, feature_distance, relation_distance, view_distance


def by_hand(embeddings):
    """mean(1 - cos) of adjacent rows and its gradient: d cos(a, b) / da = (b / |b| - cos a / |a|) / |a|. float64."""
    a, b = embeddings[0::2], embeddings[1::2]
    length_a, length_b = (np.linalg.norm(side, axis=1, keepdims=True) for side in (a, b))
    cosine = (a * b).sum(axis=1, keepdims=True) / (length_a * length_b)
    gradient = np.empty_like(embeddings)
    gradient[0::2] = -(b / length_b - cosine * a / length_a) / length_a / len(a)
    gradient[1::2] = -(a / length_a - cosine * b / length_b) / length_b / len(a)
    return (1 - cosine).mean(), gradient


def test_the_pull_and_its_gradient_are_the_formula():
    values = np.random.default_rng(0).normal(size=(6, 5))
    values[3] = 2 * values[2]  # two views that agree: distance 0, no pull
    embeddings = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    loss = view_distance(embeddings)
    loss.backward()
    expected, gradient = by_hand(values)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-6)
    np.testing.assert_allclose(embeddings.grad.numpy(), gradient, atol=1e-6)
    assert np.abs(gradient[2:4]).max() < 1e-12


def test_the_objective_is_the_margin_loss_of_all_plus_lambda_times_the_pull_of_the_last():
    torch.manual_seed(0)
    head = build_head("arcface", 5, 4)
    labels = torch.tensor([0, 1, 2, 2, 3, 3])
    embeddings = torch.randn(6, 5, requires_grad=True)
    objective = TwoViewLoss(head, 2, [Consistency(0.7)])
    objective(embeddings, labels, 3).backward()
    whole, embeddings.grad = embeddings.grad, None
    margin = head(embeddings, labels, 3)
    margin.backward()
    difference = (whole - embeddings.grad).numpy()
    distance, gradient = by_hand(embeddings.detach().double().numpy()[2:])
    np.testing.assert_allclose(difference[2:], 0.7 * gradient, atol=1e-5)
    assert np.abs(difference[:2]).max() == 0
    assert objective.names == ("margin", "consistency")
    np.testing.assert_allclose(objective.sums.numpy(), [margin.item(), distance], rtol=1e-5)


def unit(rows):
    return rows / (rows * rows).sum(1, keepdim=True).sqrt()


def contrast_by_loops(degraded, labels, candidates, candidate_labels, first, scale):
    """The formula of the issue, face by face: its own sharp view and every candidate of another person."""
    cosines, total = unit(degraded) @ unit(candidates).T, 0.0
    for i in range(len(labels)):
        own = torch.exp(scale * cosines[i, first + i])
        others = sum(
            torch.exp(scale * cosines[i, j]) for j, label in enumerate(candidate_labels) if label not in (labels[i], -1)
        )
        total = total - torch.log(own / (own + others))
    return total / len(labels)


def against(ours, independent, *rows):
    """Value and gradients of ``ours`` in float32 and of ``independent`` in float64, at the same ``rows``."""
    single = [row.clone().requires_grad_() for row in rows]
    double = [row.double().requires_grad_() for row in rows]
    found, expected = ours(*single), independent(*double)
    found.backward()
    expected.backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    for mine, other in zip(single, double, strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-4, atol=1e-5)


def test_the_contrast_is_the_formula_and_moves_only_the_degraded_view():
    """Two native rows, three sharp ones of which two show one person, and a queue with an empty place."""
    torch.manual_seed(0)
    labels, known = torch.tensor([2, 2, 3]), torch.tensor([0, 1, 2, 2, 3, 0, 3, -1])
    degraded, candidates = torch.randn(3, 5), torch.randn(8, 5)
    candidates[-1] = 0

    def ours(rows):
        return contrast_loss(rows, labels, candidates, known, 2, 16.0)

    def independent(rows):
        return contrast_by_loops(rows, labels.tolist(), candidates[:-1].double(), known.tolist()[:-1], 2, 16.0)

    against(ours, independent, degraded)
    sharp = candidates.clone().requires_grad_()
    contrast_loss(degraded.requires_grad_(), labels, sharp, known, 2, 16.0).backward()
    assert sharp.grad is None and degraded.grad.abs().max() > 0


def test_the_contrast_vanishes_where_nobody_else_is_there():
    """One person alone: no negative is left, so neither loss nor pull; a wrong mask would give log 2."""
    rows, labels = torch.randn(2, 4, requires_grad=True), torch.tensor([5, 5])
    loss = contrast_loss(rows, labels, torch.randn(3, 4), torch.tensor([-1, 5, 5]), 1, 16.0)
    loss.backward()
    assert loss.item() == 0 and rows.grad.abs().max() == 0


def features_by_loops(views, teacher):
    total = 0.0
    for i, goal in enumerate(unit(teacher)):
        total = total + sum(1 - unit(views)[2 * i + view] @ goal for view in (0, 1))
    return 20 * total / len(views)


def relations_by_loops(views, teacher):
    total, count = 0.0, len(teacher)
    for i in range(count):
        ours = torch.stack([unit(views)[2 * i + 1] @ unit(teacher)[j] for j in range(count)])
        theirs = torch.stack([unit(teacher)[i] @ unit(teacher)[j] for j in range(count)])
        total = total + 1 - ours @ theirs / (ours.norm() * theirs.norm())
    return total / count


def test_the_distances_to_the_teacher_are_the_formulas():
    torch.manual_seed(0)
    views, teacher = torch.randn(6, 5), torch.randn(3, 5)
    against(lambda rows: feature_distance(rows, teacher), lambda rows: features_by_loops(rows, teacher.double()), views)
    against(
        lambda rows: relation_distance(rows, teacher), lambda rows: relations_by_loops(rows, teacher.double()), views
    )
    at_the_goal = teacher.repeat_interleave(2, dim=0)
    assert abs(feature_distance(at_the_goal, teacher)) < 1e-5 and abs(relation_distance(at_the_goal, teacher)) < 1e-6


def test_all_terms_add_up_with_their_weights_and_each_is_kept_for_the_log():
    torch.manual_seed(0)
    head = build_head("adaface", 5, 4)
    labels, embeddings = torch.tensor([0, 1, 2, 2, 3, 3]), torch.randn(6, 5)
    candidates, teacher = torch.randn(4, 5), torch.randn(2, 5)
    found = ReferenceEmbeddings(candidates, torch.tensor([0, 1, 2, 3]), teacher)
    terms = [Consistency(0.5), Contrast(0.2, 16.0), Features(2.0), Relations(4.0)]
    objective = TwoViewLoss(head, 2, terms)
    state = {name: value.clone() for name, value in head.state_dict().items()}
    loss = objective(embeddings, labels, 0, found)
    head.load_state_dict(state)  # AdaFace's averages moved
    views = embeddings[2:].double()
    expected = [
        head(embeddings, labels, 0).double(), torch.tensor(by_hand(views.numpy())[0]),
        contrast_by_loops(views[1::2], [2, 3], candidates.double(), [0, 1, 2, 3], 2, 16.0),
        features_by_loops(views, teacher.double()), relations_by_loops(views, teacher.double()),
    ]  # fmt: skip
    torch.testing.assert_close(objective.sums.double(), torch.stack(expected), rtol=1e-4, atol=1e-5)
    total = sum(weight * value for weight, value in zip((1, 0.5, 0.2, 2.0, 4.0), expected, strict=True))
    torch.testing.assert_close(loss.double(), total, rtol=1e-4, atol=1e-5)
