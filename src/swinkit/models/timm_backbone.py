"""Any of timm's pyramids behind the interface of ``SwinBackbone``, so that backbones can be compared by changing a name."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from swinkit.errors import CheckpointError, InputError, UnknownName, brief, nearest, out_of_memory, refusing
from swinkit.extras import need
from swinkit.models.images import check_images


class TimmBackbone(nn.Module):
    """A timm network as pyramid: (B, C, H, W) -> the last four maps, NCHW, fine to coarse.

    Args:
        name: timm's name, for example "resnet50".
        in_chans: channels of the image.
        img_size: nominal side, for networks that need one (timm's own Swins and ViTs take images of that size only).
        pretrained: take timm's own weights, which timm fetches; else they are new, and nothing is fetched.

    Attributes:
        channels, strides: of each map.

    Raises:
        MissingExtraError: timm is not installed.
        UnknownName: timm has no such network, or it gives no pyramid.
        CheckpointError: timm has no weights of it, or cannot fetch them.
    """

    def __init__(self, name: str, in_chans: int = 3, img_size: int | None = None, pretrained: bool = False) -> None:
        super().__init__()
        timm = need("timm", "timm")
        if not timm.is_model(name):
            raise UnknownName(f"timm has no network {brief(name)!r}{nearest(name, timm.list_models())}")
        self.name, self.in_chans = name, in_chans
        sized = {} if img_size is None else {"img_size": img_size}
        nowhere = torch.device("meta") if pretrained else contextlib.nullcontext()  # the first one is then only tried
        with refusing(UnknownName, f"timm's {name!r} gives no pyramid of maps", "choose another"), nowhere:
            self.body = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_chans, **sized)
        if pretrained:
            with refusing(CheckpointError, f"timm's own weights of {name!r} cannot be had", "give pretrained=False, or a file"):
                self.body = timm.create_model(name, pretrained=True, features_only=True, in_chans=in_chans, **sized)
        strides = [int(stride) for stride in self.body.feature_info.reduction()]
        self._kept = list(range(len(strides)))[-4:]
        self.channels = tuple(int(width) for width in self.body.feature_info.channels())[-4:]
        self.strides = tuple(strides[-4:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the last four maps, (B, channels[i], h_i, w_i).

        Raises:
            InputError: the network does not take images of this size or kind.
        """
        check_images(images, self.in_chans)
        try:
            maps = self.body(images)
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            if out_of_memory(error):
                raise
            height, width = images.shape[2:]
            raise InputError(
                f"timm's {self.name} does not take {images.dtype} images of {height}x{width} ({brief(str(error))}); give them "
                "the size it was made for, make it for theirs with img_size=, or take another backbone"
            ) from error
        return [self._nchw(maps[i], self.channels[place]) for place, i in enumerate(self._kept)]

    @staticmethod
    def _nchw(x: Tensor, channels: int) -> Tensor:
        # timm's transformers give channels last.
        return x if x.shape[1] == channels or x.shape[-1] != channels else x.permute(0, 3, 1, 2).contiguous()
