"""From what a run is made from to everything it needs: model, batches, objective, phases, in this order."""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from hrfr_fast.engines.base import Engine
from hrfr_fast.engines.choice import choose_engine, resident_pixels
from hrfr_fast.model.class_shards import ClassShard
from hrfr_fast.model.heads import MarginHead
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.ranks import ALONE, Ranks, from_main
from hrfr_fast.sampling.stream import BatchStream
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.averaging import WeightAverage
from hrfr_fast.training.batch_size import found_in_words, largest_batch, most_samples
from hrfr_fast.training.compiling import compile_choice
from hrfr_fast.training.cuda_graph import graphs_choice
from hrfr_fast.training.data_parallel import is_sharded, synchronise
from hrfr_fast.training.fused_kernels import kernels_choice, replace_compiled, with_kernels, worth_trying
from hrfr_fast.training.inputs import RunInputs, find_inputs
from hrfr_fast.training.models import build_classifier, build_embedder
from hrfr_fast.training.phases import ScheduledPhase, schedule_phases
from hrfr_fast.training.sharding import add_sampling, class_shard
from hrfr_fast.training.speed import matrix_rate, training_flops
from hrfr_fast.training.stream import build_stream
from hrfr_fast.training.teacher import take_class_vectors
from hrfr_fast.training.tuning import add_tuning
from hrfr_fast.training.two_views import objective_and_references, reference_networks, tell_rows

if TYPE_CHECKING:
    from hrfr_fast.training.references import References
    from hrfr_fast.training.step import Objective

Model = tuple[nn.Module, MarginHead]
"""Embedder and head."""


@dataclass(frozen=True)
class Execution:
    """How steps are executed, and what that can be compared with."""

    compile: str
    """auto, on or off."""
    graphs: str
    """auto, on or off."""
    kernels: str = "off"
    """auto, on or off: those for GPUs, see ``kernels_choice``."""
    flops: float = 0.0
    """Operations of one training image; 0 where they are not counted."""
    peak: float | None = None
    """FLOP/s of the device in the run's number format, measured; None where it is not."""


@dataclass(frozen=True)
class RunSetup(RunInputs):
    """Everything that a run needs and that stays the same while it trains; the batch size of ``settings`` is decided,
    too."""

    backbone: nn.Module
    head: nn.Module
    stream: BatchStream
    objective: "Objective"
    references: "References | None"
    """Networks without gradient that the objective compares with: a moving copy, the teacher."""
    engine: Engine
    phases: list[ScheduledPhase]
    total_steps: int
    execution: Execution

    @property
    def peak_rate(self) -> float:
        """The highest learning rate of a phase that takes the whole rate."""
        return self.settings.optimizer.learning_rate or 0.0

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.settings.run_directory

    def checkpoint(self, name: str) -> Path:
        """The file ``name`` among the run's checkpoints."""
        return self.run / "checkpoints" / name


def build(settings: TrainSettings, ranks: Ranks = ALONE) -> RunSetup:
    """Find what the run is made from, build the model on its device and choose how it is fed.

    Several ``ranks``, of one process group, build the same model, and each its own share of the batches.

    Raises:
        UsageError: an unknown regime, a missing split or parent, settings that do not fit these.
    """
    inputs = find_inputs(settings, ranks)
    kernels = _kernels(inputs)
    inputs, (backbone, head) = _model_and_batch_size(inputs, kernels)
    settings, regime, compute = inputs.settings, inputs.regime, inputs.compute
    batch_size = settings.sampling.batch_size or 0
    take_class_vectors(head, inputs.teacher, regime, inputs.splits, console.print)
    add_sampling(head, settings, batch_size)
    stream = build_stream(inputs.packed, settings, batch_size, ranks)
    tell_rows(backbone, stream, settings)
    objective, references = objective_and_references(settings, regime, stream, backbone, head, inputs.teacher, compute)
    engine = choose_engine(settings, stream, compute, console.print)
    steps = _steps(inputs, stream)
    phases = schedule_phases(inputs.tuned, steps)
    if phases:  # the last is the longest, and what is frozen costs no backward pass
        inputs.train_only(backbone, head, phases[-1].phase.train)
    total_steps = steps if phases else 0
    execution = _execution(inputs, kernels, (backbone, head), stream, total_steps)
    synchronise(backbone, settings, ranks)
    return RunSetup(
        **vars(inputs), backbone=backbone, head=head, stream=stream, objective=objective, references=references,
        engine=engine, phases=phases, total_steps=total_steps, execution=execution,
    )  # fmt: skip


def _kernels(inputs: RunInputs) -> str:
    asked, ranks = inputs.settings.execution, inputs.ranks
    return kernels_choice(
        asked.fused_kernels, inputs.compute, inputs.shape, asked.compile,
        synchronised=inputs.settings.model.sync_bn and ranks.distributed,
        tried=not (ranks.distributed or asked.deterministic),
    )  # fmt: skip


