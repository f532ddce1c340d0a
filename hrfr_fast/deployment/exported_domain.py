"""The one resolution that an exported file of a network with BatchNorm by resolution is for."""

from typing import TYPE_CHECKING

from hrfr_fast.model.domain_norm import HIGH, LOW, keep_domain
from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from hrfr_fast.evaluation.embedder import BackboneEmbedder


def choose_domain(model: "BackboneEmbedder", domain: str) -> None:
    """Give the model the BatchNorm of ``domain`` alone. Raises UsageError where it does not fit."""
    if domain not in ("", LOW, HIGH):
        raise UsageError(f"--domain {domain}: give {LOW} or {HIGH}")
    if model.by_resolution and not domain:
        raise UsageError(
            f"{model.name} normalises pictures of low and of high resolution apart, and a file holds one of both:"
            f" export it once with --domain {LOW} and once with --domain {HIGH}, and choose by a picture's size"
        )
    if domain and not model.by_resolution:
        raise UsageError(f"--domain {domain}: {model.name} normalises all pictures alike; leave it out")
    if domain:
        keep_domain(model.backbone, domain)
        model.metadata = {**model.metadata, "backbone": {**model.metadata["backbone"], "domain_norm": "shared"}}
