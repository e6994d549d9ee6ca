"""The Swin Transformer's body, versions 1 and 2, written once.

``Swin`` turns an image into one map a stage; ``classifier.py`` pools the last map, ``SwinBackbone`` here gives all
of them to dense tasks. Parameter names are those of the original repository (microsoft/Swin-Transformer).

Two behaviours for sizes, both of the authors:

* classifier rule: a stage whose map is not larger than the window takes the map's shorter side as window and does
  not shift (``models/swin_transformer.py``);
* dense rule: the window never shrinks and the shift stays; maps are padded right and bottom, after the norm and
  before the shift (``mmdet/models/backbones/swin_transformer.py`` of the detection fork).

Letters: B batch, C channels, H W tokens of a map, T tokens of a window, N windows of a map, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from swinkit.errors import InputError
from swinkit.models import windows
from swinkit.models.images import check_images
from swinkit.models.linear import apply, linear
from swinkit.models.windows import Windows, attend
from swinkit.specs import Variant

MAX_LOGIT_SCALE = math.log(100.0)


class PatchEmbed(nn.Module):
    """Image to tokens: a convolution with stride = kernel, then LayerNorm. (B, C, H, W) -> (B, h, w, E)."""

    def __init__(self, in_chans: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        bottom, right = -images.shape[2] % self.patch_size, -images.shape[3] % self.patch_size
        if not (windows.known(bottom == 0) and windows.known(right == 0)):
            images = F.pad(images, (0, right, 0, bottom))
        x = self.proj(images)
        return self.norm(x.flatten(2).transpose(1, 2)).unflatten(1, x.shape[2:])


class WindowAttention(nn.Module):
    """Attention among the tokens of each window, with a learned bias for each offset: what versions 1 and 2 share."""

    scale = 1.0  # of the products of queries and keys

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def bias(self, window: int) -> Tensor:
        """Return the position bias (heads, T, T) for a window not larger than the one it was made for."""
        raise NotImplementedError

    def qkv_bias(self) -> Tensor:
        """Return what is added to queries, keys and values: (3C,)."""
        return self.qkv.bias

    def forward(self, x: Tensor, cut: Windows) -> Tensor:
        """Cut a map into windows, attend inside each, put the map together again: (B, H*W, C) -> same."""
        query, key, value = self.heads(self.project(x, cut), cut.side**2)  # (B*N, heads, T, D)
        mixed = attend(query, key, value, cut.mask(self.bias(cut.side), value.dtype), self.scale)
        mixed = mixed.transpose(1, 2).flatten(2).reshape(x.shape[0], -1, x.shape[2])  # (B, N*T, C)
        return apply(self.proj, cut.reverse(mixed))

    def weights(self, x: Tensor, cut: Windows) -> Tensor:
        """Return how much every token (first T) takes of every other of its window: (B, H*W, C) -> (B, N, heads, T, T)."""
        query, key, _ = self.heads(self.project(x, cut), cut.side**2)
        scores = (self.scale * query @ key.transpose(2, 3)).unflatten(0, (x.shape[0], -1))
        return (scores + cut.mask(self.bias(cut.side), scores.dtype)).softmax(dim=-1)

    def heads(self, parts: Sequence[Tensor], tokens: int) -> list[Tensor]:
        """Part windows and heads: (B, N*T, C) each -> (B*N, heads, T, D) each, T = ``tokens``."""
        parts = [part.reshape(-1, tokens, part.shape[2]) for part in parts]
        return [part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts]

    def project(self, x: Tensor, cut: Windows) -> Sequence[Tensor]:
        """Cut the map into windows and multiply: (B, H*W, C) -> queries, keys and values, each (B, N*T, C)."""
        weight, bias = self.qkv.weight, self.qkv_bias()
        if cut.multiply_first(x.shape[2]):  # the product of padding is known
            qkv = cut.partition(linear(x, weight, bias), pad_value=bias)
        else:
            qkv = linear(cut.partition(x), weight, bias)
        return qkv.chunk(3, dim=2)


class WindowAttentionV1(WindowAttention):
    """Scaled dot-product attention with a bias from a table (arXiv 2103.14030, eq. 4)."""

    def __init__(self, dim: int, window: int, num_heads: int) -> None:
        super().__init__(dim, num_heads, qkv_bias=True)
        self.scale = (dim // num_heads) ** -0.5
        self.table_side = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(self.table_side**2, num_heads))

    def init_weights(self) -> None:
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def bias(self, window: int) -> Tensor:
        table = self.relative_position_bias_table
        index = windows.table("bias", window, self.table_side, device=table.device)
        return table[index.reshape(-1)].reshape(*index.shape, -1).permute(2, 0, 1)


class WindowAttentionV2(WindowAttention):
    """Cosine attention with a bias from a small network on log-spaced offsets (arXiv 2111.09883, sections 3.2, 3.3)."""

    def __init__(self, dim: int, window: int, num_heads: int, reference: int) -> None:
        super().__init__(dim, num_heads, qkv_bias=False)
        self.window = window
        self.reference = reference  # the window the position network was trained with
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10.0)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, num_heads, bias=False))

    def init_weights(self) -> None:
        nn.init.constant_(self.logit_scale, math.log(10.0))
        nn.init.zeros_(self.q_bias)
        nn.init.zeros_(self.v_bias)

    def bias(self, window: int) -> Tensor:
        device, dtype = self.q_bias.device, self.q_bias.dtype
        coordinates = windows.table("coordinates", self.window, self.reference, device=device)
        with torch.autocast(device.type, enabled=False):
            rows = 16.0 * torch.sigmoid(self.cpb_mlp(coordinates.to(dtype)))  # ((2W-1)^2, heads)
        index = windows.table("bias", window, 2 * self.window - 1, device=device)
        return rows[index.reshape(-1)].reshape(*index.shape, -1).permute(2, 0, 1)

    def qkv_bias(self) -> Tensor:
        # The key has no bias: a constant added to every key cancels in the softmax of V1 but not in a cosine.
        return torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))

    def heads(self, parts: Sequence[Tensor], tokens: int) -> list[Tensor]:
        query, key, value = super().heads(parts, tokens)
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        query = (F.normalize(query.float(), dim=-1) * scale).to(value.dtype)
        return [query, F.normalize(key.float(), dim=-1).to(value.dtype), value]


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between; acts on the last axis."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return apply(self.fc2, apply(self.fc1, x, gelu=True))


class Block(nn.Module):
    """Window attention and an MLP, each with a residual: norm before in V1, after in V2. (B, H, W, C) -> same."""

    def __init__(
        self, variant: Variant, dim: int, num_heads: int, window: int, reference: int, shifted: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.post_norm = variant.version == 2
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = (
            WindowAttentionV2(dim, window, num_heads, reference) if self.post_norm else WindowAttentionV1(dim, window, num_heads)
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * variant.mlp_ratio))

    def forward(self, x: Tensor, dense: bool) -> Tensor:
        _, height, width, _ = x.shape
        side, shift = self.window, self.shift
        if not dense and min(height, width) <= side:
            side, shift = min(height, width), 0
        cut = Windows(height, width, side, shift)
        x = x.flatten(1, 2)  # OpenVINO has a norm in one piece for three axes, not for four
        if self.post_norm:
            x = x + self._drop(self.norm1(self.attn(x, cut)))
            x = x + self._drop(self.norm2(self.mlp(x)))
        else:
            x = x + self._drop(self.attn(self.norm1(x), cut))
            x = x + self._drop(self.mlp(self.norm2(x)))
        return x.unflatten(1, (height, width))

    def _drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth: drop the branch of whole samples, scale the others (arXiv 1603.09382)."""
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        kept = torch.empty(branch.shape[0], 1, 1, device=branch.device, dtype=branch.dtype).bernoulli_(keep)
        return branch * (kept / keep)


