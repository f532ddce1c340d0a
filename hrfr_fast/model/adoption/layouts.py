"""Public checkpoints as data: what their implementations call the parameters of our networks, and what they are fed.

Each name was read from the file that ``Layout.source`` tells; the embeddings of those files' own networks were compared
with ours on random weights and statistics.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hrfr_fast.face_templates import ARCFACE
from hrfr_fast.model.backbones.table import (
    BACKBONES,
    Architecture,
    ImprovedResNet,
    MobileFaceNet,
    VisionTransformer,
)


@dataclass(frozen=True)
class Names:
    """The modules of one kind of network: a public implementation's name of each, and ours.

    In a block's names {stage} counts from 1, {unit} from 0 within the stage and {block} from 0 over all stages; ours
    continue ``body.{block}.``.
    """

    once: Mapping[str, str]
    """Of everything but the blocks."""
    block: Mapping[str, str]
    first_of_stage: Mapping[str, str] | None = None
    """Of the first block of a stage, where that has other names."""
    variant: str = ""
    """Among ``IR_VARIANTS``."""
    without_affine: tuple[str, ...] = ()
    """Our BatchNorm layers that have neither weight nor bias there: 1 and 0."""

    def of(self, units: tuple[int, ...]) -> dict[str, str]:
        """Their name -> ours for every module of a network with ``units`` blocks in its stages."""
        names, block = dict(self.once), 0
        for stage, count in enumerate(units, 1):
            for unit in range(count):
                templates = self.first_of_stage if self.first_of_stage and unit == 0 else self.block
                numbers = {"stage": stage, "unit": unit, "block": block, "before": 2 * stage, "after": 2 * stage + 1}
                numbers["repeat"] = unit - 1
                names |= {
                    theirs.format(**numbers): f"body.{block}.{ours}".format(**numbers)
                    for theirs, ours in templates.items()
                }
                block += 1
        return names


def _numbered(theirs: str, ours: str, *numbers: tuple[int, int]) -> dict[str, str]:
    return {theirs.format(a): ours.format(b) for a, b in numbers}


_RESIDUAL = {"bn1": 0, "conv1": 1, "bn2": 2, "prelu": 3, "conv2": 4, "bn3": 5}
ARCFACE_IR = Names(
    once={
        "conv1": "stem.0", "bn1": "stem.1", "prelu": "stem.2",
        "bn2": "output.0", "fc": "output.3", "features": "output.4",
    },
    block={
        **{f"layer{{stage}}.{{unit}}.{theirs}": f"residual.{ours}" for theirs, ours in _RESIDUAL.items()},
        **_numbered("layer{{stage}}.{{unit}}.downsample.{}", "shortcut.{}", (0, 1), (1, 2)),
    },
    variant="arcface",
)  # fmt: skip
_STEM = _numbered("input_layer.{}", "stem.{}", (0, 0), (1, 1), (2, 2))
_SHORTCUT = _numbered("body.{{block}}.shortcut_layer.{}", "shortcut.{}", (0, 1), (1, 2))
_OUTPUT_LAYER = _numbered("output_layer.{}", "output.{}", (0, 0), (3, 3), (4, 4))
_ADAFACE_BLOCK = {
    **_numbered("body.{{block}}.res_layer.{}", "residual.{}", *((number, number) for number in range(6))),
    "body.{block}.res_layer.se_block.fc1": "residual.6.squeeze",
    "body.{block}.res_layer.se_block.fc2": "residual.6.excite",
    **_SHORTCUT,
}
_EVOLVE_BLOCK = {
    **_numbered("body.{{block}}.res_layer.{}", "residual.{}", *((number, number) for number in range(5))),
    "body.{block}.res_layer.5.fc1": "residual.5.squeeze",
    "body.{block}.res_layer.5.fc2": "residual.5.excite",
    **_SHORTCUT,
}
ADAFACE_IR = Names(_STEM | _OUTPUT_LAYER, _ADAFACE_BLOCK, variant="adaface", without_affine=("output.4",))
EVOLVE_IR = Names(_STEM | _OUTPUT_LAYER, _EVOLVE_BLOCK, variant="evolve")
CAVAFACE_IR = Names(
    _STEM | {"bn2": "output.0", "fc": "output.3", "features": "output.4"}, _EVOLVE_BLOCK, variant="evolve"
)
_PARTS = [(i, j) for i in range(3) for j in range(3) if (i, j) != (2, 2)]
ARCFACE_MOBILEFACENET = Names(
    once={
        **{f"layers.{i}.layers.{j}": f"stem.{3 * i + j}" for i in range(2) for j in range(3)},
        **{f"conv_sep.layers.{j}": f"body.15.{j}" for j in range(3)},
        "features.layers.0.layers.0": "output.0", "features.layers.0.layers.1": "output.1",
        "features.layers.2": "output.4", "features.layers.3": "output.5",
    },
    block={f"layers.{{after}}.layers.{{repeat}}.layers.{i}.layers.{j}": f"layers.{3 * i + j}" for i, j in _PARTS},
    first_of_stage={f"layers.{{before}}.layers.{i}.layers.{j}": f"layers.{3 * i + j}" for i, j in _PARTS},
)  # fmt: skip
ARCFACE_VIT = Names(
    once={
        "patch_embed.proj": "stem.projection", "pos_embed": "stem.position", "norm": "output.0",
        **_numbered("feature.{}", "output.{}", (0, 3), (1, 4), (2, 5), (3, 6)),
    },
    block={
        "blocks.{block}.norm1": "norm1", "blocks.{block}.norm2": "norm2",
        "blocks.{block}.attn.qkv": "attention.qkv", "blocks.{block}.attn.proj": "attention.projection",
        "blocks.{block}.mlp.fc1": "perceptron.0", "blocks.{block}.mlp.fc2": "perceptron.2",
    },
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """One public implementation."""

    source: str
    names: tuple[Names, ...]
    colours: str = "rgb"
    """Order of the channels that its networks are fed: rgb or bgr."""
    normalisation: str = "half"
    """Among ``NORMALISATIONS`` of the networks' table."""
    flip_sum: bool = False
    """Whether its own evaluation adds the embedding of the mirrored face, as ours always does."""
    prefix: str = ""
    """What usually stands before its keys; where two layouts fit, the one whose prefix does is taken."""
    template: str = ARCFACE.name
    """Name in ``face_templates`` of what faces are aligned to."""


