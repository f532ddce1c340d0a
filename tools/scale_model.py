"""What a set of 100 million faces and 10 million people needs, computed from measured constants.

    python tools/scale_model.py                                  # the tables of docs/explanation/scale.md
    python tools/scale_model.py --machines 1 --cards 8 --faces 10e6 --people 1e6 --partial-fc 0.1
    python tools/scale_model.py --images-per-second 3000         # of one card, measured, instead of the assumption

Every constant is in ``scale_constants.py`` with its source, or is an option. Nothing here was run at this size.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.roofline import roofline_seconds, step_operations  # noqa: E402
from hrfr_fast.format.beton import ALLOCATION, METADATA  # noqa: E402
from hrfr_fast.model.backbone import BackboneSettings, build_backbone  # noqa: E402
from tools.scale_constants import LINKS, MEASURED  # noqa: E402

FLOAT, HALF = 4, 2  # bytes
GB = 1e9


@dataclass(frozen=True)
class Job:
    """What is trained: a set of faces, a network, a batch a card, and the share of classes in a step."""

    faces: float = 100e6
    people: float = 10e6
    network: str = "ir50"
    size: int = 112
    batch: int = 128
    embedding: int = 512
    partial_fc: float = 1.0


@dataclass(frozen=True)
class Cluster:
    """What it is trained on; memory in bytes, of a card and of a machine."""

    machines: int = 8
    cards: int = 8
    card_memory: float = 80e9
    host_memory: float = 1e12
    cores: int = 64

    @property
    def ranks(self) -> int:
        return self.machines * self.cards


@dataclass(frozen=True)
class Network:
    """A backbone in numbers, for one image or step of one card.

    Attributes:
        weights: parameters.
        saved: bytes of activations that the backward pass needs, of an image.
        seconds: least time of a step of one card by the roofline, head aside.
    """

    weights: int
    saved: float
    seconds: float


def network_of(job: Job) -> Network:
    """The numbers of the job's backbone; nothing is computed, its layers see shapes alone."""
    settings = BackboneSettings(name=job.network, input_size=job.size, embedding_size=job.embedding)
    operations = step_operations(settings, 0, job.batch)
    ceilings = (MEASURED[name].value for name in ("FLOP/s of a card", "bytes/s of a card's memory"))
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in build_backbone(settings).parameters())
    return Network(weights, saved_bytes(settings), roofline_seconds(operations, *ceilings))


