"""Any of timm's pyramids behind the interface of ``SwinBackbone``, so that backbones can be compared by changing a name."""

from __future__ import annotations

from torch import Tensor, nn

from swinkit.errors import UnknownName, nearest
from swinkit.extras import need


class TimmBackbone(nn.Module):
    """A timm network as pyramid: (B, C, H, W) -> the last four maps, NCHW, fine to coarse.

    Args:
        name: timm's name, for example "resnet50"; weights are new, nothing is fetched.
        in_chans: channels of the image.
        img_size: nominal side, for networks that need one (timm's own Swins).

    Attributes:
        channels, strides: of each map.

    Raises:
        MissingExtraError: timm is not installed.
        UnknownName: timm has no such network, or it gives no pyramid.
    """

    def __init__(self, name: str, in_chans: int = 3, img_size: int | None = None) -> None:
        super().__init__()
        timm = need("timm", "timm")
        if not timm.is_model(name):
            raise UnknownName(f"timm has no network {name!r}{nearest(name, timm.list_models())}")
        sized = {} if img_size is None else {"img_size": img_size}
        try:
            self.body = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_chans, **sized)
        except (RuntimeError, AttributeError, TypeError, ValueError) as error:
            raise UnknownName(f"timm's {name!r} gives no pyramid of maps ({error}); choose another") from error
        strides = [int(stride) for stride in self.body.feature_info.reduction()]
        self._kept = list(range(len(strides)))[-4:]
        self.channels = tuple(int(width) for width in self.body.feature_info.channels())[-4:]
        self.strides = tuple(strides[-4:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the last four maps, (B, channels[i], h_i, w_i)."""
        maps = self.body(images)
        return [self._nchw(maps[i], self.channels[place]) for place, i in enumerate(self._kept)]

    @staticmethod
    def _nchw(x: Tensor, channels: int) -> Tensor:
        # timm's transformers give channels last.
        return x if x.shape[1] == channels or x.shape[-1] != channels else x.permute(0, 3, 1, 2).contiguous()
