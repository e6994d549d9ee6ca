"""What the speed benchmark compares: swinkit's engines, other libraries with the same weights, and the products alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.parity import peer, randomise
from swinkit.engines import onnx, openvino
from swinkit.engines.fast import folded
from swinkit.engines.memory import keep_memory
from swinkit.export import OnDemandEngine
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import ModelSpec, Preprocessing, Variant
from swinkit.weights import from_neutral

Call = Callable[[], Any]
HF_PREFIX = {1: "swin.", 2: "swinv2."}


def network(variant: Variant) -> SwinClassifier:
    """Return our classifier with weights that make logits of standard deviation about 1."""
    model = SwinClassifier(variant)
    randomise(model)
    return model.eval()


def same(model: SwinClassifier, dialect: str) -> nn.Module:
    """Return another library's network with our weights."""
    variant = model.variant
    theirs = peer(dialect, variant).eval()
    tensors = from_neutral(model.state_dict(), dialect, variant.version, HF_PREFIX[variant.version] if dialect == "hf" else "")
    if dialect == "hf":
        with tempfile.TemporaryDirectory() as folder:
            theirs.config.save_pretrained(folder)
            from safetensors.torch import save_file

            save_file({k: v.contiguous() for k, v in tensors.items()}, f"{folder}/model.safetensors", metadata={"format": "pt"})
            fastest = "sdpa" if theirs._supports_sdpa else "eager"
            return type(theirs).from_pretrained(folder, attn_implementation=fastest).eval()
    theirs.load_state_dict(tensors, strict=False)
    return theirs


def plain(answer: Any) -> Tensor:
    """Return logits as a tensor, whatever a library wraps them in."""
    answer = getattr(answer, "logits", answer)
    answer = answer[0] if isinstance(answer, list | tuple) else answer
    return answer if isinstance(answer, Tensor) else torch.from_numpy(np.array(answer))


def in_openvino(model: nn.Module, images: Tensor) -> Any:
    """Return a network of any library as OpenVINO runs it: its own conversion, static shape, the settings of our engine."""
    import openvino as ov

    with torch.no_grad():
        converted = ov.convert_model(torch.export.export(model, (images,)))
    return openvino.compiled(converted)


def openvino_call(compiled: Any, array: np.ndarray, answer: int = 0) -> Call:
    """Return a call of a compiled OpenVINO model, without copies, that gives one of its answers."""
    request = compiled.create_infer_request()

    def call() -> Any:
        request.infer([array], share_inputs=True, share_outputs=True)
        return request.output_tensors[answer].data

    return call


def onnxruntime_call(model: nn.Module, images: Tensor, answer: int = 0) -> Call:
    """Return a call of a network of any library in ONNX Runtime: torch's own exporter, static shape, our engine's settings."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.onnx"
        program = torch.export.export(model, (images,))
        torch.onnx.export(program, dynamo=True, optimize=True, verbose=False).save(str(path), external_data=True)  # type: ignore[union-attr]
        session = onnx.session(path)
    given, wanted = {session.get_inputs()[0].name: images.numpy()}, [session.get_outputs()[answer].name]
    return lambda: session.run(wanted, given)


class Products(nn.Module):
    """The linear layers of a network and its patch convolution, same shapes, nothing between: no network can be quicker.

    Each layer gets constant input of its own shape. One number of each product is given back: then none is optimised away, and no
    engine has to find memory for all of them at once.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        shapes: list[tuple[nn.Module, tuple[int, ...]]] = []
        hooks = []
        # qkv is applied to its weight directly, so its rows are those of proj.
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith("qkv"):
                hooks.append(module.register_forward_hook(_recorder(shapes, model, name)))
        with torch.inference_mode():
            model(images)
        for hook in hooks:
            hook.remove()
        self.layers = nn.ModuleList()
        self.rows: list[int] = []
        for layer, shape in shapes:
            assert isinstance(layer, nn.Linear)
            self.layers.append(nn.Linear(layer.in_features, layer.out_features))
            self.rows.append(int(np.prod(shape[:-1])))

    def inputs(self) -> list[Tensor]:
        """Return an input for every distinct (rows, width)."""
        wanted = dict.fromkeys((rows, layer.in_features) for rows, layer in zip(self.rows, self.layers, strict=True))  # type: ignore[union-attr]
        return [torch.randn(*shape) for shape in wanted]

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """Return a number of every layer's product."""
        by_shape = {tuple(x.shape): x for x in inputs}
        return [
            layer(by_shape[(rows, layer.in_features)])[:1, :1]  # type: ignore[index]
            for rows, layer in zip(self.rows, self.layers, strict=True)
        ]


def _recorder(shapes: list, model: nn.Module, name: str) -> Callable[..., None]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        if name.endswith("attn.proj"):
            shapes.append((model.get_submodule(name.removesuffix("proj") + "qkv"), tuple(inputs[0].shape)))
        shapes.append((module, tuple(inputs[0].shape)))

    return record


def floor_in_openvino(model: nn.Module, images: Tensor) -> Call:
    """Return a call of the products alone in OpenVINO."""
    import openvino as ov

    products = Products(model, images).eval()
    inputs = products.inputs()
    with torch.no_grad():
        compiled = openvino.compiled(ov.convert_model(torch.export.export(products, tuple(inputs))))
    request = compiled.create_infer_request()
    arrays = [x.numpy() for x in inputs]

    def call() -> Tensor:
        request.infer(arrays, share_inputs=True, share_outputs=True)
        return torch.empty(0)  # there is no answer to compare

    return call


def floor_compiled(model: nn.Module, images: Tensor) -> Call:
    """Return a call of the products alone in torch's own machine code, with the packed weights and kept memory of "compile"."""
    keep_memory()
    products = Products(model, images).eval()
    inputs = products.inputs()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(
            torch.export.export(products, tuple(inputs)),
            package_path=f"{folder}/products.pt2",
            inductor_configs={"freezing": True, "cpp.dynamic_threads": True},
        )
        package = torch._inductor.aoti_load_package(path)

    def call() -> Tensor:
        package(*inputs)
        return torch.empty(0)  # there is no answer to compare

    return call


def our_engine(name: str, model: nn.Module, spec: ModelSpec, cache: Path) -> nn.Module:
    """Return one of our engines; "folded" is the folded network in plain torch."""
    if name in ("torch", "folded", "compile"):
        keep_memory()  # as the commands do
    if name in ("torch", "folded"):
        return model if name == "torch" else folded(model)
    return OnDemandEngine(model, spec, {"compile": "aotinductor", "onnxruntime": "onnx"}.get(name, name), cache)


def spec_of(variant: Variant) -> ModelSpec:
    """Return a description with the usual preparation at the variant's size."""
    side = variant.img_size
    return ModelSpec(variant, Preprocessing((side, side)), name="benchmark")
