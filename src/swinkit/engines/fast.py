"""The same network with less arithmetic: what is constant after training is worked into the weights beforehand.

Every engine but plain eager torch runs this form. It is no second network: ``folded`` copies the trained one and rewrites
some of its weights; the forward functions stay those of ``swinkit.models`` but for two that such a form needs: how attention
multiplies (``_SplitV1``) and what lies around a picture (``_EmbedPixels``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swinkit.models.classifier import SwinClassifier
from swinkit.models.linear import linear
from swinkit.models.segmentation import Segmenter
from swinkit.models.swin import Block, PatchEmbed, PatchMerging, Swin, WindowAttentionV1, WindowAttentionV2
from swinkit.models.windows import Windows
from swinkit.specs import Preprocessing


def folded(network: nn.Module) -> nn.Module:
    """Return a copy for inference that gives the same answers, equal up to rounding.

    * a LayerNorm's weight and bias go into the linear layer behind it: W (g n + b) + c = (W g) n + (W b + c). In V1 that is
      every norm of a block, of a merging, and the classifier's last one (its mean over tokens commutes with them); in V2 the
      norms come last, in front of a residual, and stay;
    * V1's query scale goes into the query rows of qkv;
    * queries, keys and values are three products: engines then need no cut and fewer transposes, most of all in eight bits.

    Args:
        network: a classifier, a pyramid or a segmenter; left as it is.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Block):
            _fold_block(module)
        if isinstance(module, PatchMerging) and not module.post_norm:
            _fold_norm(module.norm, module.reduction)
        if isinstance(module, SwinClassifier) and isinstance(module.head, nn.Linear):
            _fold_norm(module.norm, module.head)
    return network


class _SplitV1(WindowAttentionV1):
    """The same attention by three products instead of one of three times the width, so that no graph has to cut it.

    Attributes:
        padding_token: (C,) what fills windows beyond the map: with a norm's bias in ``qkv`` no longer zeros; None is zeros.
        padding_qkv: (3C,) its query, key and value.
    """

    padding_token: Tensor | None
    padding_qkv: Tensor

    def project(self, x: Tensor, cut: Windows) -> Sequence[Tensor]:
        products = [*zip(self.qkv.weight.chunk(3), self.qkv_bias().chunk(3), strict=True)]
        if cut.multiply_first(x.shape[2]):
            known = self.padding_qkv.chunk(3)
            return [cut.partition(linear(x, *product), of) for product, of in zip(products, known, strict=True)]
        x = cut.partition(x, self.padding_token)
        return [linear(x, *product) for product in products]


class _SplitV2(WindowAttentionV2):
    """As ``_SplitV1``."""

    padding_token: Tensor | None
    padding_qkv: Tensor
    project = _SplitV1.project


def _fold_block(block: Block) -> None:
    """Give a block the form of the engines."""
    attention = block.attn
    attention.padding_token, attention.padding_qkv = None, attention.qkv_bias().clone()  # type: ignore[assignment]
    attention.__class__ = _SplitV1 if isinstance(attention, WindowAttentionV1) else _SplitV2
    if block.post_norm:
        return
    spread = block.norm1.weight.abs()
    if spread.min() > 1e-4 * spread.max():  # else no normalised token leads to the zero token that padding is
        attention.padding_token = -block.norm1.bias / block.norm1.weight
        _fold_norm(block.norm1, attention.qkv)
    _fold_norm(block.norm2, block.mlp.fc1)
    rows = attention.qkv.out_features // 3
    for queries in (attention.qkv.weight[:rows], attention.qkv.bias[:rows], attention.padding_qkv[:rows]):
        queries *= attention.scale
    attention.scale = 1.0


def _fold_norm(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    """Move the norm's weight and bias into the linear layer that takes its result, in float64."""
    weight, bias = linear.weight.double(), norm.bias.double()
    constant = weight @ bias + (0.0 if linear.bias is None else linear.bias.double())
    linear.bias = nn.Parameter(constant.to(linear.weight.dtype), requires_grad=False)
    linear.weight = nn.Parameter((weight * norm.weight.double()).to(linear.weight.dtype), requires_grad=False)
    norm.register_parameter("weight", None)
    norm.register_parameter("bias", None)


class _EmbedPixels(PatchEmbed):
    """The same embedding for pictures whose mean is not 0: around them lies ``padding_colour``, (1, C, 1, 1)."""

    padding_colour: Tensor

    def forward(self, images: Tensor) -> Tensor:
        bottom, right = -images.shape[2] % self.patch_size, -images.shape[3] % self.patch_size
        if bottom or right:
            images = F.pad(images - self.padding_colour, (0, right, 0, bottom)) + self.padding_colour
        return super().forward(images)


class FromPixels(nn.Module):
    """A folded network that takes pictures as they are read.

    (B, C, H, W) of 0..255, uint8 or float, -> the network's answer. The mean and spread of the preparation go into the patch
    convolution; a backbone of timm gets them as arithmetic in front.

    Args:
        network: as for ``folded``; left as it is.
        preprocessing: whose mean and spread the network was trained with.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = folded(network)
        place = next(network.parameters()).device
        mean = 255 * torch.tensor(preprocessing.mean, dtype=torch.float64, device=place)
        spread = 255 * torch.tensor(preprocessing.std, dtype=torch.float64, device=place)
        self.statistics: nn.Parameter | None = None
        body = self.network.backbone if isinstance(self.network, Segmenter) else self.network
        if isinstance(body, Swin):
            embed = body.patch_embed
            weight = embed.proj.weight.double() / spread[:, None, None]
            assert embed.proj.bias is not None
            bias = embed.proj.bias.double() - (weight * mean[:, None, None]).sum((1, 2, 3))
            embed.proj.weight = nn.Parameter(weight.float(), requires_grad=False)
            embed.proj.bias = nn.Parameter(bias.float(), requires_grad=False)
            embed.padding_colour = mean.float().view(1, -1, 1, 1)
            embed.__class__ = _EmbedPixels
        else:
            self.statistics = nn.Parameter(torch.stack((mean, spread)).float().view(2, 1, -1, 1, 1), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor | list[Tensor]:
        """Return the network's answer to (B, C, H, W) pixels of 0..255."""
        pixels = pixels.float()
        if self.statistics is not None:
            pixels = (pixels - self.statistics[0]) / self.statistics[1]
        return self.network(pixels)
