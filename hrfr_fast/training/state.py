"""What changes while a run trains: all of it is in a checkpoint, and nothing else has to be."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim

from hrfr_fast.model import checkpoint
from hrfr_fast.model.lineage import changed_run_data
from hrfr_fast.runtime.errors import DamageFound, UsageError
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.ranks import from_main
from hrfr_fast.training.averaging import WeightAverage
from hrfr_fast.training.build import Execution, RunSetup
from hrfr_fast.training.data_parallel import DataParallel, is_sharded
from hrfr_fast.training.fastest_way import choose_way
from hrfr_fast.training.head_rows import load_rows, optimizer_state, remove_other_rows, save_rows
from hrfr_fast.training.optim import build_optimizer, learning_rate, restore_optimizer
from hrfr_fast.training.phases import ScheduledPhase
from hrfr_fast.training.plateau import Plateau
from hrfr_fast.training.random_state import gathered_random_state, restore_random_state, separate_random_numbers
from hrfr_fast.training.resuming import COPY, refuse_mixture, refuse_other_state, result_settings
from hrfr_fast.training.step import TrainStep

STATE_FILE = "last.state.pt"


class TrainState:
    """Position, optimiser and what validation has found so far of the run ``setup``; the weights are in its modules.

    Order and augmentation are functions of the number of samples consumed, so a position is one integer.
    """

    def __init__(self, setup: RunSetup) -> None:
        self.setup = setup
        self.parallel = DataParallel(setup.ranks, setup.compute.device, setup.settings.execution.allreduce)
        self.step = 0
        """Optimiser steps taken."""
        self.phase = -1
        """Number of the phase that the last step belonged to; -1 before the first."""
        self.optimizer: optim.Optimizer | None = None
        self.take_step: TrainStep | None = None
        self.scaler = torch.amp.GradScaler(setup.compute.device.type, enabled=setup.compute.scaled)
        decay = setup.settings.optimizer.ema
        self.average = WeightAverage(setup.backbone, setup.head, decay) if decay else None
        """Of the weights; what is evaluated and kept for others, where there is one."""
        self.references = setup.references
        """Networks without gradient that the loss compares with, where there are some."""
        self.plateau = Plateau(setup.settings.budget.plateau or 0)
        self.next_eval = self.validation_after()
        """Epoch after which the next validation is due."""
        self.best_accuracy = -1.0
        """On the validation pairs, of the checkpoint kept as ``best``."""
        separate_random_numbers(setup.ranks, setup.settings.seed, 0)

    @property
    def samples(self) -> int:
        """Samples consumed."""
        return self.step * self.setup.stream.batch_size

    @property
    def evaluated(self) -> tuple[nn.Module, nn.Module]:
        """Backbone and head as they are verified and written for others: the average, or what is trained."""
        return (self.average or self.setup).backbone, (self.average or self.setup).head

    @property
    def epoch(self) -> float:
        """Passes over the first split."""
        return self.samples / self.setup.stream.epoch_length

    def where(self) -> dict[str, Any]:
        """The position, as metrics and checkpoints record it."""
        return {"step": self.step, "samples": self.samples, "epoch": round(self.epoch, 4)}

    def validation_after(self) -> float:
        """The next epoch, from here on, at whose end a validation is due."""
        every = self.setup.settings.logging.eval_every
        return (math.floor(self.epoch / every + 1e-9) + 1) * every if every else math.inf

    # ---- phases and learning rate ---------------------------------------------------------------------------------

    def phase_of_next_step(self) -> tuple[int, ScheduledPhase]:
        """Number and extent of the phase that the next step belongs to; beyond the budget, of the last."""
        phases = self.setup.phases
        return next(
            ((n, phase) for n, phase in enumerate(phases) if self.step < phase.stop), (len(phases) - 1, phases[-1])
        )

    def in_last_phase(self) -> bool:
        """Whether the next step belongs to the last phase, or there is none."""
        return not self.setup.phases or self.phase_of_next_step()[0] == len(self.setup.phases) - 1

    @property
    def execution(self) -> Execution | TrainStep:
        """Whoever says whether steps are compiled and captured: what failed in one phase is not tried in the next."""
        return self.take_step or self.setup.execution

    def enter_phase(self, number: int) -> TrainStep:
        """Freeze what this phase does not train; an optimiser without momentum, and a step of its own."""
        setup, settings, phase = self.setup, self.setup.settings, self.setup.phases[number].phase
        setup.train_only(setup.backbone, setup.head, phase.train)
        how, first = self.execution, self.take_step is None
        tried = first and setup.compute.device.type == "cuda" and not setup.ranks.distributed
        self.optimizer = build_optimizer(
            [setup.backbone, setup.head],
            kind=settings.optimizer.optimizer,
            lr=setup.peak_rate * phase.rate,
            momentum=settings.optimizer.momentum,
            betas=(settings.optimizer.beta1, settings.optimizer.beta2),
            weight_decay=settings.optimizer.weight_decay or 0.0,
            layer_decay=settings.optimizer.layer_decay,
        )
        self.take_step = TrainStep(
            setup.backbone, setup.objective, self.optimizer, self.scaler, setup.compute,
            accumulate=settings.sampling.accumulate, clip_gradient=settings.optimizer.clip_gradient,
            compile=how.compile, graphs=how.graphs, kernels=how.kernels, parallel=self.parallel,
            choose=choose_way if tried else None, references=self.references, say=console.print,
        )  # fmt: skip
        self.phase = number
        return self.take_step

    def learning_rate(self, phase: ScheduledPhase) -> float:
        """Of the next step: of its phase's own schedule, or of the plateaus where the last phase watches for them."""
        settings, steps = self.setup.settings, phase.stop - phase.start
        base = self.setup.peak_rate * phase.phase.rate
        done, warmup = min(self.step, phase.stop - 1) - phase.start, round(settings.optimizer.warmup * steps)
        if settings.budget.plateau and phase is self.setup.phases[-1]:
            return base * self.plateau.factor * min(1.0, (done + 1) / max(1, warmup))
        return learning_rate(done, steps, base=base, warmup_steps=warmup, schedule=settings.optimizer.schedule)

    # ---- several ranks --------------------------------------------------------------------------------------------

    def average_statistics(self) -> None:
        """Give BatchNorm's running statistics their means over ranks, before somebody looks at the model."""
        averages = [self.average.backbone, self.average.head] if self.average else []
        self.parallel.average_buffers([self.setup.backbone, self.setup.head, *averages])

    def take_over_findings(self) -> None:
        """What validation has found on rank 0, on every rank: learning rate and end of the run depend on it."""
        found = [self.next_eval, self.best_accuracy, self.plateau.state()]
        self.next_eval, self.best_accuracy, plateau = from_main(self.setup.ranks, found)
        self.plateau = Plateau(**plateau)

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def is_finite(self) -> bool:
        """Whether all weights and statistics are finite numbers, on every rank; of all ranks, and waits for the device.

        By their extremes: a mask would take a quarter of a large head's memory.
        """
        parts = (self.setup.backbone, self.setup.head)
        tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
        floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
        extremes = torch.stack([extreme for tensor in floats for extreme in tensor.aminmax()])
        return not self.parallel.largest([int(not extremes.isfinite().all())])[0]

    def save(self) -> None:
        """Write all that ``restore`` needs, atomically. Of several ranks all call it and rank 0 writes.

        Nothing in it depends on how many ranks there are, but for their random numbers: dropout draws others where a
        run goes on with another number of ranks.
        """
        setup = self.setup
        self.average_statistics()
        random = gathered_random_state(self.parallel)
        state = {
            "step": self.step,
            "phase": self.phase,
            "next_eval": self.next_eval,
            "plateau": self.plateau.state(),
            "best_accuracy": self.best_accuracy,
            "data_digest": setup.packed.digest,
            "origin": setup.origin,
            "settings": result_settings(setup.settings),
            "regime": setup.regime.model_dump(mode="json"),
            "backbone": setup.backbone.state_dict(),
            "head": setup.head.state_dict(),
            "optimizer": optimizer_state(self.optimizer, setup.head),
            "average": self.average.state_dict() if self.average else None,
            "references": self.references.state(self.parallel) if self.references is not None else None,
            "scaler": self.scaler.state_dict(),
            **random,
        }
        checkpoints = setup.checkpoint(STATE_FILE).parent
        save_rows(checkpoints, state, setup.head, self.optimizer)
        if setup.ranks.is_main:
            checkpoint.save_state(setup.checkpoint(STATE_FILE), state)
            remove_other_rows(checkpoints, state)

    def restore(self) -> None:
        """Continue from the run's last checkpoint, or from the start where none was written yet.

        Raises UsageError for a checkpoint of other data or other settings, DamageFound for one of no training.
        """
        setup, path = self.setup, self.setup.checkpoint(STATE_FILE)
        if not path.exists():
            console.print(f"{setup.run}: stopped before its first checkpoint, starting again")
            return
        state = checkpoint.load_state(path, torch.device("cpu") if is_sharded(setup.head) else setup.compute.device)
        refuse_other_state(path, state)
        self._refuse_other_data(state)
        refuse_mixture(setup.run, state, setup.settings, setup.regime, setup.total_steps)
        try:
            self._take(state, path.parent)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise DamageFound(f"{path}: a whole file, but not the state of this training: {error}. {COPY}") from error

    def _take(self, state: dict[str, Any], checkpoints: Path) -> None:
        """Be what the training ``state`` in the folder ``checkpoints`` says."""
        setup = self.setup
        if state["phase"] >= 0:
            self.enter_phase(state["phase"])
        load_rows(checkpoints, state, setup.head, self.optimizer)
        setup.backbone.load_state_dict(state["backbone"])
        setup.head.load_state_dict(state["head"])
        if self.optimizer and state["optimizer"]:
            restore_optimizer(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if self.references is not None:
            self.references.restore(state["references"], setup.ranks)
        self.scaler.load_state_dict(state["scaler"])
        restore_random_state(self.parallel, state, setup.settings.seed)
        self.step, self.best_accuracy = state["step"], state["best_accuracy"]
        self.next_eval, self.plateau = state["next_eval"], Plateau(**state["plateau"])

    def _refuse_other_data(self, state: dict[str, Any]) -> None:
        packed, run = self.setup.packed, self.setup.run
        origin = state.get("origin", {"data": {"digest": state["data_digest"]}})
        if other := changed_run_data(origin, packed.manifest):
            raise UsageError(
                f"{packed.path} has changed since {run} was started ({', '.join(other)}); "
                "train a new run on it, or say with --data where the data of the run are now"
            )
        if state["data_digest"] != packed.digest:
            console.print(
                f"note: {packed.path} has changed since {run} was started, but not in what it is trained on",
                markup=False, highlight=False,
            )  # fmt: skip
