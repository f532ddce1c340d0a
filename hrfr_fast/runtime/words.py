"""Numbers with their nouns, in messages and reports."""

_PLURALS = {"identity": "identities", "person": "people"}


def plural(noun: str) -> str:
    """ "pairs" of "pair", "identities" of "identity"."""
    return _PLURALS.get(noun, f"{noun}s")


def counted(number: int, noun: str) -> str:
    """ "1 step", "2,000 steps", "0 identities"."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"