def saved_bytes(settings: BackboneSettings, images: int = 3) -> float:
    """Bytes of 16-bit maps that autograd keeps of an image for the backward pass, each storage once."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(saved: torch.Tensor) -> torch.Tensor:
        if saved.dim() > 2 and len(saved) == images:  # no weight has so few rows
            kept[saved.untyped_storage()._cdata] = saved.untyped_storage()
        return saved

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        size = settings.input_size
        output = build_backbone(settings).bfloat16()(torch.empty(images, 3, size, size, dtype=torch.bfloat16))
    del output
    return sum(storage.nbytes() for storage in kept.values()) / images


@dataclass(frozen=True)
class Model:
    """Every number of the tables, from a job, a cluster, the network and the rate of one card.

    ``roofline_share``: of the roofline's rate that a step reaches; an assumption.
    ``measured_rate``: images a second of one card without exchange, instead.
    """

    job: Job
    cluster: Cluster
    network: Network
    roofline_share: float = 0.5
    measured_rate: float | None = None

    # ---- disk and packing -----------------------------------------------------------------------------------------

    def disk_bytes(self, pixels: float) -> float:
        """Bytes of the shards and their checksums, for ``pixels`` bytes a face."""
        return self.job.faces * (pixels + METADATA.itemsize + ALLOCATION.itemsize + 4)

    @property
    def packing_cpu_seconds(self) -> float:
        return self.job.faces / MEASURED["faces packed in a CPU second"].value

    # ---- memory ---------------------------------------------------------------------------------------------------

    @property
    def head_bytes(self) -> float:
        """Of one card: its rows, their gradients and their momenta."""
        return 3 * FLOAT * self.job.people * self.job.embedding / self.cluster.ranks

    @property
    def backbone_bytes(self) -> float:
        return 3.0 * FLOAT * self.network.weights

    @property
    def activation_bytes(self) -> float:
        return self.job.batch * self.network.saved

    @property
    def pixel_bytes(self) -> float:
        """Of one card with ``--resident-shard``."""
        return self.job.faces * 3 * self.job.size**2 / self.cluster.ranks

    # ---- time and traffic of a step -------------------------------------------------------------------------------

    @property
    def head_seconds(self) -> float:
        """Of a step: the logits of the global batch over the card's classes, and two products backward."""
        batch, rows = self.job.batch * self.cluster.ranks, self.job.partial_fc * self.job.people / self.cluster.ranks
        return 6 * batch * rows * self.job.embedding / MEASURED["FLOP/s of a card"].value

    @property
    def step_seconds(self) -> float:
        """Of a card that waits for nobody."""
        if self.measured_rate:
            return self.job.batch / self.measured_rate
        return (self.network.seconds + self.head_seconds) / self.roofline_share

    @property
    def rate(self) -> float:
        """Images a second of a card that waits for nobody."""
        return self.job.batch / self.step_seconds

    @property
    def gradient_bytes(self) -> float:
        """That each link of a ring over all cards carries a step for the backbone's gradients in float32."""
        return 2 * (self.cluster.ranks - 1) / self.cluster.ranks * FLOAT * self.network.weights

    @property
    def head_exchange_bytes(self) -> float:
        """The same for the sharded head: embeddings gathered, their gradients summed, three vectors (float32)."""
        others, batch = self.cluster.ranks - 1, self.job.batch
        return FLOAT * others * batch * (3 * self.job.embedding + 2 * 3)

    def traffic(self) -> Iterator[tuple[str, str, float, float]]:
        """(link, what it carries, bytes a step, bytes a second it can)."""
        exchange = self.gradient_bytes + self.head_exchange_bytes
        raw, jpeg = 3.0 * self.job.size**2, MEASURED["bytes of a 112-px JPEG"].value
        for name in ("NVLink 4", "PCIe 5 x16", "PCIe 4 x16"):
            if self.cluster.cards > 1:
                yield name, "gradients and head, between cards", exchange, LINKS[name].value
        for name in ("400 Gb Ethernet", "100 Gb Ethernet"):
            if self.cluster.machines > 1:
                yield name, "the same, between machines (one ring)", exchange, LINKS[name].value
        yield "PCIe 4 x16", "raw pixels of one card, streamed", self.job.batch * raw, LINKS["PCIe 4 x16"].value
        a_machine = self.cluster.cards * self.job.batch * jpeg
        yield "NVMe drive", "JPEG of all cards of a machine", a_machine, LINKS["NVMe drive"].value
        yield "100 Gb Ethernet", "the same from a shared folder", a_machine, LINKS["100 Gb Ethernet"].value

    # ---- what is full first ---------------------------------------------------------------------------------------

    def limits(self) -> list[tuple[str, float, float, str]]:
        """(what, needed, there is, unit), the fullest first."""
        faces, cluster = self.job.faces, self.cluster
        card = self.backbone_bytes + self.head_bytes + self.activation_bytes
        orders = MEASURED["bytes of an order a face"].value * MEASURED["orders that a rank keeps"].value
        tables = MEASURED["bytes of a rank's tables a face"].value + orders
        exchange = (self.gradient_bytes + self.head_exchange_bytes) / self.step_seconds
        packing = MEASURED["bytes of the packing process a face"].value
        order = faces / 1e6 * MEASURED["CPU seconds of a permutation of a million"].value
        epoch = faces / (self.rate * cluster.ranks)
        found = [
            ("memory of a card: weights, head, activations", card / GB, cluster.card_memory / GB, "GB"),
            ("memory of a card: the same with its raw pixels", (card + self.pixel_bytes) / GB,
             cluster.card_memory / GB, "GB"),
            ("memory of a machine: each rank's tables and orders", cluster.cards * faces * tables / GB,
             cluster.host_memory / GB, "GB"),
            ("memory of a machine: the packing process", faces * packing / GB, cluster.host_memory / GB, "GB"),
            ("memory of a machine: JPEG shards in the page cache",
             self.disk_bytes(MEASURED["bytes of a 112-px JPEG"].value) / GB, cluster.host_memory / GB, "GB"),
            ("time of a step: the head", 1e3 * self.head_seconds, 1e3 * (self.network.seconds + self.head_seconds),
             "ms"),
            ("time of an epoch: making its order on one core", order, epoch, "s"),
        ]  # fmt: skip
        if cluster.machines > 1:
            found.append(("100 Gb Ethernet: gradients and head", exchange / GB, 12.5, "GB/s"))
        return sorted(found, key=lambda item: -item[1] / item[2])


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))


