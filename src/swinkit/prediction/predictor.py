"""A network, its preparation of photos and its class names: everything between a photo and a typed answer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from swinkit import weights
from swinkit.data.masks import palette_of
from swinkit.data.reading import cores, read_batches
from swinkit.data.transforms import normalise
from swinkit.engines.exported import Engine, ExportedEngine, engine_kind, fastest, is_export
from swinkit.errors import CheckpointError, InputError, RunError, SwinkitError
from swinkit.export import CompiledEngine, OnDemandEngine
from swinkit.prediction import forks
from swinkit.prediction.auto import AutoEngine
from swinkit.prediction.pictures import Source, is_path, name_of, picture_of
from swinkit.specs import ModelSpec, Preprocessing
from swinkit.tasks.base import Outputs, Photo
from swinkit.tasks.options import at_least_one, chosen
from swinkit.tasks.table import TASKS, task_of

_Prepared = Photo | tuple[str, str]  # a photo, or the image's name and why there is none


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
        network = task_of(checkpoint.spec).network(checkpoint.spec)
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
        model: (B, C, h, w) -> raw outputs, on the device where it shall run; it is switched to ``eval()``.
        spec: preparation of photos, class names, task.
        network: the module with the weights, where ``model`` is another library's form of it.

    Attributes:
        model: what computes: the network, or an engine that is called like it; torch tensors in and out.
        network: the module with the weights: feature maps and attention can be asked of it. None of an export.
        task: what kind of answers it gives (``swinkit.tasks``).
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
        self.task = task_of(spec)
        self.model = model.eval()
        self.spec = spec
        self.network = network if isinstance(model, Engine) else model
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
    def predict(self, source: Source, **options: Any) -> Any: ...
    @overload
    def predict(self, source: list[Any] | tuple[Any, ...], **options: Any) -> list[Any]: ...
    def predict(self, source: Source | list[Any] | tuple[Any, ...], **options: Any) -> Any:
        """Return the answer for one image, or a list of answers for a list or tuple of images.

        Args:
            source: a path; a PIL image (its EXIF orientation is applied); an array (H, W), (H, W, 3) or (H, W, 4)
                of uint8 in RGB order; a tensor (1, H, W), (3, H, W) or (4, H, W) of uint8, as torchvision.io.read_image gives;
                encoded bytes; an open binary file; a ``data:`` URL in base64; or a list of these.
            options: the task's own (``tasks/<name>/options.py``). A classifier's: ``top`` (5), how many classes to give, and
                ``batch`` (16). A segmenter's: ``tile`` (0), the side of tiles in pixels that the photo is cut into.

        Returns:
            The task's result, a ``ClassificationResult`` or ``SegmentationResult``; a list of them for a list.

        Raises:
            ImageError: the one image cannot be read. In a list it becomes a result with ``error`` at its place.
            InputError: not an image at all, or an option that is out of range or another task's.
            RunError: the network cannot answer such an image, or the predictor is from before ``os.fork`` and its engine's
                threads are not in this process.
        """
        if isinstance(source, list | tuple):
            return list(self.stream(source, **options))
        wanted = self._options(options)
        forks.check(self._born, self.engine, self.device)
        return self._answers([self._photo(source, name_of(source, "image"))], wanted)[0]

    def stream(self, sources: Iterable[Source], workers: int | None = None, **options: Any) -> Iterator[Any]:
        """Return an iterator over the answers, in the order of ``sources``.

        Threads read and prepare photos, beside the network where it leaves them a core, else in turn with it
        (``data/reading.py``). Never more than two batches of prepared images are held (one photo a worker, if that is more), so
        any number of photos needs the memory of a few.

        Args:
            sources: as for ``predict``; read as far as needed. An image that cannot be read becomes a result with
                ``error`` at its place.
            workers: threads that read; None is as many as there are cores, eight at most (two of a task that answers photo by
                photo).
            options: as for ``predict``.

        Raises:
            InputError: an option out of range or another task's (at once).
            RunError: a batch does not fit into the device's memory; else as for ``predict``.
        """
        wanted = self._options(options)
        workers = min(2 if wanted.batch == 1 else 8, cores()) if workers is None else workers
        at_least_one(workers=workers)
        forks.check(self._born, self.engine, self.device)
        return self._stream(sources, workers, wanted)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write a directory in the Hugging Face layout: ``swinkit.load`` and transformers open it.

        Raises:
            InputError: an export, which has no weights that can be saved again.
        """
        if self.network is None:
            raise InputError("an export keeps its weights in another form; save the checkpoint that it was made from")
        weights.save_pretrained(self.network, self.spec, Path(directory))

    def _options(self, given: dict[str, Any]) -> Any:
        others = {task.name: task.predict_options for task in TASKS.values()}
        return chosen(self.task.predict_options, given, others, self.task.noun)

    def _stream(self, sources: Iterable[Source], workers: int, options: Any) -> Iterator[Any]:
        begun = forks.generation()
        for prepared in read_batches(enumerate(sources), self._prepared, options.batch, workers, self.device):
            for result in self._answers(prepared, options):
                yield result
                if forks.generation() != begun:
                    raise RunError("a stream cannot go on after os.fork(), its readers stayed in the parent; begin one here")

    def _prepared(self, numbered: tuple[int, Source]) -> _Prepared:
        place, source = numbered
        name = name_of(source, f"image {place}")
        try:
            return self._photo(source, name)
        except InputError as error:
            return name, str(error)

    def _photo(self, source: Source, name: str) -> Photo:
        """Return the upright picture with as many channels as the network takes, prepared."""
        channels = len(self.preprocessing.mean)
        if channels not in (1, 3):
            raise InputError(f"this network takes {channels} channels, photos have 3; call its model with a tensor")
        image = picture_of(source, name, grey=channels == 1)
        # Bytes: a quarter of floats, and torch would keep a team of spinning threads for each thread that normalised here.
        pixels, geometry = self.task.prepare(image, self.spec)
        again = is_path(source) and pixels is not None  # a file is read again for a drawing: many large photos may wait here
        return Photo(name, None if again else image, pixels, geometry, is_path(source))

    def _answers(self, prepared: list[_Prepared], options: Any) -> list[Any]:
        """Return one result for each photo or error, in order."""
        photos = [item for item in prepared if isinstance(item, Photo)]
        found = iter(self._together(photos, options) if photos else ())
        return [next(found) if isinstance(item, Photo) else self.task.result(item[0], error=item[1]) for item in prepared]

    def _together(self, photos: list[Photo], options: Any) -> list[Any]:
        """Return the task's answers; what a network or its library raises becomes a sentence."""
        height, width = photos[0].geometry.size
        what = f"{len(photos)} images of {height}x{width}" if options.batch > 1 else photos[0].name
        try:
            with torch.inference_mode():
                return self.task.answer(self._run, photos, self.spec, options)
        except SwinkitError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in reason:
                where = f"too large for the memory of {self.device}"
                raise RunError(f"{what}: {where}; {self.task.smaller(len(photos))}") from error
            raise RunError(
                f"{what}: the network fails ({reason}); it must take pictures {self.preprocessing.describe()}: give it such a "
                "preparation, or another network"
            ) from error

    def _run(self, images: Tensor) -> Outputs:
        """Return the raw outputs for a batch: uint8 pixels, or normalised ones."""
        if isinstance(self.model, Engine):  # those normalise themselves
            outputs: Outputs = self.model(images)
        else:
            parameter = next(self.model.parameters())
            images = images.to(parameter.device)
            images = normalise(images, self.preprocessing) if images.dtype == torch.uint8 else images
            outputs = self.model(images.to(parameter.dtype))
        named = outputs if isinstance(outputs, dict) else {"": outputs}
        named = {name: value.float() if value.is_floating_point() else value for name, value in named.items()}
        if not all(value.isfinite().all() for value in named.values() if value.is_floating_point()):
            raise CheckpointError("the network answers with NaN or infinity; its weights are damaged")
        return named if isinstance(outputs, dict) else named[""]
