"""Verification of a run on its pair sets, and the checkpoints for others that it leads to."""

from typing import Any

from hrfr_fast.evaluation.evaluate import PairResult, evaluate_pairs
from hrfr_fast.format.reader import PairSet
from hrfr_fast.model import checkpoint
from hrfr_fast.runtime.ranks import from_main
from hrfr_fast.runtime.version import __version__
from hrfr_fast.training.build import RunSetup
from hrfr_fast.training.data_parallel import is_sharded
from hrfr_fast.training.metrics import Metrics, NoMetrics
from hrfr_fast.training.models import shape_metadata
from hrfr_fast.training.state import TrainState
from hrfr_fast.training.tuning import tuning_metadata


class Validation:
    """Verifies the model on the way and at the end, and keeps the best checkpoint on validation pairs."""

    def __init__(self, setup: RunSetup, state: TrainState) -> None:
        self.setup, self.state = setup, state
        self.shown_accuracy: float | None = None
        """The last accuracy on the pair set that chooses ``best``, else on the first."""
        self.best_due: dict[str, Any] | None = None
        """What ``best`` is to say of itself, where the model as it is now is to be kept as that."""

    def selection_set(self) -> str | None:
        """The pair set that chooses ``best``: validation pairs only, of high resolution where there are any."""
        names = [pairs.name for pairs in self.setup.pair_sets if pairs.kind == "development"]
        return min(names, key=lambda name: ("highres" not in name, name), default=None)

    def verify(self, pair_sets: list[PairSet], metrics: Metrics | NoMetrics, resamples: int) -> dict[str, PairResult]:
        """Results by pair set name, each written to ``metrics``; with intervals where ``resamples`` > 0.

        Ranks share the embedding: while rank 0 is here, the others are in ``embed_for_main``.
        """
        setup, (backbone, _) = self.setup, self.state.evaluated
        results = evaluate_pairs(
            backbone,
            setup.stream.size,
            pair_sets,
            setup.compute,
            resamples=resamples,
            ranks=setup.ranks,
            with_swapped=bool(resamples),
        )
        for name, result in results.items():
            values = result.verification.to_json()
            wanted = ("accuracy", "auc", "eer") + (("accuracy_ci",) if resamples else ())
            metrics.write(
                "verification", **self.state.where(), pairs=name, pairs_kind=result.pairs.kind,
                **{key: values[key] for key in wanted},
            )  # fmt: skip
        return results

    def embed_for_main(self, *, last: bool = False) -> None:
        """On all ranks but rank 0: embed this one's share of all pair sets. ``last``: of the results with intervals."""
        setup, (backbone, _) = self.setup, self.state.evaluated
        evaluate_pairs(
            backbone, setup.stream.size, setup.pair_sets, setup.compute, ranks=setup.ranks, with_swapped=last
        )

    def on_the_way(self, metrics: Metrics | NoMetrics) -> None:
        """Verify without intervals; validation pairs, where there are some, choose ``best`` and tell plateaus."""
        state, chosen = self.state, self.selection_set()
        state.next_eval = state.validation_after()
        results = self.verify(self.setup.pair_sets, metrics, resamples=0)
        self.keep_best(results)
        if results:
            self.shown_accuracy = results[chosen or next(iter(results))].verification.accuracy
        if state.in_last_phase():
            state.plateau.look(1 - results[chosen].verification.accuracy if chosen else None)

    def keep_best(self, results: dict[str, PairResult]) -> None:
        """Let ``write_best`` write where the validation pairs say that this is the best model so far."""
        chosen = self.selection_set()
        if chosen and results[chosen].verification.accuracy > self.state.best_accuracy:
            self.state.best_accuracy = results[chosen].verification.accuracy
            self.best_due = {"selected_on": chosen, "accuracy": self.state.best_accuracy}

    def write_best(self) -> None:
        """Write ``best`` where that is due on rank 0, with the rows of all ranks; to be called by all of them."""
        if is_sharded(self.setup.head):
            self.best_due = from_main(self.setup.ranks, self.best_due)
        if self.best_due is not None:
            self.save_weights("best", **self.best_due)
        self.best_due = None

    def save_weights(self, name: str, **more: Any) -> None:
        """Write the weights for others as checkpoint ``name``, with ``more`` in their metadata."""
        setup = self.setup
        metadata = {
            "regime": setup.regime.name,
            "backbone": shape_metadata(setup.shape),
            "head": {"name": setup.settings.loss.head, "classes": setup.stream.classes, "people": setup.people},
            **setup.origin,
            **tuning_metadata(setup.settings.tuning),
            "hrfr_fast": __version__,
            **self.state.where(),
            **({"ema": self.state.average.decay} if self.state.average else {}),
            **more,
        }
        checkpoint.save_weights(setup.checkpoint(f"{name}.safetensors"), *self.state.evaluated, metadata)