def report(model: Model) -> str:
    """The tables in Markdown."""
    job, cluster = model.job, model.cluster
    jpeg = MEASURED["bytes of a 112-px JPEG"].value
    cpu = model.packing_cpu_seconds
    disk = [
        ("shards, 112-px JPEG", f"{model.disk_bytes(jpeg) / 1e12:,.2f} TB"),
        ("shards, 112-px raw", f"{model.disk_bytes(3 * 112**2) / 1e12:,.2f} TB"),
        ("shards, 36-px raw", f"{model.disk_bytes(3 * 36**2) / 1e12:,.2f} TB"),
        ("packing", f"{cpu / 3600:,.1f} CPU hours, {cpu / cluster.cores / 60:,.0f} minutes of {cluster.cores} cores"),
        ("copying the JPEG shards to local disks", f"{model.disk_bytes(jpeg) / 12.5e9:,.0f} s a machine at 100 Gb/s"),
        (
            "an epoch",
            f"{job.faces / model.rate / cluster.ranks / 60:,.0f} minutes at {model.rate:,.0f} images/s a card",
        ),
    ]
    memory = [
        ("backbone: weights, gradients, momenta", f"{model.backbone_bytes / GB:,.2f}"),
        ("head: the card's rows, gradients, momenta", f"{model.head_bytes / GB:,.2f}"),
        (f"activations of {job.batch} images", f"{model.activation_bytes / GB:,.2f}"),
        ("raw pixels with --resident-shard", f"{model.pixel_bytes / GB:,.2f}"),
        ("for comparison: the head unsharded", f"{model.head_bytes * cluster.ranks / GB:,.2f}"),
    ]
    links = [
        (link, what, f"{size / 1e6:,.1f}", f"{there / size * job.batch:,.0f}",
         f"{size / model.step_seconds / there:.1%}")
        for link, what, size, there in model.traffic()
    ]  # fmt: skip
    limits = [
        (what, f"{needed:,.1f} of {there:,.1f} {unit}", f"{needed / there:.0%}")
        for what, needed, there, unit in model.limits()
    ]
    title = (
        f"{job.faces / 1e6:,.0f} million faces, {job.people / 1e6:,.0f} million people; {job.network} at {job.size} px,"
        f" {job.batch} images a card, {cluster.machines} machines of {cluster.cards} cards"
        f" (Partial FC {job.partial_fc:g})"
    )
    return "\n\n".join((
        f"**{title}**", table(("disk and time", ""), disk), table(("memory of a card", "GB"), memory),
        table(("link", "carries", "MB a step", "is full at images/s a card", "share used"), links),
        table(("what is full first", "needed", "share"), limits),
    ))  # fmt: skip


app = typer.Typer(add_completion=False)


@app.command()
def main(
    faces: Annotated[float, typer.Option(help="faces")] = Job.faces,
    people: Annotated[float, typer.Option(help="identities, rows of the head")] = Job.people,
    network: Annotated[str, typer.Option(help="backbone")] = Job.network,
    size: Annotated[int, typer.Option(help="its input in pixels")] = Job.size,
    batch: Annotated[int, typer.Option(help="images a card and step")] = Job.batch,
    partial_fc: Annotated[float, typer.Option(help="share of the classes in a step")] = Job.partial_fc,
    machines: Annotated[int, typer.Option(help="machines")] = Cluster.machines,
    cards: Annotated[int, typer.Option(help="cards of a machine")] = Cluster.cards,
    card_gb: Annotated[float, typer.Option(help="memory of a card")] = Cluster.card_memory / GB,
    host_gb: Annotated[float, typer.Option(help="memory of a machine")] = Cluster.host_memory / GB,
    cores: Annotated[int, typer.Option(help="cores of the machine that packs")] = Cluster.cores,
    roofline_share: Annotated[float, typer.Option(help="share of the roofline that a step reaches (assumed)")] = 0.5,
    images_per_second: Annotated[float | None, typer.Option(help="of one card, where it was measured")] = None,
) -> None:
    """Print the tables and the constants that they rest on."""
    job = Job(faces, people, network, size, batch, partial_fc=partial_fc)
    cluster = Cluster(machines, cards, card_gb * GB, host_gb * GB, cores)
    typer.echo(report(Model(job, cluster, network_of(job), roofline_share, images_per_second)) + "\n")
    rows = [(name, f"{one.value:,.4g}", one.source) for name, one in {**MEASURED, **LINKS}.items()]
    typer.echo(table(("constant", "value", "source"), rows))


if __name__ == "__main__":
    app()