class PatchMerging(nn.Module):
    """Half the map, twice the channels. (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 2C).

    The four tokens of a cell are concatenated in the order (0,0), (1,0), (0,1), (1,1) of (row, column), as in the
    original code. V1 normalises before the linear layer, V2 after it.
    """

    def __init__(self, dim: int, post_norm: bool) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim if post_norm else 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        index, inverse = (windows.table(name, height, width, device=x.device) for name in ("merging", "merged"))
        x = windows.rearrange(x.flatten(1, 2), index, inverse).reshape(batch, -1, 4 * channels)
        x = self.norm(apply(self.reduction, x)) if self.post_norm else apply(self.reduction, self.norm(x))
        return x.unflatten(1, ((height + 1) // 2, (width + 1) // 2))


class Stage(nn.Module):
    """Holds the blocks of one resolution, every second one shifted, and the merging that leads to the next stage."""

    def __init__(self, variant: Variant, stage: int, window: int, reference: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        dim = variant.channels[stage]
        self.blocks = nn.ModuleList(
            Block(
                variant, dim, variant.num_heads[stage], window, reference, shifted=variant.shift and bool(i % 2), drop_path=rate
            )
            for i, rate in enumerate(drop_paths)
        )
        last = stage == len(variant.depths) - 1
        self.downsample = None if last else PatchMerging(dim, post_norm=variant.version == 2)


class Swin(nn.Module):
    """Patch embedding and stages: what the classifier and the backbone share.

    Args:
        variant: shape of the network.
        dense: True for the dense rule of sizes, False for the classifier's (module docstring).

    Attributes:
        activation_checkpointing: set True to trade time for memory in training.
    """

    def __init__(self, variant: Variant, dense: bool) -> None:
        super().__init__()
        self.variant = variant
        self.dense = dense
        self.activation_checkpointing = False
        self.patch_embed = PatchEmbed(variant.in_chans, variant.embed_dim, variant.patch_size)
        self.absolute_pos_embed = None
        if variant.absolute_position:
            side = -(-variant.img_size // variant.patch_size)
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, side * side, variant.embed_dim))
        last = max(sum(variant.depths) - 1, 1)
        rates = [variant.drop_path * block / last for block in range(sum(variant.depths))]
        # Dense networks keep the full window in every stage; a classifier's window shrinks with its nominal map.
        sides = (variant.window_size,) * len(variant.depths) if dense else variant.stage_windows
        self.layers = nn.ModuleList()
        for stage, (depth, side) in enumerate(zip(variant.depths, sides, strict=True)):
            reference = variant.pretrained_windows[stage] or side
            self.layers.append(Stage(variant, stage, side, reference, rates[:depth]))
            rates = rates[depth:]

    def init_weights(self) -> None:
        """Initialise as the original code does for training from scratch.

        Linear layers N(0, 0.02) truncated, LayerNorm 1 and 0, the patch convolution PyTorch's default; V2 starts
        every block as the identity (norm weights 0).
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttentionV1 | WindowAttentionV2):
                module.init_weights()
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        if self.variant.version == 2:
            for module in self.modules():
                if isinstance(module, Block):
                    for norm in (module.norm1, module.norm2):
                        nn.init.zeros_(norm.weight)
                        nn.init.zeros_(norm.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens that enter the first stage: (B, in_chans, H, W) -> (B, h, w, embed_dim)."""
        check_images(images, self.variant.in_chans, self.patch_embed.proj.weight.dtype)
        x = self.patch_embed(images)
        if self.absolute_pos_embed is not None:
            side = math.isqrt(self.absolute_pos_embed.shape[1])
            position = self.absolute_pos_embed.reshape(1, side, side, -1)
            if x.shape[1:3] != (side, side):
                position = F.interpolate(position.permute(0, 3, 1, 2), size=x.shape[1:3], mode="bicubic")
                position = position.permute(0, 2, 3, 1)
            x = x + position
        return x

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the map of every stage before merging, each (B, H, W, C), from the tokens of ``embed``."""
        maps = []
        for stage in self.layers:
            assert isinstance(stage, Stage)
            for block in stage.blocks:
                if self.activation_checkpointing and torch.is_grad_enabled():
                    x = checkpoint(block, x, self.dense, use_reentrant=False)
                else:
                    x = block(x, self.dense)
            maps.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        return maps

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return the map of every stage before its norm and merging: (B, in_chans, H, W) -> (B, C, h, w) each."""
        return [x.permute(0, 3, 1, 2) for x in self.stages(self.embed(images))]

    def attention_weights(self, images: Tensor, stage: int, block: int) -> Tensor:
        """Return the softmax of one block's attention.

        Args:
            images: (B, in_chans, H, W), normalised; H, W >= 1.
            stage, block: from 0; every second block has shifted windows.

        Returns:
            (B, N, heads, T, T): N windows of T tokens, row-major over the map, which a shifted block rolls up and left; the last
            axis is the token that is looked at.

        Raises:
            InputError: there is no such block.
        """
        depths = self.variant.depths
        if not (0 <= stage < len(depths) and 0 <= block < depths[stage]):
            raise InputError(f"there is no block {block} in stage {stage}; the stages, counted from 0, have {depths} blocks")
        attention, found = self.get_submodule(f"layers.{stage}.blocks.{block}.attn"), []
        assert isinstance(attention, WindowAttention)
        hook = attention.register_forward_pre_hook(lambda _, inputs: found.append(attention.weights(*inputs)))
        try:
            self.stages(self.embed(images))
        finally:
            hook.remove()
        return found[0]


class SwinBackbone(Swin):
    """A Swin as pyramid for dense tasks: (B, C, H, W) of any size -> list of NCHW maps, fine to coarse.

    Args:
        variant: shape of the network; ``num_classes`` and ``img_size`` do not matter here.
        out_indices: stages whose maps are wanted; only these have an output norm (``norm0`` ...).

    Attributes:
        channels: channels of each returned map.
        strides: pixels of the image for one step of each returned map.
    """

    def __init__(self, variant: Variant, out_indices: Sequence[int] | None = None) -> None:
        super().__init__(variant, dense=True)
        everything = range(len(variant.depths))
        self.out_indices = tuple(everything if out_indices is None else out_indices)
        if not self.out_indices or list(self.out_indices) != sorted(set(self.out_indices) & set(everything)):
            raise InputError(f"out_indices must be rising stages out of {list(everything)}, got {self.out_indices}")
        self.channels = tuple(variant.channels[i] for i in self.out_indices)
        self.strides = tuple(variant.strides[i] for i in self.out_indices)
        for i in self.out_indices:
            self.add_module(f"norm{i}", nn.LayerNorm(variant.channels[i]))
        self.init_weights()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one map for each wanted stage.

        Args:
            images: (B, in_chans, H, W), normalised; H, W >= 1.

        Returns:
            (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])) for each i.
        """
        maps = self.stages(self.embed(images))
        normed = [(maps[i], self.get_submodule(f"norm{i}")(maps[i].flatten(1, 2))) for i in self.out_indices]
        # turned as four axes: OpenVINO takes longer to turn three
        return [x.unflatten(1, of.shape[1:3]).permute(0, 3, 1, 2).contiguous() for of, x in normed]
