"""The one resolution that an exported file of a network with BatchNorm by resolution is for."""

from typing import TYPE_CHECKING

from hrfr_fast.model.domain_norm import HIGH, LOW, keep_domain
from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from hrfr_fast.evaluation.embedder import BackboneEmbedder

LARGEST = 1 << 16
"""Side in pixels beyond that of any picture that can be packed."""


def sizes_of(domain: str, limit: int) -> range:
    """Sides of the pictures that a file is for, in pixels; ``limit``: the largest of low resolution."""
    return {LOW: range(limit + 1), HIGH: range(limit + 1, LARGEST + 1)}.get(domain, range(LARGEST + 1))


def in_words(domain: str, limit: int) -> list[str]:
    """A line that says what a file of one domain is for; none for a file of all pictures."""
    return [f"for pictures of {'at most' if domain == LOW else 'more than'} {limit} px alone"] if domain else []


def choose_domain(model: "BackboneEmbedder", domain: str) -> int:
    """Give the model the BatchNorm of ``domain`` alone. Raises UsageError where it does not fit.

    Returns:
        The largest side of a picture of low resolution in pixels; 0 for a model that has no domains.
    """
    if domain not in ("", LOW, HIGH):
        raise UsageError(f"--domain {domain}: give {LOW} or {HIGH}")
    if model.by_resolution and not domain:
        raise UsageError(
            f"{model.name} normalises pictures of low and of high resolution apart, and a file holds one of both:"
            f" export it once with --domain {LOW} and once with --domain {HIGH}, and choose by a picture's size"
        )
    if domain and not model.by_resolution:
        raise UsageError(f"--domain {domain}: {model.name} normalises all pictures alike; leave it out")
    if not domain:
        return 0
    shape = model.metadata["backbone"]
    keep_domain(model.backbone, domain)
    model.metadata = {**model.metadata, "backbone": {**shape, "domain_norm": "shared"}}
    return int(shape["domain_limit"])
