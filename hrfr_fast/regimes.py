"""The experiments of the study, as data: what each is trained on and at which input size."""

from dataclasses import dataclass

from hrfr_fast.errors import UsageError


@dataclass(frozen=True)
class Regime:
    """One row of the table.

    ``sources``: training splits. One epoch is a pass over the first; the second, where there is one, is mixed
    in (``--highres-share``), its labels offset by the number of identities in the first, under one head.
    """

    name: str
    sources: tuple[str, ...]
    input_size: int
    summary: str


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("lowres32", ("lowres",), 32, "low-resolution faces, shrunk to 32 px"),
        Regime("lowres144", ("lowres",), 144, "low-resolution faces, upscaled to 144 px"),
        Regime("highres32", ("highres",), 32, "high-resolution faces, shrunk to 32 px"),
        Regime("highres144", ("highres",), 144, "high-resolution faces at 144 px"),
        Regime("highlow144", ("lowres", "highres"), 144, "both at 144 px, one head over all identities"),
    )
}


def regime_named(name: str) -> Regime:
    """The regime called ``name``. Raises UsageError listing the names there are."""
    if name not in REGIMES:
        raise UsageError(f"no regime is called {name!r}; there are {', '.join(REGIMES)}")
    return REGIMES[name]
