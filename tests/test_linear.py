"""The linear layers that machine code brings of its own, compared in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import kernel_check
from tests.test_engines import SHAPE, largest, maps, shaken
from torch import Tensor, nn
from torch.nn import functional as F

from swinkit.engines import kernels, rewriting
from swinkit.engines.exported import ExportedEngine
from swinkit.engines.kernels import Operation
from swinkit.export import export_network
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import ModelSpec, Preprocessing

ROWS = st.one_of(st.integers(1, 450), st.sampled_from([49, 98, 195, 196, 197, 392, 393, 1568]))
INNER = st.sampled_from([32, 96, 128, 192, 352])
COLUMNS = st.sampled_from([64, 96, 128, 192, 288, 320])


@pytest.fixture(scope="module", params=["linear", "tiles"])
def linear(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Operation:
    if kernels.why_not() is not None:
        pytest.skip("needs what the kernels are built with")
    if request.param == "tiles" and kernels.for_layers() != "tiles":
        if torch.backends.cpu.get_cpu_capability() != "AVX512":
            pytest.skip("needs vectors as wide as a row of a tile (AVX-512)")
        return kernel_check.operation("tiles", tmp_path_factory.mktemp("linear"))  # the unit's instructions in plain C++
    return kernels.compiled([request.param], tmp_path_factory.mktemp("linear"))[request.param]


@pytest.fixture(scope="module")
def mlp(linear: Operation) -> Operation:
    return kernels.companion(linear, "mlp")


@pytest.fixture(scope="module")
def pack(linear: Operation) -> Operation:
    return kernels.companion(linear, "pack")


@pytest.fixture
def chosen(linear: Operation, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the operation, which graphs then call."""
    name = linear.__name__.partition("_")[0]
    if name == "tiles" and kernels.for_layers() != "tiles":
        pytest.skip("needs a processor that multiplies tiles (AMX)")
    monkeypatch.setattr(rewriting, "for_layers", lambda: name)
    return name


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def close(found: Tensor, wanted: Tensor) -> None:
    """Numbers of size 1: sums of seven products round a few times as much as one sum of products."""
    torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=1e-5)


@given(rows=ROWS, inner=INNER, columns=COLUMNS, offset=st.booleans(), residual=st.booleans(), curved=st.booleans())
@settings(max_examples=60, deadline=None)
def test_it_is_a_linear_layer(
    linear: Operation, pack: Operation, rows: int, inner: int, columns: int, offset: bool, residual: bool, curved: bool
) -> None:
    generator = torch.Generator().manual_seed(rows * inner + columns)
    x, weight = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator) / inner**0.5
    bias = torch.randn(columns, generator=generator) if offset else None
    added = torch.randn(rows, columns, generator=generator) if residual else None
    with torch.inference_mode():
        found = linear(x, pack(weight), columns, bias, added, curved, None, None)
    wanted = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    wanted = F.gelu(wanted) if curved else wanted
    close(found, wanted if added is None else wanted + added)


@pytest.mark.parametrize(("inner", "most"), [(32, 2.5), (384, 1.3), (1536, 1.5), (3072, 1.5)])
@pytest.mark.parametrize("outlier", [False, True])
def test_tiles_round_nearly_as_float32_does(linear: Operation, pack: Operation, inner: int, most: float, outlier: bool) -> None:
    """From 384 inputs on half as much again at most; where one number of each row is fifty times larger, five times as much."""
    if not linear.__name__.startswith("tiles"):
        pytest.skip("only of products of bytes the guide says so")
    generator = torch.Generator().manual_seed(inner)
    x, weight = torch.randn(200, inner, generator=generator), torch.randn(96, inner, generator=generator) / inner**0.5
    if outlier:
        x[:, 5] *= 50
    wanted = x.double() @ weight.double().T
    with torch.inference_mode():
        found, plain = linear(x, pack(weight), 96, None, None, False, None, None), F.linear(x, weight)
    ours, theirs = ((answer.double() - wanted).square().mean().sqrt() for answer in (found, plain))
    assert ours < (5 if outlier else most) * theirs


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_rows_of_any_size_and_of_no_number(linear: Operation, pack: Operation, size: float) -> None:
    torch.manual_seed(0)
    x, weight, bias = size * torch.randn(40, 96), torch.randn(64, 96) / 10, size * torch.randn(64)
    x[6:8], x[10, 3], x[20, 95] = 0, torch.nan, -torch.inf
    with torch.inference_mode():
        found = linear(x, pack(weight), 64, bias, None, False, None, None)
    wanted = F.linear(x.double(), weight.double(), bias.double())
    for row in (10, 20):
        assert not found[row].isfinite().any()
    rows = [row for row in range(40) if row not in (10, 11, 20, 21)]  # neighbours may be touched
    torch.testing.assert_close(found[rows].double() / size, wanted[rows] / size, atol=3e-6, rtol=1e-5)
    assert torch.equal(found[6], bias)


