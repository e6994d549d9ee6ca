"""A backbone, a decoder, an auxiliary head: image to one logit a class and pixel."""

from __future__ import annotations

from typing import overload

from torch import Tensor, nn

from swinkit.errors import InputError
from swinkit.models.segmentation.fpn import FpnHead, FpnNeck
from swinkit.models.segmentation.losses import SegmentationLoss
from swinkit.models.segmentation.parts import FcnHead, resize
from swinkit.models.segmentation.unet import UNetNeck
from swinkit.models.segmentation.upernet import UPerHead
from swinkit.models.swin import SwinBackbone
from swinkit.models.timm_backbone import TimmBackbone
from swinkit.specs import Decoder


class Segmenter(nn.Module):
    """Semantic segmentation: (B, in_chans, H, W) of any size -> (B, num_classes, H, W) logits.

    Args:
        backbone: pyramid with ``channels`` and ``strides``, fine to coarse.
        decoder: what stands on it.
        num_classes: classes; void is none of them.

    Attributes:
        losses: what targets are compared by.
    """

    def __init__(self, backbone: SwinBackbone | TimmBackbone, decoder: Decoder, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.num_classes = num_classes
        widths, neck_widths = backbone.channels, backbone.channels
        self.neck: nn.Module = nn.Identity()
        if decoder.kind == "fpn":
            self.neck = FpnNeck(widths, decoder.neck_channels)
            self.decode_head: nn.Module = FpnHead(
                len(widths), decoder.neck_channels, decoder.channels, num_classes, decoder.dropout
            )
            neck_widths = (decoder.neck_channels,) * len(widths)
        elif decoder.kind == "unet":
            self.neck = UNetNeck(widths, decoder.deconv_kernel)
            neck_widths = self.neck.channels
            self.decode_head = FcnHead(neck_widths[-1], decoder.channels, num_classes, decoder.dropout)
        else:
            self.decode_head = UPerHead(widths, decoder.channels, decoder.pool_scales, num_classes, decoder.dropout)
        self.losses = SegmentationLoss()
        self.auxiliary_head = None
        if decoder.auxiliary_channels:
            if decoder.auxiliary_index >= len(neck_widths):
                raise InputError(f"auxiliary_index {decoder.auxiliary_index} is no map of {len(neck_widths)}")
            width = neck_widths[decoder.auxiliary_index]
            self.auxiliary_head = FcnHead(width, decoder.auxiliary_channels, num_classes, decoder.dropout)

    @overload
    def forward(self, images: Tensor) -> Tensor: ...
    @overload
    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]: ...
    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return logits, or with targets the losses.

        Args:
            images: (B, in_chans, H, W), normalised; H, W >= 1.
            targets: (B, H, W) class ids, 255 void.

        Returns:
            (B, num_classes, H, W), before softmax; with targets named, weighted scalars, whatever mode the module is in.
        """
        if targets is None:
            features, size = self.neck(self.backbone(images)), images.shape[-2:]  # the backbone looks at the images first
            return resize(self.decode_head(self._decoded(features)), size)
        return self.losses(*self.with_auxiliary(images), targets)

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits and the auxiliary head's, (B, num_classes, H, W) each; None where there is no such head."""
        features = self.neck(self.backbone(images))
        size = images.shape[-2:]
        logits = resize(self.decode_head(self._decoded(features)), size)
        if self.auxiliary_head is None:
            return logits, None
        return logits, resize(self.auxiliary_head(features[self.decoder.auxiliary_index]), size)

    def _decoded(self, features: list[Tensor]) -> list[Tensor] | Tensor:
        """Return what the head takes: all maps, or U-Net's finest."""
        return features if self.decoder.kind != "unet" else features[-1]