LAYOUTS = {
    "arcface_torch": Layout(
        "github.com/deepinsight/insightface, recognition/arcface_torch/backbones",
        (ARCFACE_IR, ARCFACE_MOBILEFACENET, ARCFACE_VIT), flip_sum=True,
    ),
    "adaface": Layout(
        "github.com/mk-minchul/AdaFace, net.py", (ADAFACE_IR,), colours="bgr", flip_sum=True, prefix="model.",
    ),
    "cvlface": Layout(
        "github.com/mk-minchul/CVLface, models/iresnet and iresnet_insightface",
        (ADAFACE_IR, ARCFACE_IR), flip_sum=True, prefix="net.",
    ),
    "face.evoLVe": Layout("github.com/ZhaoJ9014/face.evoLVe, backbone/model_irse.py", (EVOLVE_IR,), flip_sum=True),
    "cavaface": Layout("github.com/cavalleria/cavaface, backbone/resnet_irse.py", (CAVAFACE_IR,), flip_sum=True),
}  # fmt: skip
OTHER_HEADS = {32: "vit_t", 96: "vit_l"}
"""Width -> arcface_torch's transformer of it, whose attention has 8 heads of 32 or of 96 channels where ours are of 64.
The shapes of its weights do not show that."""
ONNX_LAYOUT = "insightface.onnx"
"""Of .onnx files, which keep no names: their layers are matched in the order of the graph."""
CONTAINERS = (
    "state_dict", "state_dict_backbone", "model_state_dict", "model", "backbone", "net", "network", "ema", "weights",
)  # fmt: skip
"""Keys under which training scripts keep a state dict, the likelier ones first."""
NOT_THE_BACKBONE = ("head", "kernel", "classifier", "margin", "loss", "logits", "fc7", "mask_token")
"""First words of keys that stand beside a backbone's: of heads, losses, and of a ViT's training with masks."""


@dataclass(frozen=True)
class Candidate:
    """A network of ours as one public implementation names it."""

    layout: str
    backbone: str
    names: Names
    modules: Mapping[str, str] = field(repr=False)
    """Their module -> ours; more than the network has, such as of squeeze-and-excitation."""


def candidates(layout: str = "auto") -> Iterator[Candidate]:
    """Every network in every layout, or in one."""
    for name, description in LAYOUTS.items():
        if layout not in ("auto", name):
            continue
        for names in description.names:
            for backbone, architecture in BACKBONES.items():
                if _kind_of(names) is type(architecture) and _can_name(names, architecture):
                    yield Candidate(name, backbone, names, names.of(_units(architecture)))


def _can_name(names: Names, architecture: Architecture) -> bool:
    """Whether squeeze-and-excitation has names, where the network has it."""
    gated = isinstance(architecture, ImprovedResNet) and architecture.squeeze_excite
    return not gated or any(ours.endswith(".squeeze") for ours in names.block.values())


def _kind_of(names: Names) -> type:
    """The kind of network that ``names`` are of."""
    if names.variant:
        return ImprovedResNet
    return MobileFaceNet if names is ARCFACE_MOBILEFACENET else VisionTransformer


def _units(architecture: Architecture) -> tuple[int, ...]:
    """Blocks in each stage; a transformer has one stage."""
    if isinstance(architecture, VisionTransformer):
        return (architecture.depth,)
    halving = isinstance(architecture, MobileFaceNet)  # its table counts what follows the first of a stage
    return tuple(units + halving for units in architecture.units)
