"""Image classification: the pooled last map of a Swin and one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from swinkit.models.swin import Swin
from swinkit.specs import Variant


class SwinClassifier(Swin):
    """Swin for classification: (B, in_chans, H, W) of any size -> (B, num_classes) logits.

    Args:
        variant: shape of the network; ``num_classes=0`` gives the pooled features, (B, 8 * embed_dim).

    Source: ``models/swin_transformer.py`` and ``swin_transformer_v2.py`` of microsoft/Swin-Transformer.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant, dense=False)
        width = variant.channels[-1]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, variant.num_classes) if variant.num_classes else nn.Identity()
        self.init_weights()

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the normalised, pooled last map: (B, 8 * embed_dim)."""
        return self.norm(self.stages(self.embed(images))[-1].flatten(1, 2)).mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits.

        Args:
            images: (B, in_chans, H, W), normalised; H, W >= 1.

        Returns:
            (B, num_classes), before softmax.
        """
        return self.head(self.forward_features(images))
