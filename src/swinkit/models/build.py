"""Networks by name, with freshly initialised weights."""

from __future__ import annotations

import dataclasses
from typing import Any

from swinkit.errors import InputError
from swinkit.models.classifier import SwinClassifier
from swinkit.models.segmentation import Segmenter
from swinkit.models.swin import SwinBackbone
from swinkit.models.systems import DEFAULT_DECODERS, DROP_PATH, SYSTEM_NAMES, resolve_system, system_variant
from swinkit.models.timm_backbone import TimmBackbone
from swinkit.models.variants import names_weights, resolve
from swinkit.specs import Decoder, ModelSpec, Variant

TIMM = "timm:"


def create_model(
    name: str,
    num_classes: int | None = None,
    in_chans: int = 3,
    img_size: int | None = None,
    backbone: str | None = None,
    timm_weights: bool = False,
    **changes: Any,
) -> SwinClassifier | Segmenter:
    """Return a new network with freshly initialised weights: a classifier, or a segmenter.

    ``swinkit.create_model`` does the same, and fills it with trained weights where ``pretrained`` asks for them.

    Args:
        name: any spelling of a variant (``swinkit.list_models()``; timm's and torchvision's names count), a published system
            ("upernet_swin_tiny"), or a decoder: "upernet", "fpn", "unet".
        num_classes: outputs; None keeps the variant's (1,000) or the system's (150), 0 gives a classifier's pooled features.
        in_chans: channels of the image.
        img_size: nominal side in pixels; decides the windows of a classifier's small last maps. Any size runs afterwards.
        backbone: what a decoder stands on: a variant, or "timm:<name>" for a network of timm; None means "swin_tiny".
        timm_weights: fill a timm backbone with timm's own weights, which timm fetches.
        changes: further fields of ``swinkit.specs.Variant`` (``window_size``, ``drop_path`` ...) and, for a segmenter, of
            ``swinkit.specs.Decoder`` (``channels``, ``auxiliary_channels`` ...).

    Returns:
        A module (B, in_chans, H, W) -> logits: (B, num_classes), or (B, num_classes, H, W) of a segmenter.

    Raises:
        UnknownName: no such network; the message has the nearest three.
        InputError: a field out of range, or a name that stands for trained weights.
    """
    if name in SYSTEM_NAMES:
        return _segmenter(name, num_classes, in_chans, img_size, backbone, timm_weights, changes)
    if backbone is not None:
        raise InputError(f"{name} is a whole network and takes no backbone; a decoder does: upernet, fpn, unet")
    variant = _new(name, "create_model")
    if num_classes is not None:
        changes["num_classes"] = num_classes
    if img_size is not None:
        changes["img_size"] = img_size
    return SwinClassifier(_changed(variant, {"in_chans": in_chans, **changes}))


def create_backbone(name: str, in_chans: int = 3, out_indices: tuple[int, ...] | None = None, **changes: Any) -> SwinBackbone:
    """Return a new pyramid backbone with freshly initialised weights.

    Args:
        name: any spelling of a variant.
        in_chans: channels of the image.
        out_indices: stages whose maps are wanted; None means all.
        changes: further fields of ``swinkit.specs.Variant``.

    Returns:
        A module (B, in_chans, H, W) -> list of (B, channels[i], H / strides[i], W / strides[i]), with ``.channels``
        and ``.strides``.

    Raises:
        UnknownName, InputError: as ``create_model``.
    """
    variant = _new(name, "create_backbone")
    # A stage whose window was smaller in training keeps that window as the scale of its coordinates (V2).
    if variant.version == 2 and "pretrained_windows" not in changes:
        changes["pretrained_windows"] = variant.reference_windows
    return SwinBackbone(_changed(variant, {"in_chans": in_chans, **changes}), out_indices)


def _new(name: str, function: str) -> Variant:
    """Return the shape that a name stands for, unless it stands for trained weights, which a new network does not have.

    Raises:
        UnknownName, InputError: as ``create_model``.
    """
    canonical, variant = resolve(name)
    if names_weights(name.strip()):
        raise InputError(
            f"{name!r} names trained weights, and a new network has none: {function}({canonical!r}, pretrained={name!r}) loads "
            f"them, {function}({canonical!r}) starts at random, and swinkit.load({name!r}) answers for photos"
        )
    return variant


def build_network(spec: ModelSpec) -> SwinClassifier | Segmenter:
    """Return the network a description tells of, with new weights."""
    if spec.decoder is None:
        return SwinClassifier(spec.variant)
    if spec.backbone:
        body: SwinBackbone | TimmBackbone = TimmBackbone(spec.backbone.removeprefix(TIMM), spec.variant.in_chans)
    else:
        body = SwinBackbone(spec.variant)
    return Segmenter(body, spec.decoder, spec.variant.num_classes)


def _segmenter(
    name: str,
    num_classes: int | None,
    in_chans: int,
    img_size: int | None,
    backbone: str | None,
    timm_weights: bool,
    changes: dict[str, Any],
) -> Segmenter:
    fields = {field.name for field in dataclasses.fields(Decoder)}
    wishes = {key: changes.pop(key) for key in list(changes) if key in fields}
    if name in DEFAULT_DECODERS:
        decoder, classes, variant_name = DEFAULT_DECODERS[name], 150, backbone or "swin_tiny"
    else:
        canonical, system = resolve_system(name)
        if names_weights(name):
            raise InputError(
                f"{name!r} names trained weights, and a new network has none: create_model({canonical!r}, pretrained={name!r}) "
                f"loads them, create_model({canonical!r}) starts at random, and swinkit.load({name!r}) answers for photos"
            )
        if backbone is not None:
            raise InputError(f"{name} has its backbone; give the decoder's name instead: {system.decoder.kind}")
        decoder, classes, variant_name = system.decoder, system_variant(system).num_classes, system.backbone
    decoder = dataclasses.replace(decoder, **wishes)
    classes = classes if num_classes is None else num_classes
    if classes < 1:
        raise InputError(f"a segmenter needs at least one class, got {classes}")
    if variant_name.startswith(TIMM):
        if changes:
            raise InputError(f"{min(changes)!r} is a field of our own backbones; timm's are taken as they are")
        return Segmenter(TimmBackbone(variant_name.removeprefix(TIMM), in_chans, img_size, timm_weights), decoder, classes)
    return Segmenter(create_backbone(variant_name, in_chans, **{"drop_path": DROP_PATH, **changes}), decoder, classes)


def _changed(variant: Variant, changes: dict[str, Any]) -> Variant:
    unknown = sorted(set(changes) - set(variant.__dataclass_fields__))
    if unknown:
        raise InputError(f"a variant has no field {unknown[0]!r}; it has {', '.join(variant.__dataclass_fields__)}")
    return variant.changed(**changes)
