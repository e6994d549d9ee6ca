"""Networks by name, with freshly initialised weights."""

from __future__ import annotations

from typing import Any

from swinkit.models.classifier import SwinClassifier
from swinkit.models.swin import SwinBackbone
from swinkit.models.variants import resolve
from swinkit.specs import Variant


def create_model(
    name: str, num_classes: int | None = None, in_chans: int = 3, img_size: int | None = None, **changes: Any
) -> SwinClassifier:
    """Return a new classifier with freshly initialised weights.

    Args:
        name: any spelling of a variant (``swinkit.list_models()``); timm's, torchvision's names and hub ids count.
        num_classes: outputs; None keeps the variant's, 0 gives pooled features.
        in_chans: channels of the image.
        img_size: nominal side in pixels; decides the windows of small last maps. Any size runs afterwards.
        changes: further fields of ``swinkit.specs.Variant``, for example ``window_size`` or ``drop_path``.

    Returns:
        A module (B, in_chans, H, W) -> (B, num_classes) logits.

    Raises:
        UnknownName: no such variant; the message has the nearest three.
        ValueError: a field out of range.
    """
    _, variant = resolve(name)
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
        UnknownName, ValueError: as ``create_model``.
    """
    _, variant = resolve(name)
    # A stage whose window was smaller in training keeps that window as the scale of its coordinates (V2).
    if variant.version == 2 and "pretrained_windows" not in changes:
        windows = zip(variant.pretrained_windows, variant.stage_windows, strict=True)
        changes["pretrained_windows"] = tuple(pretrained or window for pretrained, window in windows)
    return SwinBackbone(_changed(variant, {"in_chans": in_chans, **changes}), out_indices)


def _changed(variant: Variant, changes: dict[str, Any]) -> Variant:
    unknown = sorted(set(changes) - set(variant.__dataclass_fields__))
    if unknown:
        raise ValueError(f"a variant has no field {unknown[0]!r}; it has {', '.join(variant.__dataclass_fields__)}")
    return variant.changed(**changes)
