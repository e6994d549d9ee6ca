"""A network, its preparation of photos and its class names: everything between a photo and a typed answer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor, nn

from swinkit import weights
from swinkit.data.masks import palette_of
from swinkit.data.reading import cores, read_batches
from swinkit.data.transforms import normalise, resized
from swinkit.engines import dense
from swinkit.engines.exported import Engine, ExportedEngine, engine_kind, fastest, is_export
from swinkit.errors import CheckpointError, InputError, RunError, SwinkitError
from swinkit.export import AutoEngine, CompiledEngine, OnDemandEngine
from swinkit.models.build import build_network
from swinkit.prediction import forks
from swinkit.prediction.pictures import Source, is_path, name_of, picture_of
from swinkit.prediction.results import ClassificationResult, Prediction, SegmentationResult
from swinkit.specs import ModelSpec, Preprocessing

Result = ClassificationResult | SegmentationResult
_Item = Tensor | Image.Image | str  # the network's input or the picture, or why there is none
_Prepared = tuple[str, _Item, bool]  # the image's name, what became of it, whether the name is a path to read again


def load(source: str | os.PathLike[str], device: str | None = None, engine: str | None = None, trust: bool = False) -> Predictor:
    """Return a predictor with the weights of ``source``.

    Args:
        source: embedded name, hub id, directory, ``.safetensors`` or ``.pth`` of any dialect, or a folder of ``swinkit export``.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto" (the best there is); None means "cpu".
        engine: what computes: "torch", "compile" (torch's compiler), "openvino", "onnxruntime", or "auto": the fastest that
            is built already, else torch while another process builds one; ``.engine`` of the result says which. None is torch,
            of an export the one it was made for. The first use of any other with a checkpoint builds an export and keeps it,
            which takes up to a minute or two.
        trust: open an export that is code ("torch", "aotinductor") and was not written by this user; it may do anything.
            Checkpoints and other exports never need it.

    Raises:
        UnsafeFile: an export that is code, neither this user's own nor trusted.
        CheckpointError, UnknownName, MissingExtraError: the weights cannot be had or used.
        ExportError: an export was changed, or answers otherwise than when it was written.
        InputError: this machine has no such device; there is no such engine, or it cannot run there.
    """
    place = pick_device(device)
    wanted = fastest(place) if engine == "auto" else engine
    kind = engine_kind(wanted) if wanted is not None else None
    if wanted == "compile" and place.type != "cpu":
        kind = None  # compiled in this process
    if kind is not None or is_export(Path(source)):
        place = torch.device("cpu") if device == "auto" else place
        if place.type != "cpu":
            raise InputError(f"exports run on the cpu here, not on {place}; use the checkpoint with the engine torch or compile")
    if is_export(Path(source)):
        return _exported(ExportedEngine(Path(source), trusted=trust), engine)
    checkpoint = weights.load_checkpoint(os.fspath(source))
    with torch.device("meta"):  # no time for random weights that nobody will see
        network = build_network(checkpoint.spec)
    weights.load_into(network, checkpoint)
    if kind is not None and engine == "auto":
        return Predictor(AutoEngine(network.eval(), checkpoint.spec, os.fspath(source)), checkpoint.spec, network)
    if kind is not None:
        return Predictor(OnDemandEngine(network.eval(), checkpoint.spec, kind), checkpoint.spec, network)
    if wanted == "compile":
        return Predictor(CompiledEngine(network.eval().to(place), checkpoint.spec), checkpoint.spec, network)
    return Predictor(network.to(place), checkpoint.spec)


def _exported(model: ExportedEngine, engine: str | None) -> Predictor:
    if engine not in (None, "auto", model.name):
        raise InputError(f"{model.folder}: was exported for the engine {model.name}, not {engine}; load its checkpoint instead")
    if model.spec.variant.num_classes == 0:
        raise InputError(
            f"{model.folder}: gives maps or features, no answers for photos; call it with a tensor: "
            "swinkit.engines.exported.ExportedEngine(Path(folder))"
        )
    return Predictor(model, model.spec)


def pick_device(name: str | None) -> torch.device:
    """Return the device that ``name`` means; "auto" is the first of cuda, mps and cpu that is there.

    Raises:
        InputError: no such device, or not on this machine.
    """
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name or "cpu")
    except RuntimeError:
        raise InputError(f"there is no device {name!r}; give auto, cpu, cuda or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"this machine has {torch.cuda.device_count()} CUDA devices, {name!r} is not there; use cpu")
    if device.type == "mps" and not has_mps:
        raise InputError("this machine has no mps device; use cpu")
    return device


class Predictor:
    """Answers for photos.

    Args:
        model: (B, C, h, w) -> (B, K) logits, on the device where it shall run; it is switched to ``eval()``.
        spec: preparation of photos, class names, and whether classes exclude one another.
        network: the module with the weights, where ``model`` is another library's form of it.

    Attributes:
        model: what computes: the network, or an engine that is called like it; torch tensors in and out.
        labels: K class names in index order; the indices as text when nobody knows the names.
        preprocessing: what is done to an image.
        palette: a colour for each class, (K, 3) uint8.
        spec: the whole description that belongs to the weights.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, network: nn.Module | None = None) -> None:
        classes = spec.variant.num_classes
        if classes == 0:
            raise CheckpointError(
                f"{spec.name or 'this model'} has no classes, only features; train it first: swinkit train finetune"
            )
        if spec.labels and len(spec.labels) != classes:
            raise CheckpointError(f"{len(spec.labels)} class names were given for {classes} outputs; give one each")
        self.model = model.eval()
        self.spec = spec
        self._network = network if isinstance(model, Engine) else model
        self.labels = list(spec.labels) or [str(index) for index in range(classes)]
        self.preprocessing: Preprocessing = spec.preprocessing
        self.palette = palette_of(spec.masks, classes)
        self._born = forks.generation()

    @property
    def engine(self) -> str:
        """What computes: "torch", "compile", "openvino" or "onnxruntime"; of "auto" what answered last."""
        return self.model.name if isinstance(self.model, Engine) else "torch"

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    @overload
    def predict(self, source: Source, top: int = 5, tile: int = 0) -> Any: ...
    @overload
    def predict(self, source: list[Any] | tuple[Any, ...], top: int = 5, tile: int = 0) -> list[Any]: ...
    def predict(self, source: Source | list[Any] | tuple[Any, ...], top: int = 5, tile: int = 0) -> Any:
        """Return the answer for one image, or a list of answers for a list or tuple of images.

        Args:
            source: a path; a PIL image (its EXIF orientation is applied); an array (H, W), (H, W, 3) or (H, W, 4)
                of uint8 in RGB order; a tensor (1, H, W), (3, H, W) or (4, H, W) of uint8, as torchvision.io.read_image gives;
                encoded bytes; an open binary file; a ``data:`` URL in base64; or a list of these.
            top: how many classes to give, most probable first; more than there are means all. Label maps have all.
            tile: segmenters: cut the photo into tiles of so many pixels, each answered like a photo, seams blended; 0 takes
                it whole.

        Returns:
            A ``ClassificationResult``, or a ``SegmentationResult`` of a segmenter; a list of them for a list.

        Raises:
            ImageError: the one image cannot be read. In a list it becomes a result with ``error`` at its place.
            InputError: not an image at all, or ``top`` less than 1.
            RunError: the network cannot answer such an image, or the predictor is from before ``os.fork`` and its engine's
                threads are not in this process.
        """
        if isinstance(source, list | tuple):
            return list(self.stream(source, top=top, tile=tile))
        _at_least_one(top=top)
        self._check_tile(tile)
        forks.check(self._born, self.engine, self.device)
        name = name_of(source, "image")
        return self._answers([(name, self._input(self._image(source, name)), is_path(source))], top, tile)[0]

    def stream(
        self, sources: Iterable[Source], batch: int = 16, workers: int | None = None, top: int = 5, tile: int = 0
    ) -> Iterator[Any]:
        """Return an iterator over the answers, in the order of ``sources``.

        Threads read and prepare photos, beside the network where it leaves them a core, else in turn with it
        (``data/reading.py``). Never more than two batches of prepared images are held (one photo a worker, if that is more), so
        any number of photos needs the memory of a few.

        Args:
            sources: as for ``predict``; read as far as needed. An image that cannot be read becomes a result with
                ``error`` at its place.
            batch: images that go through the network together.
            workers: threads that read; None is as many as there are cores, eight at most (two of a segmenter, whose photos
                wait as they are).
            top, tile: as for ``predict``.

        Raises:
            InputError: a number less than 1 (at once).
            RunError: a batch does not fit into the device's memory; else as for ``predict``.
        """
        whole = self.spec.task == "segment"
        workers = min(2 if whole else 8, cores()) if workers is None else workers
        _at_least_one(batch=batch, workers=workers, top=top)
        self._check_tile(tile)
        forks.check(self._born, self.engine, self.device)
        return self._stream(sources, 1 if whole else batch, workers, top, tile)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write a directory in the Hugging Face layout: ``swinkit.load`` and transformers open it.

        Raises:
            InputError: an export, which has no weights that can be saved again.
        """
        if self._network is None:
            raise InputError("an export keeps its weights in another form; save the checkpoint that it was made from")
        weights.save_pretrained(self._network, self.spec, Path(directory))

    def _stream(self, sources: Iterable[Source], batch: int, workers: int, top: int, tile: int) -> Iterator[Result]:
        begun = forks.generation()
        for prepared in read_batches(enumerate(sources), self._prepared, batch, workers, self.device):
            for result in self._answers(prepared, top, tile):
                yield result
                if forks.generation() != begun:
                    raise RunError("a stream cannot go on after os.fork(), its readers stayed in the parent; begin one here")

    def _prepared(self, numbered: tuple[int, Source]) -> _Prepared:
        place, source = numbered
        name = name_of(source, f"image {place}")
        try:
            return name, self._input(self._image(source, name)), is_path(source)
        except InputError as error:
            return name, str(error), False

    def _image(self, source: Source, name: str) -> Image.Image:
        """Return the upright picture with as many channels as the network takes."""
        channels = len(self.preprocessing.mean)
        if channels not in (1, 3):
            raise InputError(f"this network takes {channels} channels, photos have 3; call its model with a tensor")
        return picture_of(source, name, grey=channels == 1)

    def _input(self, image: Image.Image) -> Tensor | Image.Image:
        """Return what waits for the network: an input, or of a segmenter, whose answers have the photo's size, the photo."""
        if self.spec.task == "segment":
            return image
        # Bytes: a quarter of floats, and torch would keep a team of spinning threads for each thread that normalised here.
        return resized(image, self.preprocessing)

    def _call(self, images: Tensor) -> Tensor:
        if isinstance(self.model, Engine):
            return self.model(images)
        parameter = next(self.model.parameters())
        return self.model(images.to(parameter.device, parameter.dtype)).float()

    def _check_tile(self, tile: int) -> None:
        if tile and self.spec.task != "segment":
            raise InputError("tiles are for label maps; this network answers for the whole image")
        if tile and (isinstance(tile, bool) or not 16 <= tile <= 16384):
            raise InputError(f"a tile is 16 to 16384 pixels wide, got {tile!r}")

    def _label_map(self, name: str, item: Any, on_disk: bool, tile: int) -> SegmentationResult:
        if isinstance(item, str):
            return SegmentationResult(name, error=item)
        pixels = []

        def network(images: Tensor) -> Tensor:
            logits = self._call(images)
            pixels.append(bool(logits.isfinite().all()))
            return logits

        with self._in_words(f"{name}: ", "use tiles, or the cpu"), torch.inference_mode():
            mask = dense.label_map(network, item, self.preprocessing, dense.Passes(tile=tile), self.device)
        if not all(pixels):
            raise CheckpointError("the network answers with values that are no numbers; its weights are damaged")
        picture = None if on_disk else item  # what came in memory is in no file, or no longer the same
        return SegmentationResult(name, mask, tuple(self.labels), self.palette, picture=picture)

    def _answers(self, prepared: list[_Prepared], top: int, tile: int) -> list[Any]:
        """Return one result for each prepared image or error, in order."""
        if self.spec.task == "segment":
            return [self._label_map(name, item, on_disk, tile) for name, item, on_disk in prepared]
        images = [item for _, item, _ in prepared if isinstance(item, Tensor)]
        rows = iter(self._probabilities(torch.stack(images)) if images else ())
        results = []
        for name, item, _ in prepared:
            if isinstance(item, str):
                results.append(ClassificationResult(name, error=item))
                continue
            values, indices = next(rows).topk(min(top, len(self.labels)))
            results.append(
                ClassificationResult(
                    name,
                    tuple(
                        Prediction(self.labels[index], index, value)
                        for index, value in zip(indices.tolist(), values.tolist(), strict=True)
                    ),
                )
            )
        return results

    @contextlib.contextmanager
    def _in_words(self, what: str, smaller: str) -> Iterator[None]:
        """Turn what a network or its library raises into a sentence: what was asked, and what to do where memory is short."""
        try:
            yield
        except SwinkitError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in reason:
                raise RunError(f"{what}too large for the memory of {self.device}; {smaller}") from error
            raise RunError(
                f"{what}the network fails ({reason}); it must take pictures {self.preprocessing.describe()}: give it such a "
                "preparation, or another network"
            ) from error

    def _probabilities(self, images: Tensor) -> Tensor:
        """Return (B, K) float32 on the CPU, for (B, C, h, w) uint8."""
        count, _, height, width = images.shape
        what = f"{count} images of {height}x{width}: "
        with self._in_words(what, f"use a batch of {max(1, count // 2)} or the cpu"), torch.inference_mode():
            if not isinstance(self.model, Engine):  # those normalise themselves
                images = normalise(images.to(self.device), self.preprocessing)
            logits = self._call(images).cpu()
        if not logits.isfinite().all():
            raise CheckpointError("the network answers with values that are no numbers; its weights are damaged")
        return logits.sigmoid() if self.spec.multi_label else logits.softmax(dim=-1)


def _at_least_one(**numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
