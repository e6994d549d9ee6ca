"""An exported graph, rewritten for machine code: operations of our own where they are faster."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from swinkit.engines.kernels import Operation, close_enough, companion, compiled, for_layers

VECTOR = 16  # floats; the width of a head must be a multiple of the vectors of any processor
WIDE, DEEP = (64, 96), 32  # the outputs of a linear layer must be multiples of one of these, its inputs of this
LEAST = 96  # inputs from which fewer multiplications save more than the sums cost
aten = torch.ops.aten
VIEWS = (aten.reshape.default, aten.view.default, aten.flatten.using_ints, aten.unflatten.int)


def rewrite(module: fx.GraphModule, folder: Path, example: Tensor | None = None) -> None:
    """Rewrite a graph in place; the libraries that it then calls are written into the folder.

    With an example of its input, layers whose numbers products of bytes would round too much stay as they are.
    """
    attentions = [node for node in module.graph.nodes if _suits(node)]
    layers = [node for node in module.graph.nodes if _pays(node, module)]
    linear = for_layers()
    if linear == "tiles" and example is not None:
        layers = close_enough(module, layers, example, lambda node: _constant(node.args[1], module))
    operations = compiled([name for name, found in (("attend", attentions), (linear, layers)) if found], folder)
    if attentions:
        _own_attention(module, attentions, operations["attend"])
    if layers:
        _own_linear(module, layers, operations[linear])


def _shape(node: Any) -> Sequence[Any]:
    return node.meta["val"].shape


def _constant(node: Any, module: fx.GraphModule) -> Any:
    """Return what a node gives in every call; None where that hangs on the input."""
    if node.op == "get_attr":
        return attrgetter(node.target)(module)
    values = {part: _constant(part, module) for part in node.all_input_nodes}
    if node.op != "call_function" or not values or any(value is None for value in values.values()):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    with torch.no_grad():
        return node.target(*args, **kwargs)


def _pays(node: fx.Node, module: fx.GraphModule) -> bool:
    """Say whether a node is a linear layer for which ``linear.cpp`` and ``tiles.cpp`` are made: of many tokens, and wide."""
    if node.target is not aten.linear.default or len(_shape(node)) < 3 or node.meta["val"].dtype != torch.float32:
        return False
    columns, inner = _shape(node.args[1])
    whole = inner % DEEP == 0 and any(columns % wide == 0 for wide in WIDE)
    return whole and inner >= LEAST and all(_constant(part, module) is not None for part in node.args[1:] if part is not None)


def _one_of_several(module: fx.GraphModule, layers: Sequence[fx.Node]) -> list[fx.Node]:
    """Let layers of the same input, as queries, keys and values are, be one layer; return what layers there are then."""
    graph, by_input = module.graph, dict[Any, list[fx.Node]]()
    for node in layers:
        by_input.setdefault(node.args[0], []).append(node)
    left = []
    for i, (x, found) in enumerate(by_input.items()):
        if len(found) == 1 or any(len(node.args) < 3 or node.args[2] is None for node in found):
            left += found
            continue
        weight, bias = (torch.cat([_constant(node.args[k], module).detach() for node in found]) for k in (1, 2))
        module.register_buffer(f"weights_{i}", weight)
        module.register_buffer(f"biases_{i}", bias)
        with graph.inserting_before(found[0]):
            one = graph.call_function(aten.linear.default, (x, graph.get_attr(f"weights_{i}"), graph.get_attr(f"biases_{i}")))
            one.meta["val"] = found[0].meta["val"].new_empty((*_shape(found[0])[:-1], len(bias)))
            begin = 0
            for node in found:
                end = begin + _shape(node)[-1]
                part = graph.call_function(aten.slice.Tensor, (one, len(_shape(node)) - 1, begin, end))
                part.meta["val"], begin = node.meta["val"], end
                node.replace_all_uses_with(part)
        for node in found:
            graph.erase_node(node)
        left.append(one)
    return left


def _before(x: fx.Node) -> tuple[fx.Node, float | None, fx.Node | None]:
    """Return the tensor that a layer's input is made of, and the eps of the norm and the index of the gather that make it."""
    eps, index = None, None
    if x.target is aten.index_select.default and len(x.users) == 1 and len(_shape(x)) == 3:
        source, axis, wanted = x.args
        if axis == 1 and isinstance(source, fx.Node) and isinstance(wanted, fx.Node) and wanted.op == "get_attr":
            x, index = source, wanted
    if x.target is aten.layer_norm.default and len(x.users) == 1:
        source, shape, *rest = x.args
        if isinstance(source, fx.Node) and shape == [_shape(x)[-1]] and rest[:2] in ([], [None, None]):
            x, eps = source, rest[2] if len(rest) > 2 else 1e-5
    gather = x
    while gather.target in VIEWS and len(gather.users) == 1:  # tokens side by side, as a merging has them
        gather = gather.args[0]  # type: ignore[assignment]
    if index is None and gather is not x and gather.target is aten.index_select.default and len(gather.users) == 1:
        source, axis, wanted = gather.args
        parts, over = divmod(_shape(x)[-1], _shape(gather)[-1])
        whole = over == 0 and len(_shape(gather)) == len(_shape(x)) == 3 and _shape(gather)[1] == parts * _shape(x)[1]
        if axis == 1 and whole and isinstance(source, fx.Node) and isinstance(wanted, fx.Node) and wanted.op == "get_attr":
            x, index = source, wanted
    return x, eps, index  # type: ignore[return-value]


