"""Who takes turns in the speed benchmark: for each section, name -> what makes a contender's call in its own process.

Every maker builds the same network and the same images, from the seed that ``turns.py`` sets.
"""

from __future__ import annotations

import functools
import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.peers import (
    Call,
    floor_compiled,
    floor_in_openvino,
    in_openvino,
    network,
    onnxruntime_call,
    openvino_call,
    our_engine,
    same,
    spec_of,
)
from swinkit.models import windows
from swinkit.models.classifier import SwinClassifier
from swinkit.models.segmentation import Segmenter
from swinkit.models.swin import SwinBackbone
from swinkit.models.variants import resolve
from swinkit.specs import ModelSpec, Preprocessing, Variant

FLOORS = ("products in OpenVINO", "products compiled")
SMALL = "swin_small_patch4_window7_224"
PARTS = 25  # of the photos: many turns of seconds, for the pace of a shared processor changes from one to the next


def classify_makers(
    variant: Variant, batch: int, cache: Path, engines: Sequence[str], peers: Sequence[str]
) -> dict[str, Callable[[], Call]]:
    """Return makers of our engines, the peers, timm compiled and in OpenVINO, and of the products alone."""

    @functools.cache
    def given() -> tuple[SwinClassifier, torch.Tensor]:
        return network(variant), torch.randn(batch, 3, variant.img_size, variant.img_size)

    def eager(peer: str) -> Call:
        return functools.partial(same(given()[0], peer), given()[1])

    def ours(engine: str) -> Call:
        return functools.partial(our_engine(engine, given()[0], spec_of(variant), cache), given()[1])

    makers = {f"{peer} eager": functools.partial(eager, peer) for peer in peers}
    makers |= {f"swinkit {engine}": functools.partial(ours, engine) for engine in engines}
    return makers | {
        "timm compiled": lambda: functools.partial(torch.compile(same(given()[0], "timm"), dynamic=False), given()[1]),
        "timm in OpenVINO": lambda: openvino_call(in_openvino(same(given()[0], "timm"), given()[1]), given()[1].numpy()),
        "products in OpenVINO": lambda: floor_in_openvino(*given()),
        "products compiled": lambda: floor_compiled(*given()),
    }


def int8_makers(cache: Path, folder: Path) -> dict[str, Callable[[], Call]]:
    """Return makers of exact networks and of networks in eight bits, ours (written to a folder) and timm's."""
    from swinkit.engines import openvino
    from swinkit.engines.exported import ExportedEngine, canary_pixels
    from swinkit.export import export_network
    from swinkit.export.int8 import quantiser

    variant = resolve(SMALL)[1]
    spec = spec_of(variant)
    pictures = np.split(canary_pixels(spec, (224, 224), 40), 40)
    pixels = canary_pixels(spec, (224, 224), 8)

    @functools.cache
    def given() -> tuple[SwinClassifier, torch.Tensor]:
        return network(variant), torch.randn(8, 3, 224, 224)

    def ours() -> Call:
        if not folder.exists():
            export_network(given()[0], spec, folder, "openvino", [(224, 224)], quantiser(pictures, smooth=True))
        return functools.partial(ExportedEngine(folder), torch.from_numpy(pixels))

    def theirs() -> Call:
        import nncf
        import openvino as ov

        with torch.no_grad():
            graph = ov.convert_model(torch.export.export(same(given()[0], "timm"), (given()[1],)))
        # timm's graph has its batch inside: it is calibrated eight pictures at a time
        eights = [np.concatenate(pictures[i : i + 8]) for i in range(0, 40, 8)]
        normalised = nncf.Dataset([((pixels / 255.0 - 0.45) / 0.226).astype(np.float32) for pixels in eights])
        quantised = nncf.quantize(graph, normalised, subset_size=len(eights), model_type=nncf.ModelType.TRANSFORMER)
        return openvino_call(openvino.compiled(quantised), given()[1].numpy())

    return {
        "swinkit exact": lambda: functools.partial(our_engine("openvino", given()[0], spec, cache), torch.from_numpy(pixels)),
        "swinkit eight bits": ours,
        "timm exact": lambda: openvino_call(in_openvino(same(given()[0], "timm"), given()[1]), given()[1].numpy()),
        "timm eight bits": theirs,
    }


