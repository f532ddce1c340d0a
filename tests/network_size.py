"""Size and arithmetic of the backbone, counted from its definition and not from its modules."""

from torch import nn

from hrfr_fast.model.backbone import BackboneSettings

BLOCKS_PER_WIDTH = 2


def parameter_count(module: nn.Module) -> int:
    """Trainable numbers in ``module``."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def flops_per_image(settings: BackboneSettings) -> float:
    """Operations of one forward pass, 2 a multiply-add, convolutions and the linear layer; x3 with the backward."""
    total, side, channels = 0.0, settings.input_size, settings.width
    total += 2 * 9 * 3 * channels * side**2
    for stage in range(4):
        width = settings.width << stage
        for number in range(BLOCKS_PER_WIDTH):
            stride = 2 if number == 0 else 1
            out = side // stride
            total += 2 * 9 * channels * width * side**2 + 2 * 9 * width * width * out**2
            total += 0 if channels == width else 2 * channels * width * out**2
            side, channels = out, width
    return total + 2 * channels * side**2 * settings.embedding_size