def _model_and_batch_size(inputs: RunInputs, kernels: str) -> tuple[RunInputs, Model]:
    """The model, and ``inputs`` with a batch size: the one that was given, or the largest that fits."""
    shard = class_shard(inputs.settings, inputs.classes, inputs.ranks, console.print)
    model = partial(_model, inputs, shard, kernels)
    backbone, head = model()
    if inputs.settings.sampling.batch_size is not None:
        return inputs, (backbone, head)
    on_gpu = inputs.compute.device.type == "cuda"
    if on_gpu and is_sharded(head):
        raise UsageError(
            "--batch-size auto takes trial steps on a rank alone, and a sharded head needs the rows of the others;"
            " give a --batch-size, or --shard-head off"
        )
    if inputs.tuned:
        longest = max(inputs.tuned, key=lambda phase: len(phase.train))
        inputs.train_only(backbone, head, longest.train)
    found = _largest_batch(inputs, backbone, head)
    if on_gpu:
        del backbone, head
        backbone, head = model()  # the trial moved BatchNorm's statistics
        console.print(found_in_words(found))
    return replace(inputs, settings=inputs.settings.replaced(batch_size=found)), (backbone, head)


def _model(inputs: RunInputs, shard: ClassShard | None, kernels: str) -> Model:
    """Embedder and head, decided by the seed and the parents."""
    settings, compute = inputs.settings, inputs.compute
    torch.manual_seed(settings.seed)
    checkpointing = settings.execution.activation_checkpointing
    backbone: nn.Module = build_embedder(inputs.shape, inputs.parents, compute, checkpointing=checkpointing)
    add_tuning(backbone, settings.tuning, inputs.regime)
    head = build_classifier(settings, inputs.regime, inputs.classes, inputs.parents, compute, shard)
    return with_kernels(backbone, head, compute, wanted=kernels == "on")


def _largest_batch(inputs: RunInputs, backbone: nn.Module, head: nn.Module) -> int:
    """The largest batch that fits and that ranks and blocks of faces can share; where none can, one to be refused.

    It fits beside all that a run holds: the moving average of the weights, the moving copy of the network, the teacher.
    """
    settings, regime, compute, ranks = inputs.settings, inputs.regime, inputs.compute, inputs.ranks
    blocks, accumulate = settings.sampling.resident_shard or 1, settings.sampling.accumulate
    holders = ranks.count if blocks > 1 else 1
    pixels = resident_pixels(settings.execution.engine, inputs.splits, compute, holders)
    most = most_samples(regime.input_size, sum(split.samples for split in inputs.splits))
    average, references = None, []  # on a CPU nothing is tried
    if compute.device.type != "cpu":
        average = WeightAverage(backbone, head, settings.optimizer.ema) if settings.optimizer.ema else None
        copy, frozen = reference_networks(settings, regime, backbone, inputs.teacher, compute)
        references = [network for network in (copy.backbone if copy else None, frozen) if network is not None]
    found = largest_batch(backbone, head, regime.input_size, compute, accumulate, pixels, ranks, most, references)
    del average  # held until here, as a run holds it
    unit = math.lcm(blocks, accumulate * ranks.count if ranks.distributed else 1)
    return found // unit * unit or found


def _steps(inputs: RunInputs, stream: BatchStream) -> int:
    """Optimiser steps of the budget."""
    budget = inputs.settings.budget
    return budget.steps or max(1, math.ceil(budget.epochs * stream.epoch_length / stream.batch_size))


def _execution(inputs: RunInputs, kernels: str, model: Model, stream: BatchStream, steps: int) -> Execution:
    asked, compute, (backbone, head) = inputs.settings.execution, inputs.compute, model
    if asked.deterministic and asked.compile == "on":
        raise UsageError("--compile on: compiled kernels are chosen by timing them; leave out --deterministic or it")
    compile_asked = "off" if asked.deterministic else asked.compile
    on_gpu, flops, peak = compute.device.type == "cuda", 0.0, None
    if on_gpu:
        flops = training_flops(backbone, stream.size) + 6.0 * inputs.settings.model.embedding_size * stream.classes
        peak = matrix_rate(compute)
    whole_run = flops * (stream.batch_size // inputs.ranks.count) * steps
    compiled = compile_choice(
        compile_asked, compute, whole_run, peak, checkpointing=asked.activation_checkpointing, kernels=kernels
    )  # fmt: skip
    compiled = from_main(inputs.ranks, compiled)  # ranks that measure different rates still take the same steps
    if not on_gpu or (kernels == "auto" and not worth_trying(backbone, head, whole_run, peak)):
        kernels = "off"
    graphs = graphs_choice(asked.graphs, compute)
    if kernels == compiled == "auto" and replace_compiled(compute, backbone, graphs):
        compiled = "off"
    return Execution(compiled, graphs, kernels, flops, peak)
