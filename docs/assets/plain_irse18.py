"""IR-SE-18 in plain PyTorch, for weights exported with `hrfr-fast export RUN --format safetensors`.

weights = load_file("model-weights.safetensors")
model = IRSE18(size=32)
model.load_state_dict(weights)
model.eval()
embedding = normalize(model(images) + model(images.flip(3)))  # images: [B, 3, size, size] RGB in [-1, 1]
"""

import torch
from torch import nn


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        hidden = max(channels // 16, 2)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x):
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.shortcut = nn.MaxPool2d(1, stride)
        if before != after:
            self.shortcut = nn.Sequential(self.shortcut, nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))
        self.residual = nn.Sequential(
            nn.BatchNorm2d(before), nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
            nn.PReLU(after), nn.Conv2d(after, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after),
            SqueezeExcite(after),
        )  # fmt: skip

    def forward(self, x):
        return self.residual(x) + self.shortcut(x)


class IRSE18(nn.Module):
    def __init__(self, size, width=64, embedding_size=512):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = [width, *(width << stage for stage in range(4) for _ in range(2))]
        self.body = nn.Sequential(*(Block(widths[i], widths[i + 1], 2 - i % 2) for i in range(8)))
        self.output = nn.Sequential(
            nn.BatchNorm2d(widths[-1]), nn.Dropout(0), nn.Flatten(),
            nn.Linear(widths[-1] * (size // 16) ** 2, embedding_size), nn.BatchNorm1d(embedding_size),
        )  # fmt: skip

    def forward(self, images):
        return self.output(self.body(self.stem(images)))


if __name__ == "__main__":
    import sys

    from safetensors.torch import load_file
    from torch.nn.functional import normalize

    weights = load_file(sys.argv[1])
    embedding_size, inputs = weights["output.3.weight"].shape
    width = len(weights["stem.0.weight"])
    model = IRSE18(16 * round((inputs / (8 * width)) ** 0.5), width, embedding_size)
    model.load_state_dict(weights)
    model.eval()
    images = torch.zeros(1, 3, 32, 32)
    print(normalize(model(images) + model(images.flip(3)))[0, :4])