def _own_linear(module: fx.GraphModule, layers: Sequence[fx.Node], linear: Operation) -> None:
    """Let a graph call our own operation for layers, with the norm and gather before each and the GELU or residual behind.

    Two layers with a GELU between are one call.
    """
    graph, pack, mlp = module.graph, companion(linear, "pack"), companion(linear, "mlp")
    first: dict[Any, tuple[Any, ...]] = {}  # of layers with a GELU: all but what is added
    for i, node in enumerate(_one_of_several(module, layers)):
        x, weight, bias = (*node.args, None)[:3]
        assert isinstance(x, fx.Node)
        source, eps, index = _before(x)
        if index is not None:  # a row of it names the tokens of a row of the layer's input
            module.register_buffer(f"index_{i}", _constant(index, module).reshape(_shape(node)[1], -1))
        columns, last, added, curved = _shape(node)[-1], node, None, False
        follower = next(iter(node.users)) if len(node.users) == 1 else None
        if follower is not None and follower.target is aten.gelu.default and follower.kwargs.get("approximate", "none") == "none":
            last, curved = follower, True
        elif follower is not None and follower.target is aten.add.Tensor and not follower.kwargs:
            others = [part for part in follower.args if isinstance(part, fx.Node) and part is not node]
            if len(others) == 1 and _shape(others[0]) == _shape(node) and others[0].meta["val"].dtype == torch.float32:
                last, added = follower, others[0]
        module.register_buffer(f"packed_{i}", pack(_constant(weight, module).detach()))
        with graph.inserting_before(last):
            index = None if index is None else graph.get_attr(f"index_{i}")
            packed = graph.get_attr(f"packed_{i}")
            if x in first and len(x.users) == 1 and not curved:
                *one, eps, index = first[x]
                ours = graph.call_function(mlp, (*one, packed, columns, bias, added, eps, index))
            else:
                ours = graph.call_function(linear, (source, packed, columns, bias, added, curved, eps, index))
        ours.meta["val"] = last.meta["val"]
        if curved:
            first[ours] = (source, packed, columns, bias, eps, index)
        last.replace_all_uses_with(ours)
        graph.eliminate_dead_code()  # so that users are counted right
    module.recompile()


def _suits(node: fx.Node) -> bool:
    """Say whether a node is attention as ``attention.cpp`` does it; a backbone of another library may have other forms."""
    if node.target is not aten.scaled_dot_product_attention.default or len(node.args) != 4:
        return False
    if not all(isinstance(part, fx.Node) for part in node.args):
        return False
    query, key, value, bias = (part.meta["val"] for part in node.args if isinstance(part, fx.Node))
    if query.ndim != 4 or bias.ndim != 4 or bias.dtype != torch.float32 or node.kwargs.get("enable_gqa"):
        return False
    heads, tokens, width = query.shape[1:]
    alike = all(part.shape[1:] == query.shape[1:] for part in (key, value))
    return alike and width % VECTOR == 0 and bias.shape[1:] == (heads, tokens, tokens)


def _own_attention(module: fx.GraphModule, found: Sequence[fx.Node], attend: Operation) -> None:
    """Let a graph call ``attention.cpp`` for attentions with a bias."""
    graph = module.graph
    for i, node in enumerate(found):
        query, key, value, bias = node.args
        _, heads, tokens, width = _shape(query)
        back = _way_back(node)
        places = None if back is None else _places(attrgetter(back.args[2].target)(module), _shape(back.args[0])[1], tokens)
        if places is None:
            back, places = None, torch.arange(tokens)
        module.register_buffer(f"places_{i}", places)
        rows = tokens if back is None else _shape(back)[1]
        with graph.inserting_before(node):
            bias = graph.call_function(aten.contiguous.default, (_once(bias),))  # a constant, so done when compiled
            scale = node.kwargs.get("scale") or width**-0.5
            ours = graph.call_function(attend, (query, key, value, bias, scale, graph.get_attr(f"places_{i}"), rows))
            ours.meta["val"] = (back or node).meta["val"]
            if back is None:
                ours = graph.call_function(aten.unflatten.int, (ours, 2, [heads, width]))
                ours = graph.call_function(aten.transpose.int, (ours, 1, 2))
        (back or node).replace_all_uses_with(ours)
    graph.eliminate_dead_code(lambda node: node.is_impure() and node not in found)  # torch's own might drop out at random
    module.recompile()


def _once(bias: Any) -> Any:
    """Return a bias before it was repeated for the batch, for the operation does that by itself."""
    once = bias
    while once.target in (*VIEWS, aten.to.dtype) and once.args[0].meta["val"].dtype == torch.float32:
        once = once.args[0]
    repeated = once.target is aten.expand.default and _shape(once.args[0])[1:] == _shape(bias)[1:]
    return once.args[0] if repeated else bias


def _way_back(attention: fx.Node) -> Any:
    """Return the gather that puts the windows behind an attention together again; None if there is none, or others look on."""
    node: Any = attention
    while len(node.users) == 1:
        before, node = node, next(iter(node.users))
        if before is attention:
            if node.target is not aten.transpose.int or node.args[1:] != (1, 2):
                return None
        elif node.target is aten.index_select.default and node.args[:2] == (before, 1) and node.args[2].op == "get_attr":
            _, heads, _, width = _shape(attention)
            shape = _shape(before)
            return node if len(shape) == 3 and isinstance(shape[1], int) and shape[2] == heads * width else None
        elif node.target not in VIEWS:
            return None
    return None


def _places(index: Tensor, many: int, tokens: int) -> Tensor | None:
    """Return the place in a map of each of the ``many`` tokens that ``index`` takes it from, ``len(index)`` of those it leaves.

    None where they are no windows of so many ``tokens``, or a token is taken twice.
    """
    places = torch.full((many,), len(index))
    places[index] = torch.arange(len(index))
    return places if many % tokens == 0 and int((places < len(index)).sum()) == len(index) else None
