"""What eight-bit integers cost: the accuracy of both models on the same pairs, with intervals."""

from dataclasses import dataclass

from hrfr_fast.deployment.records import scores_of_pairs
from hrfr_fast.deployment.run_thresholds import RunThresholds, in_words
from hrfr_fast.evaluation.bootstrap import paired_difference
from hrfr_fast.evaluation.embedder import Embedder
from hrfr_fast.evaluation.thresholds import thresholds_at_fars
from hrfr_fast.evaluation.verification import Verification, verify
from hrfr_fast.format.reader import PairSet


@dataclass(frozen=True)
class Int8Cost:
    """Verification of the model and of its int8 file on ``pairs`` (in words), and the ``difference`` in accuracy, int8
    minus fp32: (difference, low, high) with its 95 % interval on the same resamples."""

    pairs: str
    fp32: Verification
    int8: Verification
    difference: tuple[float, float, float]

    def lines(self) -> list[str]:
        """The two accuracies and their difference, for people."""
        found, low, high = (100 * value for value in self.difference)
        return [
            f"accuracy on {self.pairs} (95 % intervals):",
            f"  fp32 {_accuracy(self.fp32)}",
            f"  int8 {_accuracy(self.int8)}",
            f"  int8 - fp32 {found:+.2f} points ({low:+.2f} to {high:+.2f})",
        ]


def _accuracy(verification: Verification) -> str:
    low, high = verification.accuracy_ci or (float("nan"), float("nan"))
    return f"{verification.accuracy:.2%} ({low:.2%} to {high:.2%}, by {verification.interval_level})"


def int8_cost(
    model: Embedder, quantised: Embedder, pairs: PairSet, *, show_progress: bool = True
) -> tuple[Int8Cost, RunThresholds]:
    """The cost on ``pairs``, and the thresholds of the int8 model's own scores."""
    models = {"fp32": model, "int8": quantised}
    scores = [scores_of_pairs(each, pairs, title=key, show_progress=show_progress) for key, each in models.items()]
    fp32, int8 = (verify(each, pairs.same, pairs.identities) for each in scores)
    difference = paired_difference(int8.correct, fp32.correct, pairs.same, pairs.identities)
    words = in_words(pairs.name, pairs.kind, len(pairs))
    thresholds = thresholds_at_fars(scores[1], pairs.same, pairs.identities)
    return Int8Cost(words, fp32, int8, difference), RunThresholds(words, tuple(thresholds))
