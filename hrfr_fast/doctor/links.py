"""Links between the ranks of a job as measured, and the rule by which one of them counts as slow."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SLOW = 0.5
"""A link is slow that carries less than this share of what the fastest link of its kind carries."""
MOST_LISTED = 10


@dataclass(frozen=True)
class AllReduce:
    """A sum over all ranks of ``message_bytes`` on each, in ``seconds``."""

    message_bytes: int
    seconds: float

    def bus_rate(self, ranks: int) -> float:
        """Bytes a second that every link carries in a ring, 2 (n - 1) / n of the message in the time (the "busbw" of
        nccl-tests, ``doc/PERFORMANCE.md``)."""
        return 2 * (ranks - 1) / ranks * self.message_bytes / self.seconds


@dataclass(frozen=True)
class Link:
    """The way between two ranks: seconds of a message of 8 bytes, and bytes a second of a long one, one way."""

    first: int
    second: int
    latency: float
    rate: float


@dataclass(frozen=True)
class Exchange:
    """What a job's ranks exchange, and how fast.

    Attributes:
        hosts: name of the machine of each rank.
        device: what the messages lay on, cpu or cuda.
        links: all pairs of up to 16 ranks, of more each rank with the next.
    """

    hosts: tuple[str, ...]
    device: str
    sums: tuple[AllReduce, ...]
    links: tuple[Link, ...]

    def within(self, link: Link) -> bool:
        """Whether both ranks are on one machine."""
        return self.hosts[link.first] == self.hosts[link.second]

    def way(self, link: Link) -> str:
        """The machine or machines of a link."""
        first, second = self.hosts[link.first], self.hosts[link.second]
        return first if first == second else f"{first} - {second}"

    def named(self, rank: int) -> str:
        """A rank as messages call it."""
        return f"rank {rank} ({self.hosts[rank]})"

    def to_json(self) -> dict[str, Any]:
        """The fields, and ``slow``: what is slow, in words."""
        return asdict(self) | {"slow": slow(self)}


def slow(exchange: Exchange) -> list[str]:
    """What is slow, one sentence each: a machine or a rank all of whose links are, else single links.

    A link is compared with the fastest of its kind: within a machine, or between machines. Where all are equally slow
    nothing is named.
    """
    found = []
    for within in (False, True):
        links = [link for link in exchange.links if exchange.within(link) == within]
        best = max((link.rate for link in links), default=0.0)
        bad = [link for link in links if link.rate < SLOW * best]
        places = [str(rank) for rank in range(len(exchange.hosts))] if within else list(exchange.hosts)
        culprits = _culprits(links, bad, places)
        found += [_of_a_place(exchange, culprit, within, bad, places, best) for culprit in culprits]
        rest = [link for link in bad if not {places[link.first], places[link.second]} & set(culprits)]
        found += [_of_a_link(exchange, link, within, best) for link in rest]
    return found


def _culprits(links: Sequence[Link], bad: Sequence[Link], places: Sequence[str]) -> list[str]:
    """The places that have two links to others or more, all of them slow: ranks within a machine, else machines."""

    def others(place: str, some: Sequence[Link]) -> set[str]:
        """The places that ``place`` has links to."""
        ends = [(places[link.first], places[link.second]) for link in some]
        return {b if a == place else a for a, b in ends if place in (a, b)}

    good = [link for link in links if link not in bad]
    return [p for p in dict.fromkeys(places) if len(others(p, bad)) >= 2 and not others(p, good)]


def _of_a_place(
    exchange: Exchange, place: str, within: bool, bad: Sequence[Link], places: Sequence[str], best: float
) -> str:
    rates = [link.rate for link in bad if place in (places[link.first], places[link.second])]
    name = exchange.named(int(place)) if within else f"machine {place}"
    return (
        f"{name}: all its links are slow, {rate(max(rates))} at most where others carry {rate(best)}; {_advice(within)}"
    )


def _of_a_link(exchange: Exchange, link: Link, within: bool, best: float) -> str:
    ends = f"{exchange.named(link.first)} and {exchange.named(link.second)}"
    return f"{ends}: {rate(link.rate)} where others carry {rate(best)}; {_advice(within)}"


def _advice(within: bool) -> str:
    if within:
        return "are its cores busy with something else, or (`nvidia-smi topo -m`) are its GPUs joined in another way?"
    return "how fast is the interface (`ethtool`), and is it the one used (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME)?"


def rate(value: float) -> str:
    """Bytes a second for people."""
    return f"{value / 1e9:.2f} GB/s" if value >= 1e8 else f"{value / 1e6:.1f} MB/s"


def shown_links(exchange: Exchange) -> list[Link]:
    """The links for a table: all where they are few, else the slowest, slowest first."""
    if len(exchange.links) <= MOST_LISTED:
        return list(exchange.links)
    return sorted(exchange.links, key=lambda link: link.rate)[:MOST_LISTED]


def size(count: int) -> str:
    """A number of bytes for people, in binary units."""
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
