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

    def forward(self, images: Tensor) -> Tensor:
        """Return logits.

        Args:
            images: (B, in_chans, H, W), normalised; H, W >= 1.

        Returns:
            (B, num_classes), before softmax.
        """
        x = self.stages(self.embed(images))[-1].flatten(1, 2)  # tokens of the last map, as engines pool them quickest
        return self.head(self.norm(x).mean(dim=1))
