import torch
from torch import nn

from hrfr_fast import TrainSettings, open_packed
from hrfr_fast.engines.choice import choose_engine
from hrfr_fast.evaluation.evaluate import evaluate_pairs
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.training.stream import build_stream

SIZE, BATCH, STEPS = 32, 32, 20  # lowres32 shows 32-px faces

packed = open_packed("packed")
lowres = packed.splits["lowres"]
compute = choose_compute(device="auto", precision="fp32")
settings = TrainSettings(regime="lowres32", seed=0)  # which splits, in which order, augmented how
stream = build_stream(packed, settings, BATCH)

backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(64)).to(compute.device)
classifier = nn.Linear(64, stream.classes).to(compute.device)
backbone(torch.zeros(1, 3, SIZE, SIZE, device=compute.device))  # LazyLinear learns its size
optimizer = torch.optim.SGD([*backbone.parameters(), *classifier.parameters()], lr=0.1)

with choose_engine(settings, stream, compute, print) as engine:
    for batch in engine.batches(start=0, stop=STEPS * BATCH):  # in samples: a resumed loop starts at another number
        loss = nn.functional.cross_entropy(classifier(backbone(batch.images)), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"loss {loss.item():.2f} of {lowres.identities} people")

for name, result in evaluate_pairs(backbone, SIZE, [*packed.pairs.values()], compute).items():
    found = result.verification
    print(f"{name}: {found.accuracy:.1%}, AUC {found.auc:.3f}")
