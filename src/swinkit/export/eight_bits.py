"""What NNCF leaves to do in an OpenVINO graph of eight bits: the same values, with less to move between its products."""

from __future__ import annotations

from typing import Any

import numpy as np

from swinkit.engines.exported import has
from swinkit.engines.openvino import EXTRA
from swinkit.extras import need

LEVELS = 256


def quicken(model: Any, size: tuple[int, int]) -> None:
    """Rewrite an ``openvino.Model`` that NNCF has quantised, in place; what is not as expected stays as it is.

    Args:
        model: its input is pixels, (B, C, H, W) uint8.
        size: (H, W).
    """
    round_means_apart(model)
    if has("amx_int8"):
        attend_exactly(model)
    gather_eight_bits(model)
    suit_processor(model)
    turn_by_gathers(model)
    multiply_patches(model, size)


def gather_eight_bits(model: Any) -> None:
    """Let tokens be rounded before they are put in window order instead of after: a quarter of the bytes moved.

    NNCF rounds in front of a product, so what stands between a gather and it (SmoothQuant's factors of channels, the rounding
    itself) goes in front of the gather, where its constants are the same for all tokens.
    """
    for gather in _all(model, "Gather"):
        if gather.get_output_partial_shape(0).rank.get_length() != 3:
            continue
        source, moved, last = gather.input_value(0), [], gather
        while len(targets := _targets(last)) == 1:
            node = targets[0].get_node()
            if node.get_type_name() not in {"Multiply", "FakeQuantize"} or not _of_all_tokens(node, targets[0].get_index()):
                break
            moved.append((node, targets[0].get_index()))
            last = node
        if moved and last.get_type_name() == "FakeQuantize":
            first, place = moved[0]
            first.input(place).replace_source_output(source)
            gather.input(0).replace_source_output(last.output(0))
            for target in targets:
                target.replace_source_output(gather.output(0))
    model.validate_nodes_and_infer_types()


def suit_processor(model: Any) -> None:
    """Let the bytes that enter products with weights be those that this processor multiplies.

    Ranges that lie evenly around zero are -128..127 steps or -127..128 steps of one grid. OpenVINO rounds the former to signed
    bytes and the latter to 0..255; AMX multiplies the former as they are, VNNI the latter, all else costs corrections. The choice
    stands in the file: its grid does not depend on the processor that opens it.
    """
    ops = need("openvino.opset13", EXTRA)
    wanted = 128 if has("amx_int8") else 127
    for rounding in _all(model, "FakeQuantize"):
        if rounding.get_attributes()["levels"] != LEVELS or not _one_for_all(rounding) or not _enters_weights(rounding):
            continue
        low, high, *after = (rounding.input_value(i).get_node().data.astype(np.float64).item() for i in range(1, 5))
        step = (high - low) / (LEVELS - 1)
        below = round(-low / step) if step > 0 else 0
        if after != [low, high] or below not in {127, 128} or below == wanted or abs(low + below * step) > 0.05 * step:
            continue
        for place in range(1, 5):
            moved = rounding.input_value(place).get_node().data + np.float32((below - wanted) * step)
            rounding.input(place).replace_source_output(ops.constant(moved).output(0))
    model.validate_nodes_and_infer_types()


def attend_exactly(model: Any) -> None:
    """Let queries and keys enter attention as products leave them: AMX is slow to get ready for a window, not to multiply it."""
    for attention in _all(model, "ScaledDotProductAttention"):
        for place in (0, 1):
            node = attention.input_value(place).get_node()
            while node.get_type_name() in {"Reshape", "Transpose"} and len(_targets(node)) == 1:
                node = node.input_value(0).get_node()
            if node.get_type_name() == "FakeQuantize" and len(_targets(node)) == 1:
                _targets(node)[0].replace_source_output(node.input_value(0))
    model.validate_nodes_and_infer_types()


def round_means_apart(model: Any) -> None:
    """Let means be told apart from the rounding that follows, by a Reshape.

    OpenVINO (2026.4) makes one operation of a mean that drops its axis, factors of channels (SmoothQuant's) and a rounding, and
    takes the factors of wrong channels in it: another answer for every place in the batch.
    """
    ops = need("openvino.opset13", EXTRA)
    for mean in _all(model, "ReduceMean"):
        axes, dims = _values(mean.input_value(1)), list(mean.get_output_partial_shape(0))[1:]
        if mean.get_attributes()["keep_dims"] or axes is None or axes.min() < 1 or any(dim.is_dynamic for dim in dims):
            continue
        after = _targets(mean)
        kept = ops.reduce_mean(mean.input_value(0), mean.input_value(1), True)
        kept = ops.reshape(kept, _constant([0, *(dim.get_length() for dim in dims)]), True)
        for target in after:
            target.replace_source_output(kept.output(0))
    model.validate_nodes_and_infer_types()