@given(rows=st.one_of(ROWS, st.integers(400, 1700)), inner=INNER, hidden=COLUMNS, residual=st.booleans())
@settings(max_examples=20, deadline=None)
def test_two_are_an_mlp(
    linear: Operation, mlp: Operation, pack: Operation, rows: int, inner: int, hidden: int, residual: bool
) -> None:
    generator = torch.Generator().manual_seed(rows * inner + hidden)
    layers = nn.Linear(inner, hidden), nn.Linear(hidden, 96)
    x, added = torch.randn(1, rows, inner, generator=generator), torch.randn(1, rows, 96, generator=generator)
    with torch.inference_mode():
        for layer in layers:
            layer.weight.normal_(0, layer.in_features**-0.5, generator=generator)
        (one, one_bias), (two, two_bias) = ((layer.weight, layer.bias) for layer in layers)
        found = mlp(x, pack(one), hidden, one_bias, pack(two), 96, two_bias, added if residual else None, None, None)
        first, second = (layer.double() for layer in layers)
        close(found, second(F.gelu(first(x.double()))) + (added if residual else 0))


@given(
    batch=st.integers(1, 4),
    tokens=st.integers(1, 200),
    taken=st.integers(1, 300),
    inner=INNER,
    parts=st.sampled_from([1, 2, 4]),
    eps=st.sampled_from([None, 1e-5, 0.3]),
    gathered=st.booleans(),
    twice=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_tokens_are_gathered_and_normalised_before(
    linear: Operation,
    mlp: Operation,
    pack: Operation,
    batch: int,
    tokens: int,
    taken: int,
    inner: int,
    parts: int,
    eps: float | None,
    gathered: bool,
    twice: bool,
) -> None:
    generator = torch.Generator().manual_seed(tokens * inner + taken)
    parts = parts if gathered else 1
    x, weight = (
        3 + torch.randn(batch, tokens, inner // parts, generator=generator),
        torch.randn(96, inner, generator=generator) / inner**0.5,
    )
    x, second = x if eps else x - 3, torch.randn(64, 96, generator=generator) / 10
    index = torch.randint(0, tokens, (taken, parts), generator=generator) if gathered else None
    wanted = x.double() if index is None else x.double()[:, index].flatten(2)
    wanted = F.linear(wanted if eps is None else F.layer_norm(wanted, (inner,), eps=eps), weight.double())
    with torch.inference_mode():
        if twice:
            close(mlp(x, pack(weight), 96, None, pack(second), 64, None, None, eps, index), F.gelu(wanted) @ second.double().T)
        else:
            close(linear(x, pack(weight), 96, None, None, False, eps, index), wanted)


def test_any_number_of_threads_answers_the_same(linear: Operation, mlp: Operation, pack: Operation, threads: int) -> None:
    torch.manual_seed(0)
    x, one, two = torch.randn(3, 401, 96), torch.randn(192, 96) / 10, torch.randn(96, 192) / 14
    with torch.inference_mode():
        middle = linear(x, pack(one), 192, None, None, True, None, None)
        close(middle, F.gelu(x.double() @ one.double().T))
        close(
            mlp(x, pack(one), 192, None, pack(two), 96, None, x, None, None),
            x + F.gelu(x.double() @ one.double().T) @ two.double().T,
        )


def test_a_row_disturbs_its_neighbour_at_most(linear: Operation, pack: Operation) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 49, 96), torch.randn(64, 96)
    with torch.inference_mode():
        before = linear(x, pack(weight), 64, None, None, False, None, None)
        x[2, 20] = torch.inf  # row 118, which goes with 119
        after = linear(x, pack(weight), 64, None, None, False, None, None)
    changed = (before != after).any(2).nonzero()
    assert {(2, 20)} <= {tuple(place) for place in changed.tolist()} <= {(2, 20), (2, 21)}


@pytest.mark.parametrize("size", [1e-30, 1e-3, 30.0, 1e4])
def test_gelu_of_any_size(linear: Operation, pack: Operation, size: float) -> None:
    x = torch.cat((torch.linspace(-8, 8, 96), torch.tensor([0.0, 5.4999, 5.5001, -5.4999, -5.5001, 90.0]).repeat(16))) * size
    with torch.inference_mode():
        found = linear(torch.zeros(1, 96), pack(torch.zeros(192, 96)), 192, x, None, True, None, None)
    wanted = F.gelu(x.double())[None]
    torch.testing.assert_close(found.double(), wanted, atol=1e-6 if size > 1e-3 else 1e-7 * size, rtol=3e-7)


def test_what_it_cannot_do_it_refuses(linear: Operation, mlp: Operation, pack: Operation) -> None:
    x, packed = torch.randn(2, 5, 96), pack(torch.randn(64, 96) / 10)
    assert linear(x, packed, 64, None, None, False, None, None).shape == (2, 5, 64)
    assert linear(x[:, :0], packed, 64, None, None, False, None, None).shape == (2, 0, 64)
    assert mlp(x[:, :0], packed, 64, None, pack(torch.randn(96, 64)), 96, None, x[:, :0], None, None).shape == (2, 0, 96)
    strided = x.transpose(0, 1)
    torch.testing.assert_close(
        linear(strided, packed, 64, None, None, False, None, None),
        linear(x, packed, 64, None, None, False, None, None).transpose(0, 1),
    )
    for weight in (torch.randn(64, 80), torch.randn(72, 96), torch.randn(64), torch.randn(2, 64, 96)):
        with pytest.raises(RuntimeError):
            pack(weight)
    for wrong in (
        (x, packed, 128, None, None, False, None, None),  # other columns
        (x, packed, 0, None, None, False, None, None),
        (x, packed, -64, None, None, False, None, None),
        (x[..., :64], packed, 64, None, None, False, None, None),  # other inputs
        (torch.randn(2, 5, 192), pack(torch.randn(128, 96)), 64, None, None, False, None, None),  # as many weights
        (x[..., :0], packed, 64, None, None, False, None, None),
        (torch.tensor(1.0), packed, 64, None, None, False, None, None),
        (x.double(), packed, 64, None, None, False, None, None),
        (x, packed.double(), 64, None, None, False, None, None),
        (x, packed.mT, 64, None, None, False, None, None),
        (x, packed, 64, torch.randn(65), None, False, None, None),
        (x, packed, 64, torch.randn(64).double(), None, False, None, None),
        (x, packed, 64, None, torch.randn(2, 5, 65), False, None, None),
        (x, packed, 64, None, torch.randn(5, 64), False, None, None),
        (x, packed, 64, None, None, False, None, torch.tensor([[0], [5]])),  # maps have five tokens
        (x, packed, 64, None, None, False, None, torch.tensor([[-1]])),
        (x, packed, 64, None, None, False, None, torch.tensor([1])),
        (x, packed, 64, None, None, False, None, torch.tensor([[1]], dtype=torch.int32)),
        (x, packed, 64, None, None, False, None, torch.arange(0)[:, None]),
        (x[0], packed, 64, None, None, False, None, torch.tensor([[1]])),
        (x, packed, 64, None, torch.randn(2, 5, 64), False, None, torch.tensor([[1]])),
        (x[..., :48].contiguous(), packed, 64, None, None, False, None, None),  # half a row, and none beside it
        (x[..., :48].contiguous(), packed, 64, None, None, False, None, torch.tensor([[1], [0], [1]])),
        (x[..., :40].contiguous(), packed, 64, None, None, False, None, torch.tensor([[1, 0]])),
    ):
        with pytest.raises(RuntimeError):
            linear(*wrong)
    with pytest.raises(RuntimeError):
        mlp(x, packed, 64, None, packed, 64, None, None, None, None)  # the second is made for 96 inputs


class Layers(nn.Module):
    """Linear layers as they are replaced, and as they are not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.narrow, self.odd = (nn.Linear(*sides) for sides in ((96, 192), (192, 96), (64, 64), (96, 80)))
        self.free, self.weighted = nn.LayerNorm(96, eps=1e-3, elementwise_affine=False), nn.LayerNorm(96)
        self.four = nn.Linear(384, 192)
        self.wide, self.apart = nn.LayerNorm(384, elementwise_affine=False), nn.LayerNorm(384)
        self.register_buffer("index", torch.tensor([6, 0, 2, 2]))
        self.register_buffer("pictures", torch.tensor([1, 0]))

    def forward(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        gathered, normed = self.free(x).index_select(1, self.index), self.free(x + 1)
        return (
            self.two(F.gelu(self.one(self.free(x)))) + x,  # an mlp with a norm and a residual
            self.one(gathered),  # three layers of one input, and all that is before it
            self.odd(normed),
            self.one(normed),  # the norm is wanted elsewhere
            self.one(self.weighted(x)),
            self.one(x.index_select(0, self.pictures)),  # of pictures, not tokens
            self.four(self.wide(x.index_select(1, self.index).reshape(-1, 1, 384))),  # four tokens side by side
            self.four(self.apart(x.index_select(1, self.index).reshape(-1, 1, 384))),  # the norm is more than one
            self.four(x.index_select(1, self.index).reshape(-1, 1, 384)),
        )


class Followed(Layers):
    """The same with what follows them."""

    def forward(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        middle = self.one(x * 2)
        return (
            self.two(F.gelu(middle)),  # the GELU's layer is wanted elsewhere
            middle,
            F.gelu(self.one(x * 3), approximate="tanh"),
            self.two(self.one(x * 4)).add(x[:1]),  # the sum is of another shape than what is added
            x.add(self.two(self.one(x * 5)), alpha=2),
            F.linear(x, weight),  # no constant
            self.narrow(x[..., :64]),
            self.odd(x),
            self.one(x[:, 0]),  # of no tokens
        )


@pytest.mark.parametrize(
    ("network", "twice", "ours", "theirs"),
    [
        (Layers(), 1, [(0.001, False), (0.001, True), (1e-5, True), (None, True), *[(None, False)] * 4], 1),
        (Followed(), 0, [(None, False)] * 7, 4),
    ],
)
def test_a_graph_calls_it_where_it_suits(
    chosen: str, network: nn.Module, twice: int, ours: list[tuple[float | None, bool]], theirs: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    example = (torch.randn(3, 7, 96), torch.randn(64, 96))
    program = torch.export.export(network.eval(), example, dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)}, {}))
    module = program.module()
    rewriting.rewrite(module, tmp_path)
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    found = [node for node in calls if f"swinkit.{chosen}" in str(node.target)]
    assert sum("_mlp" in str(node.target) for node in found) == twice
    assert sorted(((node.args[-2], node.args[-1] is not None) for node in found), key=str) == sorted(ours, key=str)
    assert sum(str(node.target) == "aten.linear.default" for node in calls) == theirs
    with torch.inference_mode():
        for answer, wanted in zip(module(*example), network(*example), strict=True):
            torch.testing.assert_close(answer, wanted, atol=1e-5, rtol=1e-5)


def test_layers_of_one_input_become_one(chosen: str, tmp_path: Path) -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(96, 96), nn.Linear(96, 96), nn.Linear(96, 192)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            x = F.layer_norm(x, (96,)).index_select(1, torch.tensor([3, 1, 0]))
            return self.q(x), F.gelu(self.k(x)), self.v(x) + 1

    network, x = Three().eval(), torch.randn(2, 5, 96)
    module = torch.export.export(network, (x,)).module()
    rewriting.rewrite(module, tmp_path)
    found = [node for node in module.graph.nodes if f"swinkit.{chosen}" in str(node.target)]
    assert [node.args[2] for node in found] == [384]
    with torch.inference_mode():
        for answer, wanted in zip(module(x), network(x), strict=True):
            torch.testing.assert_close(answer, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_machine_code_calls_it(version: int, chosen: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    shape = {"version": version, "embed_dim": 96, "depths": (2,), "num_heads": (3,), "img_size": 32}
    network = shaken(SwinClassifier(SHAPE.changed(**shape)))
    assert isinstance(network, SwinClassifier)
    export_network(network, ModelSpec(network.variant, Preprocessing((32, 32))), tmp_path / "e", "aotinductor")
    assert [*tmp_path.glob(f"e/32x32/{chosen}_*.so")]
    engine, pixels = ExportedEngine(tmp_path / "e", trusted=True), torch.rand(5, 3, 32, 32)
    engine(pixels)  # its first floats are proved first
    with torch.profiler.profile() as profiler:
        found = engine(pixels)
    calls = [event.key for event in profiler.key_averages() for _ in range(event.count) if f"swinkit::{chosen}_" in event.key]
    assert sum(name.endswith("_mlp") for name in calls) == 2
    assert len(calls) == 2 * 3  # query, key and value, the projection, the MLP
    with torch.inference_mode():
        assert largest(maps(found), maps(network.double()(pixels.double()))) < 1e-5
