"""Backbones by name: the network that ``BackboneSettings`` describe.

``backbones/table.py`` lists the networks as data; each kind of network is one file beside it.
"""

from hrfr_fast.model.backbones.base import Backbone, BackboneSettings
from hrfr_fast.model.backbones.improved_resnet import ImprovedResNetBackbone
from hrfr_fast.model.backbones.mobilefacenet import MobileFaceNetBackbone
from hrfr_fast.model.backbones.table import ImprovedResNet, MobileFaceNet, VisionTransformer
from hrfr_fast.model.backbones.vision_transformer import VisionTransformerBackbone
from hrfr_fast.model.domain_norm import add_domains

__all__ = ["Backbone", "BackboneSettings", "build_backbone"]

_KINDS: dict[type, type[Backbone]] = {
    ImprovedResNet: ImprovedResNetBackbone,
    MobileFaceNet: MobileFaceNetBackbone,
    VisionTransformer: VisionTransformerBackbone,
}


def build_backbone(settings: BackboneSettings) -> Backbone:
    """A freshly initialised network; torch's global generator decides the weights."""
    network = _KINDS[type(settings.architecture)](settings)
    if settings.domain_norm != "shared":
        network.domains = add_domains(network, settings.domain_norm)
    return network
