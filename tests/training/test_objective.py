import numpy as np
import torch

from hrfr_fast.model.heads import build_head
from hrfr_fast.training.objective import ConsistencyLoss, view_distance


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
    objective = ConsistencyLoss(head, 2, 0.7)
    objective(embeddings, labels, 3).backward()
    whole, embeddings.grad = embeddings.grad, None
    head(embeddings, labels, 3).backward()
    difference = (whole - embeddings.grad).numpy()
    _, gradient = by_hand(embeddings.detach().double().numpy()[2:])
    np.testing.assert_allclose(difference[2:], 0.7 * gradient, atol=1e-5)
    assert np.abs(difference[:2]).max() == 0
