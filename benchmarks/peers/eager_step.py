"""The training step of common margin-softmax trainers: eager, NCHW, fp16 autocast, cudnn.benchmark, PyTorch's SGD.

Written anew after the published descriptions of such trainers; the same network and the same ArcFace loss as ours, so
that only the execution differs. In its favour it reads no loss back, though such loops print one at every step.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.runtime.device import Compute

SCALE, MARGIN = 64.0, 0.5


class EagerStep:
    """The step on one constant random batch, taken at each call.

    fp16 with loss scaling on CUDA, float32 on a CPU (``precision``). Leaves cudnn.benchmark on.
    """

    def __init__(self, settings: BackboneSettings, classes: int, compute: Compute, batch_size: int) -> None:
        on_cuda = compute.device.type == "cuda"
        torch.backends.cudnn.benchmark = True
        self.precision = "fp16" if on_cuda else "fp32"
        self.device, self.on_cuda = compute.device, on_cuda
        self.backbone = build_backbone(settings).to(self.device).train()
        self.classes = nn.Parameter(torch.normal(0, 0.01, (classes, settings.embedding_size), device=self.device))
        parameters = [*self.backbone.parameters(), self.classes]
        self.optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=on_cuda, growth_interval=100)
        size = settings.input_size
        self.images = torch.rand(batch_size, 3, size, size, device=self.device) * 2 - 1
        self.labels = torch.randint(classes, (batch_size,), device=self.device)

    def __call__(self) -> None:
        with torch.autocast(self.device.type, torch.float16, enabled=self.on_cuda):
            embeddings = self.backbone(self.images)
            cosines = functional.linear(functional.normalize(embeddings), functional.normalize(self.classes))
        loss = functional.cross_entropy(self._with_margin(cosines.float().clamp(-1, 1)), self.labels)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), 5)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def _with_margin(self, cosines: Tensor) -> Tensor:
        """ArcFace: cos(theta + m) at the labels, times s (Deng et al., CVPR 2019, equation 3)."""
        rows = torch.arange(len(self.labels), device=self.device)
        target = cosines[rows, self.labels]
        sine = (1 - target.square()).clamp(min=1e-6).sqrt()
        moved = target * math.cos(MARGIN) - sine * math.sin(MARGIN)
        moved = torch.where(target > math.cos(math.pi - MARGIN), moved, target - MARGIN * math.sin(MARGIN))
        logits = cosines.clone()
        logits[rows, self.labels] = moved
        return logits * SCALE
