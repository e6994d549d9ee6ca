"""Networks by name, new or with trained weights: ``swinkit.create_model`` and ``swinkit.create_backbone``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from swinkit.errors import InputError
from swinkit.models import build
from swinkit.models.build import TIMM
from swinkit.models.classifier import SwinClassifier
from swinkit.models.segmentation import Segmenter
from swinkit.models.swin import SwinBackbone
from swinkit.models.timm_backbone import TimmBackbone
from swinkit.models.variants import names_weights
from swinkit.weights import heads
from swinkit.weights.adapt import load_into
from swinkit.weights.checkpoint import Checkpoint, load_checkpoint

Source = str | Path | bool | None
Network = TypeVar("Network", bound=nn.Module)


def create_model(
    name: str,
    num_classes: int | None = None,
    in_chans: int = 3,
    img_size: int | None = None,
    backbone: str | None = None,
    pretrained: Source = None,
    **changes: Any,
) -> SwinClassifier | Segmenter:
    """Return a network by its name, with new weights or with trained ones: a classifier, or a segmenter.

    Args:
        name: any spelling of a variant (``swinkit.list_models()``; timm's and torchvision's names count), a published system
            ("upernet_swin_tiny"), or a decoder: "upernet", "fpn", "unet".
        num_classes: outputs; None keeps the weights' own, or without weights the variant's (1,000) or the system's (150); 0 gives
            a classifier's pooled features. Another number than that of the weights gives a new head.
        in_chans: channels of the image; the first convolution of the weights is adapted to it.
        img_size: nominal side in pixels; decides the windows of a classifier's small last maps. Any size runs afterwards.
        backbone: what a decoder stands on: a variant, or "timm:<name>" for a network of timm; None means "swin_tiny".
        pretrained: None or False: new weights. Else where the weights are: an embedded name, a file, a folder, a hub id, as for
            ``swinkit.load``; of a segmenter its own, or its backbone's. True: the weights that go by ``name`` (of a decoder: by
            ``backbone``; of a timm backbone timm's own, which timm fetches).
        changes: further fields of ``swinkit.specs.Variant`` (``window_size``, ``drop_path`` ...) and, for a segmenter, of
            ``swinkit.specs.Decoder`` (``channels``, ``auxiliary_channels`` ...).

    Returns:
        A module (B, in_chans, H, W) -> logits: (B, num_classes), or (B, num_classes, H, W) of a segmenter. With trained weights
        its attribute ``loaded`` is a line that says what was loaded, resized, and made anew.

    Raises:
        UnknownName: no such network, or no such weights; the message has the nearest names.
        InputError: a field out of range, or a name of trained weights without ``pretrained``.
        CheckpointError: the weights cannot be read, or are those of another network.
    """
    timm = backbone is not None and backbone.startswith(TIMM)
    if not pretrained or (timm and pretrained is True):
        return build.create_model(
            name, num_classes, in_chans, img_size, backbone, timm_weights=timm and pretrained is True, **changes
        )
    kind = heads.of_name(name)
    checkpoint = load_checkpoint(kind.weights_of(name, backbone) if pretrained is True else os.fspath(pretrained))
    same = kind.apart == heads.of_description(checkpoint.spec).apart  # an encoder's weights are a classifier's without classes
    own = checkpoint.spec.variant.num_classes if same else None
    below = None if backbone is None else _network_of(backbone)
    classes = own if num_classes is None else num_classes
    network = build.create_model(_network_of(name), classes, in_chans, img_size, below, **changes)
    return _filled(network, checkpoint, exact=own is not None and num_classes in (None, own))


def create_backbone(
    name: str,
    in_chans: int = 3,
    out_indices: tuple[int, ...] | None = None,
    pretrained: Source = None,
    **changes: Any,
) -> SwinBackbone | TimmBackbone:
    """Return a pyramid backbone by its name, with new weights or with trained ones.

    Args:
        name: any spelling of a variant, or "timm:<name>" for a network of timm.
        in_chans: channels of the image.
        out_indices: stages whose maps are wanted; None means all (of timm's the last four, no choice).
        pretrained: as for ``create_model``; heads are left aside, norms of the maps start anew where the weights have none.
        changes: further fields of ``swinkit.specs.Variant``.

    Returns:
        A module (B, in_chans, H, W) -> list of (B, channels[i], H / strides[i], W / strides[i]), with ``.channels``
        and ``.strides``, and ``.loaded`` as for ``create_model``.

    Raises:
        UnknownName, InputError, CheckpointError: as ``create_model``.
    """
    if name.startswith(TIMM):
        if out_indices is not None or changes or pretrained not in (None, False, True):
            raise InputError(f"{name}: timm's networks are taken as they are; give in_chans and pretrained=True, nothing else")
        return TimmBackbone(name.removeprefix(TIMM), in_chans, pretrained=pretrained is True)
    if not pretrained:
        return build.create_backbone(name, in_chans, out_indices, **changes)
    checkpoint = load_checkpoint(name if pretrained is True else os.fspath(pretrained))
    return _filled(build.create_backbone(_network_of(name), in_chans, out_indices, **changes), checkpoint, exact=False)


def _network_of(name: str) -> str:
    """Return the name of the network where ``name`` stands for trained weights, else ``name``."""
    if not names_weights(name) or name.startswith(TIMM):
        return name
    return heads.of_name(name).canonical(name)


def _filled(network: Network, checkpoint: Checkpoint, exact: bool) -> Network:
    said = load_into(network, checkpoint, "exact" if exact else "new")
    network.loaded = "; ".join([f"{checkpoint.source}: {said}", *checkpoint.notes])  # type: ignore[assignment]
    return network
