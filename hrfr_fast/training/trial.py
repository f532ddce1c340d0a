"""A training run to measure or check: no settings files, no TensorBoard, no weights for others, no report.

It needs PyTorch and NumPy alone, so it runs on machines that lack what a real run writes its records with.
"""

from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.training.build import RunSetup
from hrfr_fast.training.metrics import read_metrics
from hrfr_fast.training.trainer import Trainer


class Trial(Trainer):
    """The trainer of ``hrfr-fast train``, which leaves metrics.jsonl and, where it is saved, the state to resume from.

    ``start``, then ``loop`` or single steps; ``finish`` belongs to real runs.
    """

    def __init__(self, setup: RunSetup, show_progress: bool) -> None:
        super().__init__(setup, show_progress, records=False)

    def run_through(self) -> list[float]:
        """Take all steps that are left; the mean loss of each line of metrics.jsonl from here on."""
        began = self.state.step
        self.start()
        self.loop(StopFlag())
        return [line["loss"] for line in read_train_lines(self) if line["step"] > began]


def read_train_lines(trial: Trial) -> list[dict[str, float]]:
    """The lines of metrics.jsonl that tell of training steps."""
    return [line for line in read_metrics(trial.setup.run / "metrics.jsonl") if line["kind"] == "train"]
