"""Compiled and exported networks answer as the eager ones, at sizes and batches they were not traced with."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch.export import Dim

from swinkit.models.classifier import SwinClassifier
from swinkit.models.swin import SwinBackbone
from swinkit.specs import Variant

SHAPES = {
    1: Variant(embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=4, img_size=32, num_classes=5),
    2: Variant(version=2, embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=4, img_size=32, num_classes=5),
}


def _maps(answer: object) -> list[torch.Tensor]:
    return [answer] if isinstance(answer, torch.Tensor) else list(answer)  # type: ignore[call-overload]


def _check(found: torch.nn.Module, model: torch.nn.Module, *sizes: tuple[int, ...]) -> None:
    """Compare two networks' answers to random images of some sizes."""
    with torch.no_grad():
        for size in sizes:
            images = torch.randn(*size)
            for a, b in zip(_maps(found(images)), _maps(model(images)), strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def _network(version: int, kind: str) -> torch.nn.Module:
    torch.manual_seed(version)
    model = SwinClassifier(SHAPES[version]) if kind == "classifier" else SwinBackbone(SHAPES[version])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["classifier", "backbone"])
def test_compiles_as_one_graph(version: int, kind: str) -> None:
    torch._dynamo.reset()
    model = _network(version, kind)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    _check(compiled, model, (1, 3, 64, 64), (2, 3, 96, 64))


@pytest.mark.parametrize("version", [1, 2])
def test_compiled_training_gathers_its_gradients(version: int) -> None:
    """Scattering them (``index_add``) is slow on accelerators, and there their order is another each time."""
    torch._dynamo.reset()
    model, graphs = _network(version, "classifier"), []

    def keep(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    images = torch.randn(2, 3, 72, 40)  # maps of 18 x 10 and 9 x 5: both are padded
    gradients = []
    for network in (model, compiled):
        model.zero_grad(set_to_none=True)
        network(images).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)
    backward = [str(node.target) for node in graphs[1].graph.nodes]
    assert any("index_select" in target for target in backward)
    assert not any("index_add" in target for target in backward)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["classifier", "backbone"])
def test_exports_with_dynamic_batch(version: int, kind: str) -> None:
    model = _network(version, kind)
    sizes = {0: Dim("batch", min=1, max=64)}
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, 3, 96, 64),), dynamic_shapes=(sizes,))
    _check(program.module(), model, (1, 3, 96, 64), (3, 3, 96, 64))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["classifier", "backbone"])
def test_exports_with_dynamic_height_and_width(version: int, kind: str) -> None:
    model = _network(version, kind)
    # A classifier's map must stay larger than its window: below, the authors' rule makes another graph.
    sizes = {0: Dim("batch", min=1, max=64), 2: 32 * Dim("h", min=2, max=64), 3: 32 * Dim("w", min=2, max=64)}
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, 3, 96, 128),), dynamic_shapes=(sizes,))
    _check(program.module(), model, (1, 3, 64, 64), (3, 3, 160, 224))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", ["classifier", "backbone"])
def test_any_size_without_memory_of_the_last(version: int, kind: str) -> None:
    model = _network(version, kind)
    first = torch.randn(2, 3, 40, 52)
    with torch.no_grad():
        before = _maps(model(first))
        for size in ((1, 1), (7, 90), (33, 32), (64, 31)):
            answer = _maps(model(torch.randn(1, 3, *size)))
            assert all(item.isfinite().all() for item in answer)
            if kind == "backbone":
                for item, stride in zip(answer, model.strides, strict=True):
                    assert item.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))
        assert all(torch.equal(a, b) for a, b in zip(before, _maps(model(first)), strict=True))
        alone = _maps(model(first[:1]))
    for a, b in zip(before, alone, strict=True):
        torch.testing.assert_close(a[:1], b, atol=1e-5, rtol=0)