def pyramid_makers(cache: Path) -> dict[str, Callable[[], Call | dict[str, Call]]]:
    """Return makers of the Swin-T pyramid for one image of 800 x 1216, ours and transformers'.

    The two graphs in OpenVINO differ by less than two processes of the same graph do: they share one.
    """
    from swinkit import create_backbone

    @functools.cache
    def given() -> tuple[SwinBackbone, torch.Tensor]:
        return create_backbone("swin_tiny").eval(), torch.randn(1, 3, 800, 1216)

    def last(network: Callable[[torch.Tensor], list[torch.Tensor]]) -> Call:
        return lambda: network(given()[1])[-1]

    def ours(engine: str, padding: float | None = None) -> Call:
        model = given()[0]
        if padding is not None:  # of this process only, and before an engine is made: it exports when it is made
            windows.PADDING_PAYS = padding
        if engine == "torch":  # as ``create_backbone`` gives it
            return last(model)
        spec = ModelSpec(model.variant.changed(num_classes=0), Preprocessing((800, 1216)), name="swin_tiny")
        folder = cache if padding is None else cache / f"padding {padding}"
        return last(our_engine(engine, model, spec, folder))

    def theirs() -> nn.Module:
        import transformers
        from safetensors.torch import save_file

        from swinkit.weights import from_neutral

        config = transformers.SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
        tensors = from_neutral(given()[0].state_dict(), "hf", 1, "swin.")
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            tensors = {k.removeprefix("swin."): v.contiguous() for k, v in tensors.items()}
            save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
            return Maps(transformers.SwinBackbone.from_pretrained(folder, config=config).eval())

    def in_one_process() -> dict[str, Call]:
        converted = in_openvino(theirs(), given()[1])
        return {
            "transformers in OpenVINO": openvino_call(converted, given()[1].numpy(), answer=3),
            "swinkit openvino": ours("openvino"),
        }

    return {
        "transformers eager": lambda: last(theirs()),
        "swinkit torch": lambda: ours("torch"),
        "swinkit torch, all padded rows computed": lambda: ours("torch", math.inf),
        "swinkit torch, no padded rows computed": lambda: ours("torch", 0),
        "transformers compiled": lambda: last(torch.compile(theirs(), dynamic=False)),
        "swinkit compile": lambda: ours("compile"),
        "swinkit openvino and transformers'": in_one_process,
        "swinkit openvino, no padded rows computed": lambda: ours("openvino", 0),
        "transformers in ONNX Runtime": lambda: onnxruntime_call(theirs(), given()[1], answer=3),
        "swinkit onnxruntime": lambda: ours("onnxruntime"),
    }


class Maps(nn.Module):
    """Another library's backbone that gives its maps as a list."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps, fine to coarse."""
        return list(self.backbone(images).feature_maps)


def segment_makers(cache: Path) -> dict[str, Callable[[], Call]]:
    """Return makers of UPerNet on Swin-T, ours and transformers', for one image of 512 x 512."""
    from swinkit import create_model

    @functools.cache
    def given() -> tuple[Segmenter, ModelSpec, torch.Tensor]:
        model = create_model("upernet", backbone="swin_tiny").eval()
        variant = model.backbone.variant.changed(num_classes=150)  # type: ignore[union-attr]
        spec = ModelSpec(variant, Preprocessing((512, 512)), task="segment", name="upernet_swin_tiny", decoder=model.decoder)  # type: ignore[union-attr]
        return model, spec, torch.randn(1, 3, 512, 512)  # type: ignore[return-value]

    def theirs() -> nn.Module:
        from transformers import UperNetForSemanticSegmentation

        from swinkit.weights import save_pretrained

        with tempfile.TemporaryDirectory() as folder:
            save_pretrained(*given()[:2], Path(folder) / "hf")
            return Logits(UperNetForSemanticSegmentation.from_pretrained(Path(folder) / "hf").eval())

    def ours(engine: str) -> Call:
        return functools.partial(our_engine(engine, *given()[:2], cache), given()[2])

    return {
        "transformers eager": lambda: functools.partial(theirs(), given()[2]),
        "transformers in OpenVINO": lambda: openvino_call(in_openvino(theirs(), given()[2]), given()[2].numpy()),
        "transformers in ONNX Runtime": lambda: onnxruntime_call(theirs(), given()[2]),
        **{f"swinkit {name}": functools.partial(ours, name) for name in ("torch", "compile", "openvino", "onnxruntime")},
    }


class Logits(nn.Module):
    """Another library's network that gives its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.network(images).logits


def photo_makers(variant: Variant, folder: Path, cache: Path) -> dict[str, Callable[[], Call | dict[str, Call]]]:
    """Return makers that take a folder's photos part by part to their top-5; with each of our engines, also of the engine alone.

    A call answers the next part, eight photos at a time, and returns the five most probable classes of every photo so far,
    (photos, 5), -1 for those to come. The same engine alone answers as many pictures that lie in memory, in the same batches: a
    call as long.
    """
    from swinkit.prediction import Predictor

    spec = spec_of(variant).changed(labels=tuple(f"class {i}" for i in range(1000)))
    paths = [str(path) for path in sorted((folder / "photos").iterdir())]

    def in_parts(top: Callable[[list[str]], list[list[str]]]) -> Call:
        found, parts = torch.full((len(paths), 5), -1.0), itertools.cycle(range(PARTS))

        def call() -> torch.Tensor:
            part = slice(next(parts), None, PARTS)
            found[part] = torch.tensor([[float(label.removeprefix("class ")) for label in five] for five in top(paths[part])])
            return found.clone()

        return call

    def theirs() -> Call:
        from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

        model, processor = (x.from_pretrained(folder / "hf") for x in (AutoModelForImageClassification, AutoImageProcessor))
        classify = pipeline("image-classification", model=model, image_processor=processor)
        return in_parts(
            lambda some: [[row["label"] for row in rows] for rows in classify(some, batch_size=8, top_k=5)]  # best first
        )

    def ours(engine: str) -> dict[str, Call]:
        model = network(variant)
        runs = our_engine(engine, model, spec, cache)
        predictor = Predictor(runs, spec, model)
        images = torch.randint(0, 256, (len(paths[::PARTS]), 3, 224, 224), dtype=torch.uint8)
        batches = (images / 255.0 if engine == "torch" else images).split(8)
        return {
            f"swinkit {engine}": in_parts(
                lambda some: [[x.label for x in answer.predictions] for answer in predictor.stream(some, batch=8)]
            ),
            f"{engine} alone": lambda: torch.cat([runs(batch) for batch in batches]),
        }

    return {
        "transformers pipeline": theirs,
        **{f"swinkit {engine}": functools.partial(ours, engine) for engine in ("torch", "compile", "openvino")},
    }
