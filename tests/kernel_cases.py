"""What the GPU's kernels are compared with: torch's layers, and how far apart results may be."""

from torch.nn import functional


def norm_and_activation(maps, weight, bias, slope, mean, variance, activation, training):
    """torch's activation(BN(maps)), of maps [B, C, H, W]; moves ``mean`` and ``variance`` in training."""
    made = functional.batch_norm(maps, mean, variance, weight, bias, training, 0.1, 1e-5)
    return {"none": made, "relu": made.relu(), "prelu": functional.prelu(made, slope)}[activation]


def close(found, wanted, tolerance):
    """Assert that ``found`` is ``wanted`` but for a relative error below ``tolerance``, over the whole tensor."""
    wanted = wanted.to(found.device)
    assert found.shape == wanted.shape
    error = (found.double() - wanted).norm() / wanted.norm().clamp(min=1e-3 * wanted.numel() ** 0.5)
    assert error < tolerance, float(error)