def turn_by_gathers(model: Any) -> None:
    """Let gathers do what attention's transposes do: OpenVINO turns bytes one by one, and gathers many at once.

    The answer of all heads is rounded inside attention and taken from there by the gather that follows, 32 channels of a head
    at a time (SmoothQuant's factors go to the values); keys are turned by a gather of their own.
    """
    for attention in _all(model, "ScaledDotProductAttention"):
        if attention.get_output_partial_shape(0).rank.get_length() == 4:
            dims = list(attention.get_output_partial_shape(0))[1:]
            if all(dim.is_static for dim in dims):
                heads, tokens, width = (dim.get_length() for dim in dims)
                _gather_answer(attention, heads, tokens, width)
                _gather_keys(attention, heads, tokens, width)
    model.validate_nodes_and_infer_types()


def multiply_patches(model: Any, size: tuple[int, int]) -> None:
    """Let patches be cut out of a picture's bytes and multiplied: a convolution gives maps, to be turned to tokens."""
    ops = need("openvino.opset13", EXTRA)
    for convolution in _all(model, "Convolution"):
        path = [convolution]
        while path[-1].get_type_name() != "Transpose" and len(targets := _targets(path[-1])) == 1:
            path.append(targets[0].get_node())
        rounding, weights = (convolution.input_value(i).get_node() for i in (0, 1))
        source = _above(rounding, "FakeQuantize", "Convert", "Parameter")
        grid = _above(weights, "Multiply", "Convert", "Constant")
        if [node.get_type_name() for node in path] != ["Convolution", "Add", "Reshape", "Transpose"] or None in (source, grid):
            continue
        bias = [values for i in (0, 1) if (values := _flat(path[1].input_value(i))) is not None]
        spread, order = _values(weights.input_value(1)), _values(path[3].input_value(1))
        width, channels, *patch = grid.get_output_shape(0)
        options = convolution.get_attributes()
        steps = list(options["strides"])
        plain = not any((*options["pads_begin"], *options["pads_end"])) and set(options["dilations"]) == {1}
        if len(bias) != 1 or spread is None or spread.size != width or order is None or order.tolist() != [0, 2, 1]:
            continue
        if not plain or len(patch) != 2 or steps != patch or any(side % step for side, step in zip(size, steps, strict=True)):
            continue
        down, across = (side // step for side, step in zip(size, steps, strict=True))
        cut = ops.reshape(source, _constant([0, channels, down, steps[0], across, steps[1]]), True)
        cut = ops.transpose(cut, _constant([0, 2, 4, 1, 3, 5]))
        cut = ops.convert(ops.reshape(cut, _constant([0, down * across, channels * steps[0] * steps[1]]), True), "f32")
        rounded = ops.fake_quantize(cut, *(rounding.input_value(i) for i in range(1, 5)), rounding.get_attributes()["levels"])
        rows = ops.convert(ops.constant(np.ascontiguousarray(grid.data.reshape(width, -1))), "f32")
        rows = ops.multiply(rows, ops.constant(spread.reshape(width, 1)))
        tokens = ops.add(ops.matmul(rounded, rows, False, True), ops.constant(bias[0].reshape(1, 1, width)))
        for target in _targets(path[3]):
            target.replace_source_output(tokens.output(0))
    model.validate_nodes_and_infer_types()


def _gather_answer(attention: Any, heads: int, tokens: int, width: int) -> None:
    """Replace (B*N, heads, T, D) -> Transpose -> Reshape -> [Multiply] -> FakeQuantize -> Gather of tokens, if that follows.

    Without factors NNCF rounds first.
    """
    ops = need("openvino.opset13", EXTRA)
    path = [attention]
    while path[-1].get_type_name() != "Gather" and len(targets := _targets(path[-1])) == 1:
        path.append(targets[0].get_node())
    kinds = [node.get_type_name() for node in path[1:]]
    if [kind for kind in kinds if kind != "Reshape"] not in (
        ["FakeQuantize", "Transpose", "Gather"],
        ["Transpose", "FakeQuantize", "Gather"],
        ["Transpose", "Multiply", "FakeQuantize", "Gather"],
    ):
        return
    steps = dict(zip(kinds, path[1:], strict=True))
    turn, rounding, gather = steps["Transpose"], steps["FakeQuantize"], steps["Gather"]
    index, axis = (_values(gather.input_value(i)) for i in (1, 2))
    ranges = [rounding.input_value(i) for i in range(1, 5)]
    if not _swaps_heads(turn) or index is None or axis is None or axis.item() != 1 or not _one_for_all(rounding):
        return
    if "Multiply" in steps:  # each channel of the answer is a mean of the same channel of values
        factors = [values for value in steps["Multiply"].input_values() if (values := _values(value)) is not None]
        cut = _cut(attention.input_value(2))
        if cut is None or len(factors) != 1 or factors[0].size != heads * width:
            return
        scaled = ops.multiply(cut.input_value(0), ops.constant(factors[0].reshape(1, 1, -1)))
        cut.input(0).replace_source_output(scaled.output(0))
    after = _targets(gather)
    place = index.astype(np.int64).reshape(-1, 1)
    window, inside = place // tokens, place % tokens
    windows = int(window.max()) + 1  # each holds a token of the map
    rows = ((window * heads + np.arange(heads)) * tokens + inside).reshape(-1)
    answer = ops.fake_quantize(attention, *ranges, rounding.get_attributes()["levels"])
    answer = ops.reshape(answer, _constant([-1, windows * heads * tokens, width]), False)
    answer = ops.gather(answer, _constant(rows), _constant(1))
    answer = ops.reshape(answer, _constant([0, len(index.reshape(-1)), heads * width]), True)
    for target in after:
        target.replace_source_output(answer.output(0))


def _gather_keys(attention: Any, heads: int, tokens: int, width: int) -> None:
    """Write attention out, with keys (B*N, heads, D, T) by a gather, if they are bytes as a product leaves them."""
    ops = need("openvino.opset13", EXTRA)
    cut = _cut(attention.input_value(1))
    if cut is None or attention.get_input_size() != 5 or attention.get_attributes()["causal"]:
        return
    scale = _values(attention.input_value(4))
    if cut.input_value(0).get_node().get_type_name() != "FakeQuantize" or scale is None or scale.item() != 1.0:
        return
    channels = heads * width
    turned = np.arange(tokens) * channels + np.arange(channels)[:, None]  # (C, T): places in (T, C)
    keys = ops.reshape(cut.input_value(0), _constant([-1, tokens * channels]), False)
    keys = ops.gather(keys, _constant(turned.reshape(-1)), _constant(1))
    keys = ops.reshape(keys, _constant([-1, heads, width, tokens]), False)
    queries, values, bias = (attention.input_value(i) for i in (0, 2, 3))
    mixed = ops.softmax(ops.add(ops.matmul(queries, keys, False, False), bias), -1)
    answer = ops.matmul(mixed, values, False, False)
    for target in _targets(attention):
        target.replace_source_output(answer.output(0))


def _cut(part: Any) -> Any:
    """Return the Reshape that cuts (B, L, C) into windows and heads, if (B*N, heads, T, D) given is that, turned; else None."""
    node = part.get_node()
    if node.get_type_name() != "Transpose" or not _swaps_heads(node):
        return None
    while len(_targets(node)) == 1:
        if node.get_type_name() == "Reshape" and node.get_input_partial_shape(0).rank.get_length() == 3:
            return node
        node = node.input_value(0).get_node()
        if node.get_type_name() != "Reshape":
            break
    return None


def _swaps_heads(turn: Any) -> bool:
    """Say whether a Transpose leads from (B*N, T, heads, D) to (B*N, heads, T, D), or back."""
    order = _values(turn.input_value(1))
    return order is not None and order.tolist() == [0, 2, 1, 3]


def _one_for_all(rounding: Any) -> bool:
    """Say whether a FakeQuantize has constant ranges of one value each."""
    ranges = [_values(rounding.input_value(i)) for i in range(1, 5)]
    return all(values is not None and values.size == 1 for values in ranges)


def _enters_weights(node: Any) -> bool:
    """Say whether a node's result is multiplied with constant weights and nothing else, perhaps in another order."""
    for target in _targets(node):
        user = target.get_node()
        kind = user.get_type_name()
        if kind == "MatMul" and target.get_index() == 0:
            weights = user.input_value(1).get_node()
            while weights.get_type_name() in {"Multiply", "Subtract", "Convert", "Reshape"}:
                weights = weights.input_value(0).get_node()
            if weights.get_type_name() != "Constant":
                return False
        elif kind not in {"Gather", "Reshape", "Transpose"} or target.get_index() != 0 or not _enters_weights(user):
            return False
    return bool(_targets(node))


def _of_all_tokens(node: Any, place: int) -> bool:
    """Say whether the other inputs of a node are constants with one value for all tokens of (B, L, C)."""
    others = [_values(node.input_value(i)) for i in range(node.get_input_size()) if i != place]
    return all(values is not None and (values.ndim < 2 or values.shape[-2] == 1) for values in others)


def _above(node: Any, *kinds: str) -> Any:
    """Return the last of a chain of nodes, each the first input of the one before, if they are of these kinds; else None."""
    for kind in kinds[:-1]:
        if node.get_type_name() != kind:
            return None
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == kinds[-1] else None


def _flat(output: Any) -> np.ndarray | None:
    """Return a constant's values, also behind a Reshape; None for anything else."""
    node = output.get_node()
    return _values(node.input_value(0) if node.get_type_name() == "Reshape" else output)


def _all(model: Any, kind: str) -> list[Any]:
    """Return the nodes of a kind."""
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def _targets(node: Any) -> list[Any]:
    """Return the inputs that read a node's first output."""
    return list(node.output(0).get_target_inputs())


def _values(output: Any) -> np.ndarray | None:
    """Return a constant's values, None for anything else."""
    node = output.get_node()
    return node.data if node.get_type_name() == "Constant" else None


def _constant(values: Any) -> Any:
    """Return whole numbers as a constant."""
    return need("openvino.opset13", EXTRA).constant(np.array(values, np.int32))
