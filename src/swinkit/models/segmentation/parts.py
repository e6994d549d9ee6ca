"""What the three decoders share: conv-norm-ReLU, bilinear resizing, a plain convolutional head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; the size stays. (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(self.conv(x))

    def normalise(self, x: Tensor) -> Tensor:
        """Return norm and ReLU of the convolution's result."""
        return normalise(self.norm, x)


class FcnHead(nn.Module):
    """One 3x3 conv-norm-ReLU and a classifier for each position: the auxiliary head, and U-Net's head."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvNorm(in_channels, channels, 3)])
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the map's size: (B, in_channels, h, w) -> (B, num_classes, h, w)."""
        return self.classifier(self.dropout(self.convs[0](x)))


def normalise(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Return BatchNorm and ReLU of (B, C, H, W)."""
    if norm.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
        # A batch of one pooled to one cell has no spread: the running statistics stand in (the originals crash).
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    else:
        x = norm(x)
    return F.relu(x, inplace=True)


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """Return a 1x1 convolution to classes, initialised as mmsegmentation does: N(0, 0.01), bias 0."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return (B, C, H, W) at another (height, width): bilinear, corners not aligned, no antialiasing."""
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
