"""A training run to measure or check, without settings files, TensorBoard, exported weights and report.

It needs PyTorch and NumPy alone, so it runs on machines that lack what a real run writes its records with.
"""

from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.training.metrics import Metrics
from hrfr_fast.training.trainer import Trainer


class Trial(Trainer):
    """The trainer of ``hrfr-fast train``, which leaves metrics.jsonl and, where it is saved, the state to resume from.

    ``start``, then ``loop`` or single steps; ``finish`` belongs to real runs.
    """

    def run_through(self) -> list[float]:
        """Take all remaining steps; returns the mean loss of each line that this adds to metrics.jsonl."""
        began = self.step
        self.start()
        self.loop(StopFlag())
        return [line["loss"] for line in read_train_lines(self) if line["step"] > began]

    def save(self) -> None:
        """Save the state alone, since exported weights need safetensors."""
        self.save_state()

    def _open_records(self) -> Metrics:
        return Metrics(self.run, self.samples, board=False)


def read_train_lines(trial: Trial) -> list[dict[str, float]]:
    """The lines of metrics.jsonl about training steps."""
    from hrfr_fast.training.metrics import read_metrics

    return [line for line in read_metrics(trial.run / "metrics.jsonl") if line["kind"] == "train"]
