"""One optimiser step: forward, backward, update.

The trainer decides what is trained and how long; this file decides how a step is executed, and nothing else: eagerly,
compiled (``torch.compile``), or captured once as a CUDA graph and replayed. All three take the same steps. The loss
stays on the device: reading it would make the host wait.

Longer than 300 lines because each way of executing falls back to a simpler one, and all of them share one state.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from hrfr_fast.engines.base import Batch
from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.rank_failures import is_lost_connection
from hrfr_fast.training.clipping import clip_in_step, clips_in_step, forget
from hrfr_fast.training.compiling import use_lasting_cache
from hrfr_fast.training.cuda_graph import WARM_UP, WARM_UP_OF_RANKS, StepGraph, learning_rates_on_device, warm_up
from hrfr_fast.training.unchanged import unchanged

if TYPE_CHECKING:
    from torch import Tensor, nn, optim
    from torch.amp import GradScaler

    from hrfr_fast.training.data_parallel import DataParallel

    Objective = Callable[..., Tensor]


class TrainStep:
    """Takes steps on batches, one call each.

    The first call with ``compile`` or ``graphs`` prepares: it takes trial steps, whose every effect is undone, and
    says how long that took. A graph is captured anew when a parameter is frozen or released or a module changes
    between train and eval mode; a batch of another shape is trained on without it.

    Args:
        backbone: [B, 3, S, S] images to [B, D] embeddings. Parts may be frozen or in eval mode.
        objective: (embeddings, int64 labels [B], steps taken so far) to a scalar float32 loss, the batch's mean. The
            steps are an int64 scalar on the device where the step is compiled or graphed. For graphs it must be a
            module, so that its buffers can be put back after the trial steps.
        optimizer: over every parameter that is to move.
        scaler: of gradients, for fp16; disabled otherwise.
        compute: device and autocast type.
        accumulate: micro-batches a step, which divide the batch; BatchNorm sees each alone.
        clip_gradient: largest norm of all gradients together; 0: no clipping.
        compile: run backbone and objective through torch.compile. auto: if that fails, ``say`` so and go on without;
            on: then raise HrfrError; off.
        graphs: capture the whole step as a CUDA graph; auto, on or off as before.
        kernels: on: the model computes with fused GPU kernels, which are compiled before the first step; off; auto: it
            can, and ``choose`` switches them.
        parallel: the exchanges with other ranks, each of which takes the step on its share of the batch. The loss that
            a call returns is that of this rank's share.
        references: from a micro-batch's images and labels to a fourth argument of the objective, without gradient;
            None: it takes three.
        choose: settles, before anything is prepared, what ``auto`` leaves open, as ``fastest_way.choose_way`` does.
        say: told what is prepared, how long it took, and what could not be.
    """

    def __init__(
        self,
        backbone: "nn.Module",
        objective: "Objective",
        optimizer: "optim.Optimizer",
        scaler: "GradScaler",
        compute: Compute,
        *,
        accumulate: int = 1,
        clip_gradient: float = 0.0,
        compile: str = "off",
        graphs: str = "off",
        kernels: str = "off",
        parallel: "DataParallel | None" = None,
        references: "Callable[[Tensor, Tensor], Any] | None" = None,
        choose: "Callable[[TrainStep, Batch], None] | None" = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        from torch import nn

        from hrfr_fast.training.data_parallel import DataParallel
        from hrfr_fast.training.sharding import SampledRows, ShardedGradients

        self.backbone, self.objective, self.optimizer = backbone, objective, optimizer
        self.scaler, self.compute = scaler, compute
        self.accumulate, self.clip_gradient = accumulate, clip_gradient
        self.compile, self.graphs, self.kernels, self.say = compile, graphs, kernels, say
        self.trained_parts = [part for part in (backbone, objective) if isinstance(part, nn.Module)]
        self._modules = [module for part in self.trained_parts for module in part.modules()]
        self._parameters = [parameter for part in self.trained_parts for parameter in part.parameters()]
        self.parallel, self.references, self._choose = parallel or DataParallel(), references, choose
        self.owned = [*self.trained_parts, *([references] if isinstance(references, nn.Module) else [])]
        self._rows, self._gradients = SampledRows(objective), ShardedGradients(self.trained_parts)
        self._not_compiled()
        self._graph: StepGraph | None = None
        self._state: tuple[bool, ...] = ()

    def __call__(self, batch: Batch, number: int) -> "Tensor":
        """Take step ``number`` (0-based) on ``batch``; returns the loss, a float32 scalar on the device."""
        self.prepare(batch)
        if self._graph is not None and self._graph.fits(batch.images, batch.labels):
            return self._graph.replay(batch.images, batch.labels, number)
        return self._take(batch.images, batch.labels, self._on_device(number) if self.compile != "off" else number)

    def terms(self) -> "dict[str, Tensor]":
        """The last step's losses by name, unweighted, the margin loss first; {} where that is the only one."""
        from hrfr_fast.training.objective import TwoViewLoss

        if not isinstance(self.objective, TwoViewLoss):
            return {}
        return dict(zip(self.objective.names, (self.objective.sums / self.accumulate).unbind(), strict=True))

    @property
    def prepares_next(self) -> bool:
        """Whether the next call will compile, capture or choose before its step, which takes seconds to minutes."""
        return (self.compile, self.graphs, self.kernels) != ("off",) * 3 and self._state != self._modes()

    # ---- the step itself ----------------------------------------------------------------------------------------

    def _take(self, images: "Tensor", labels: "Tensor", number: "int | Tensor") -> "Tensor":
        from torch.profiler import record_function

        from hrfr_fast.training.objective import TwoViewLoss

        total: Tensor | None = None
        parts = self.accumulate
        self._rows.take(self.optimizer, labels, number)
        if isinstance(self.objective, TwoViewLoss):
            self.objective.sums.zero_()
        micro_batches = zip(range(1, parts + 1), images.chunk(parts), labels.chunk(parts), strict=True)
        for part, part_images, part_labels in micro_batches:
            with self.parallel.no_exchange(self._wrapped) if part < parts else nullcontext():
                with record_function("step: forward"):
                    with self.compute.autocast():
                        embeddings = self._forward(part_images)
                    more = () if self.references is None else (self.references(part_images, part_labels),)
                    loss = self._loss(embeddings, part_labels, number, *more)
                    loss = loss / parts if parts > 1 else loss
                with record_function("step: backward"):
                    self.scaler.scale(loss).backward()
            total = loss.detach() if total is None else total + loss.detach()
        with record_function("step: update"):
            self._update()
            self._rows.put_back(self.optimizer)
        assert total is not None
        return total

    def _update(self) -> None:
        import torch

        if isinstance(self.objective, torch.nn.Module):
            self.parallel.average_buffers([self.objective])  # AdaFace's averages, which the next step's loss reads
        in_step = bool(self.clip_gradient) and not self._gradients.peers and clips_in_step(self.optimizer)
        if (self.clip_gradient and not in_step) or self._gradients.peers:
            self.scaler.unscale_(self.optimizer)
            self._gradients.share_overflow(self.optimizer, self.scaler)
        if in_step:
            clip_in_step(self.optimizer, self.scaler, self.clip_gradient)
        elif self.clip_gradient:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            self._gradients.clip(parameters, self.clip_gradient)
        self.scaler.step(self.optimizer)  # with a fused optimiser the device decides whether a step is skipped
        forget(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _on_device(self, number: int) -> "Tensor":
        import torch

        return torch.full((), number, dtype=torch.int64, device=self.compute.device)

    # ---- preparation --------------------------------------------------------------------------------------------

    def _modes(self) -> tuple[bool, ...]:
        """What a captured or compiled step depends on and a caller may change."""
        return (*(m.training for m in self._modules), *(p.requires_grad for p in self._parameters))

    def prepare(self, batch: Batch) -> None:
        """Compile and capture, where that is still to be done; a call does it too."""
        if not self.prepares_next:
            return
        if self._choose is not None:
            choose, self._choose = self._choose, None
            choose(self, batch)
        if self.kernels == "on":
            self._compile_kernels(batch)
        if self.compile != "off" and self._forward is self._wrapped[0]:
            self._compile(batch)
        self._graph = None  # gives its memory back before another is captured
        if self.graphs != "off":
            self._capture(batch)
            if self._graph is None and self.parallel.ranks.distributed:  # DDP was left in the middle of a step
                self._not_compiled()
                if self.compile != "off":
                    self._compile(batch)
        self._state = self._modes()

    def executed(self, compile: str, graphs: str, kernels: str) -> "TrainStep":
        """The same step on the same model, executed in another way, whose preparation says nothing."""
        return TrainStep(
            self.backbone, self.objective, self.optimizer, self.scaler, self.compute, accumulate=self.accumulate,
            clip_gradient=self.clip_gradient, compile=compile, graphs=graphs, kernels=kernels, parallel=self.parallel,
            references=self.references,
        )  # fmt: skip

    def release_graph(self) -> None:
        """Give the memory of a captured graph back; the next step captures again."""
        import torch

        self._graph, self._state = None, ()
        if self.compute.device.type == "cuda":
            torch.cuda.empty_cache()

    def _not_compiled(self) -> None:
        """Backbone and objective as they are; with several ranks wrapped anew, as after a step that failed half-way."""
        from torch import nn

        network, loss = self.parallel.wrap(self.backbone), self.objective
        if isinstance(loss, nn.Module):
            loss = self.parallel.wrap(loss)
        self._wrapped = network, loss
        self._forward: Callable[[Tensor], Tensor] = network
        self._loss: Objective = loss

    def take_over(self, other: "TrainStep") -> None:
        """Use what ``other``, a step on the same model, has compiled."""
        self._wrapped, self._forward, self._loss = other._wrapped, other._forward, other._loss

    def _compile_kernels(self, batch: Batch) -> None:
        """Compile the fused kernels' variants for the step side by side; else its first launches would, in turn."""
        from hrfr_fast.model.kernels.launching import compile_side_by_side, only_compiled  # it needs Triton

        if self._state or not compile_side_by_side():
            return  # other modes need few other variants, if any
        began = time.perf_counter()
        with only_compiled(self.compute.device) as variants:
            try:
                self._try_out(batch)
            except Exception:  # no memory for a copy of all weights, say: the step itself needs none, or says why not
                if self.parallel.ranks.distributed:  # then the others wait for this one
                    raise
        self.say(f"compiled {len(variants)} fused kernels in {time.perf_counter() - began:.1f} s")

    def _compile(self, batch: Batch) -> None:
        """Compile backbone and objective, or the backbone alone where the objective will not be, or nothing."""
        import torch
        import torch._dynamo.config

        cache = use_lasting_cache()
        torch._dynamo.config.recompile_limit = 64  # counted over all networks of the process; past it: silently eager
        self.say("compiling the step (a minute or more the first time) ...")
        began = time.perf_counter()
        options: dict[str, Any] = {"dynamic": False}
        # Exchanges between ranks in the loss are none that the compiler can follow.
        for what in ("the step", "the network") if self._gradients.peers is None else ("the network",):
            network, loss = self._wrapped
            self._forward = torch.compile(network, **options)
            self._loss = torch.compile(loss, **options) if what == "the step" else loss
            try:
                self._try_out(batch)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # compilers fail in many ways; a mistake of ours will show again uncompiled
                self._refuse_lost(error)
                choice = self.compile if what == "the network" else "auto"
                self._cannot(f"{what} cannot be compiled", _first_line(error), choice, "--compile off")
                self._not_compiled()
            else:
                self.say(f"compiled in {time.perf_counter() - began:.1f} s (kept in {cache})")
                return
        self.compile = "off"

    def _try_out(self, batch: Batch) -> None:
        with unchanged(self.owned, self.optimizer, self.scaler, self.compute.device):
            self._take(batch.images, batch.labels, self._on_device(0))
            self.wait()

    def _capture(self, batch: Batch) -> None:
        if len(self.trained_parts) < 2:
            self._go_on_without_graph("its objective is not a module")
            return
        began, why = time.perf_counter(), ""
        learning_rates_on_device(self.optimizer, batch.images)
        try:
            with unchanged(self.owned, self.optimizer, self.scaler, self.compute.device):
                times = WARM_UP_OF_RANKS if self.parallel.ranks.distributed else WARM_UP
                warm_up(self._take, batch.images, batch.labels, times)
                self._graph = StepGraph(self._take, batch.images, batch.labels)
                self.wait()
        except Exception as error:  # of many kinds; a mistake of ours will show again without the graph
            self._refuse_lost(error)
            why = _first_line(error)
        if why:  # out here, since the error kept what the failed step had in memory
            self._go_on_without_graph(why)
        else:
            self.say(f"captured the step as one CUDA graph in {time.perf_counter() - began:.1f} s")

    def _go_on_without_graph(self, why: str) -> None:
        import torch

        what, self._graph = "the step cannot be captured as a CUDA graph", None
        try:
            self.wait()
            if self.compute.device.type == "cuda":
                torch.cuda.empty_cache()
        except RuntimeError as error:  # some errors of CUDA's come back from every later call
            raise HrfrError(
                f"{what}: {why}; the GPU cannot be used after that ({_first_line(error)}). Train with --graphs off."
            ) from None
        self._cannot(what, why, self.graphs, "--graphs off")
        self.graphs = "off"

    def _refuse_lost(self, error: Exception) -> None:
        """Raise ``error`` again where it is another rank that is gone: going on without is no help then."""
        if self.parallel.ranks.distributed and is_lost_connection(error):
            raise error

    def _cannot(self, what: str, why: str, choice: str, instead: str) -> None:
        if choice == "on":
            raise HrfrError(f"{what}: {why}. Train with {instead}.")
        self.say(f"{what}: {why}; going on without")

    def wait(self) -> None:
        """Wait until the device has finished its queued work."""
        import torch

        if self.compute.device.type == "cuda":
            torch.cuda.synchronize()


def _first_line(error: Exception) -> str:
    """What an error says first; where it says nothing, its name."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith("raised:") else lines[0]  # so torch begins a compiler's error
