"""The networks there are, as data: what ``--backbone`` chooses among.

Counts of parameters and multiply-adds are compared with the published ones in ``tests/model/test_networks.py``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class IRVariant:
    """What public implementations of one improved residual network differ in."""

    middle_norm: bool
    """Whether a BatchNorm stands between the first convolution of a block and its PReLU."""
    projects_every_stage: bool
    """Whether the first block of every stage has conv1x1(stride) + BatchNorm as its shortcut; without it only the
    blocks whose widths differ have, and others subsample."""


IR_VARIANTS = {
    "arcface": IRVariant(middle_norm=True, projects_every_stage=True),
    "adaface": IRVariant(middle_norm=True, projects_every_stage=False),
    "evolve": IRVariant(middle_norm=False, projects_every_stage=False),
}
"""arcface: ``iresnet.py`` of InsightFace's arcface_torch, and MXNet's LResNet-E-IR. adaface: ``net.py`` of AdaFace and
``iresnet`` of CVLface. evolve: ``model_irse.py`` of face.evoLVe and ``resnet_irse.py`` of cavaface."""


@dataclass(frozen=True)
class ImprovedResNet:
    """An improved residual network (Deng et al., "ArcFace", CVPR 2019, section 3.2.2)."""

    units: tuple[int, int, int, int]
    """Blocks in each stage."""
    variant: str = "arcface"
    """Its own among ``IR_VARIANTS``."""
    squeeze_excite: bool = False
    """Whether each block ends in squeeze-and-excitation (Hu et al., CVPR 2018)."""
    stem_activation: str = "prelu"
    """After the first convolution: prelu or relu."""


@dataclass(frozen=True)
class MobileFaceNet:
    """A network of depthwise convolutions (Chen et al., "MobileFaceNets", CCBR 2018), as arcface_torch has it: with
    twice the paper's channels, ``mobilefacenet.py``, "mbf"."""

    units: tuple[int, int, int]
    """Residual bottlenecks after each of the three that halve the maps."""


@dataclass(frozen=True)
class VisionTransformer:
    """A vision transformer without class token, as arcface_torch has it (``vit.py``, there without masking)."""

    depth: int
    """Blocks of attention and perceptron."""


Architecture = ImprovedResNet | MobileFaceNet | VisionTransformer

NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]] | None] = {
    "half": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation that a network's red, green and blue in [0, 1] are normalised with. half: 0.5 and 0.5,
which gives the [-1, 1] that every network is fed here."""

BACKBONES: dict[str, Architecture] = {
    "irse18": ImprovedResNet((2, 2, 2, 2), "adaface", squeeze_excite=True, stem_activation="relu"),
    "ir18": ImprovedResNet((2, 2, 2, 2)),
    "ir34": ImprovedResNet((3, 4, 6, 3)),
    "ir50": ImprovedResNet((3, 4, 14, 3)),
    "ir100": ImprovedResNet((3, 13, 30, 3)),
    "irse50": ImprovedResNet((3, 4, 14, 3), "adaface", squeeze_excite=True),
    "irse100": ImprovedResNet((3, 13, 30, 3), "adaface", squeeze_excite=True),
    "mobilefacenet": MobileFaceNet((4, 6, 2)),
    "vit-s": VisionTransformer(depth=12),
    "vit-b": VisionTransformer(depth=24),
}
