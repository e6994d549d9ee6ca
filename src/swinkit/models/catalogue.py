"""What is known of every network by name: counted and published figures. Plain data, without torch."""

from __future__ import annotations

from typing import Any

from swinkit.embedded import DEFAULT, EMBEDDED, embedded_description, embedded_names
from swinkit.models import task_of
from swinkit.models.systems import SYSTEMS, segmenter_macs, segmenter_parameters, system_variant
from swinkit.models.variants import EMBEDDED_NAME, RELEASES, count_macs, parameter_count
from swinkit.specs import Decoder, ModelSpec, Variant


def model_facts(name: str) -> dict[str, Any]:
    """Return what is known about a variant, JSON-ready.

    ``params`` and ``gflops`` (multiply-adds of one image of ``img_size`` pixels, in thousand millions) are counted
    here; ``published_*``, ``top1`` and ``top5`` (ImageNet-1K, per cent) or ``miou`` are the authors', None where they print none.
    ``licence`` is that of embedded weights.
    """
    if name in SYSTEMS:
        return _system_facts(name)
    release = RELEASES[name]
    variant, published = release.variant, release.published
    embedded = name == EMBEDDED_NAME and DEFAULT in embedded_names()
    return {
        "name": name,
        "task": task_of(name),
        "embedded": embedded,
        "licence": EMBEDDED[DEFAULT].licence if embedded else None,
        "params": parameter_count(variant),
        "gflops": round(count_macs(variant) / 1e9, 4),
        "published_params": published.params,
        "published_gflops": published.gflops,
        "top1": published.top1,
        "top5": published.top5,
        "training": release.training,
        "version": variant.version,
        "img_size": variant.img_size,
        "window_size": variant.window_size,
        "num_classes": variant.num_classes,
        "aliases": list(release.aliases),
    }


def _system_facts(name: str) -> dict[str, Any]:
    """Return the same of a segmentation system; its cost is at the size its authors name, auxiliary head left out."""
    system = SYSTEMS[name]
    variant = system_variant(system)
    macs = segmenter_macs(variant, system.decoder, system.size)
    return _segmenter_facts(name, variant, system.decoder, macs, system.size) | {
        "published_params": None if system.params_m is None else system.params_m * 1e6,
        "published_gflops": system.gmacs,
        "miou": system.miou,
        "training": system.data,
        "aliases": list(system.aliases),
    }


def embedded_facts(name: str) -> dict[str, Any]:
    """Return the same of an embedded network besides the default one; ``miou`` is this project's measurement."""
    spec = ModelSpec.from_dict(embedded_description(name))
    assert spec.decoder is not None
    size = spec.preprocessing.size
    macs = segmenter_macs(spec.variant, spec.decoder, size, reordered=True)
    return _segmenter_facts(name, spec.variant, spec.decoder, macs, size) | {
        "embedded": True,
        "licence": EMBEDDED[name].licence,
        "miou": round(100 * spec.facts["metrics"]["mIoU"], 2),
        "training": EMBEDDED[name].recipe,
    }


def _segmenter_facts(name: str, variant: Variant, decoder: Decoder, macs: dict[str, int], size: tuple[int, int]) -> dict:
    return {
        "name": name,
        "task": "segment",
        "embedded": False,
        "licence": None,
        "params": sum(segmenter_parameters(variant, decoder).values()),
        "gflops": round(sum(macs.values()) / 1e9, 4),
        "published_params": None,
        "published_gflops": None,
        "top1": None,
        "top5": None,
        "miou": None,
        "training": "",
        "version": variant.version,
        "img_size": list(size),
        "window_size": variant.window_size,
        "num_classes": variant.num_classes,
        "aliases": [],
    }
