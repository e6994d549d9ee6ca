"""Image classification: the pooled last map of a Swin and one linear layer."""

from __future__ import annotations

from typing import overload

from torch import Tensor, nn
from torch.nn import functional as F

from swinkit.models.swin import Swin
from swinkit.specs import Variant


class ClassificationLoss(nn.Module):
    """Cross entropy with soft targets, or one binary cross entropy a class where classes do not exclude one another.

    Args:
        several: a picture may have several classes.
        class_weights: (K,) factor of each class; of ``several`` of its positive pictures. None weighs all alike.
    """

    class_weights: Tensor | None

    def __init__(self, several: bool = False, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.several = several
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return ``cross_entropy``, a scalar, for logits (B, K) and shares of the classes (B, K) or class indices (B,)."""
        logits, scale = logits.float(), self.class_weights
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[1])
        targets = targets.to(logits.dtype)
        if self.several:
            return {"cross_entropy": F.binary_cross_entropy_with_logits(logits, targets, pos_weight=scale)}
        terms = -targets * logits.log_softmax(dim=-1)
        return {"cross_entropy": (terms if scale is None else terms * scale).sum(dim=-1).mean()}


class SwinClassifier(Swin):
    """Swin for classification: (B, in_chans, H, W) of any size -> (B, num_classes) logits.

    Args:
        variant: shape of the network; ``num_classes=0`` gives the pooled features, (B, 8 * embed_dim).

    Attributes:
        losses: what targets are compared by.

    Source: ``models/swin_transformer.py`` and ``swin_transformer_v2.py`` of microsoft/Swin-Transformer.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant, dense=False)
        width = variant.channels[-1]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, variant.num_classes) if variant.num_classes else nn.Identity()
        self.losses = ClassificationLoss()
        self.init_weights()

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the normalised last map.

        Args:
            images: (B, in_chans, H, W), normalised; H, W >= 1.

        Returns:
            (B, C, h, w): C = 8 * embed_dim for four stages, h = ceil(H / 32).
        """
        return self.norm(self.stages(self.embed(images))[-1]).permute(0, 3, 1, 2)

    def pooled_features(self, images: Tensor) -> Tensor:
        """Return the mean of ``forward_features`` over the map, which the head takes: (B, in_chans, H, W) -> (B, C)."""
        return self.forward_features(images).mean(dim=(2, 3))

    @overload
    def forward(self, images: Tensor) -> Tensor: ...
    @overload
    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]: ...
    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return logits, or with targets the losses.

        Args:
            images: (B, in_chans, H, W), normalised; H, W >= 1.
            targets: (B, num_classes) shares of the classes, or (B,) class indices.

        Returns:
            (B, num_classes), before softmax; with targets named scalars, whatever mode the module is in.
        """
        x = self.stages(self.embed(images))[-1].flatten(1, 2)  # tokens of the last map, as engines pool them quickest
        logits = self.head(self.norm(x).mean(dim=1))
        return logits if targets is None else self.losses(logits, targets)
