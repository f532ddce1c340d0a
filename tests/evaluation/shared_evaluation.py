"""What one rank does in ``test_shared_evaluation.py``: everything that is shared out, in one process start."""

import json
import sys
from pathlib import Path

import torch

from hrfr_fast.deployment.embed import embed
from hrfr_fast.doctor.exchange import exchange_in_group
from hrfr_fast.evaluation.evaluate import evaluate
from hrfr_fast.evaluation.protocols.compare import compare_models
from hrfr_fast.runtime.shared_work import sharing_ranks


def judge(run, other, packed, protocol, out):
    """Results of pairs, of a protocol and of its comparison, as JSON; embeddings go to ``out``/e.npz."""
    with sharing_ranks() as ranks:
        results = evaluate(run, pairs=packed, device="cpu", precision="fp32", degrade=(0, 12))
        compared = compare_models(
            run, other, protocol, resamples=50, crop="none", device="cpu", precision="fp32", show_progress=False
        )
        embedded = embed(run, [packed], out / "e.npz", split="highres", device="cpu", batch_size=1, show_progress=False)
    if not ranks.is_main:
        assert not results and not compared.contrasts and not embedded.embedded
        return None
    return {"pairs": {name: one.to_json() for name, one in results.items()}, "protocol": compared.to_json()}


if __name__ == "__main__":
    *inputs, folder = map(Path, sys.argv[1:])
    with sharing_ranks() as ranks:
        found = judge(*inputs, folder)
        threads = torch.get_num_threads()
        exchange = exchange_in_group(ranks, torch.device("cpu"), sizes=(4096, 1 << 20), message=1 << 16)
    if ranks.is_main:
        content = {"results": found, "threads": threads, "exchange": exchange.to_json()}
        (folder / "found.json").write_text(json.dumps(content))
