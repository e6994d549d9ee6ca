"""Names of segmentation decoders in each code base, and the decoder's shape from its tensors.

Tables are read in both directions by ``convert``, as those of ``dialects.py``. Keys and shapes: mmsegmentation's
``uper_head.py``, ``fpn_head.py``, ``unet.py``, ``fcn_head.py``; transformers' ``modeling_upernet.py``. The head part of the
authors' fork (2.x) and of mmsegmentation 1.x is the same.
"""

from __future__ import annotations

from torch import Tensor

from swinkit.errors import UnknownDialect
from swinkit.specs import Decoder
from swinkit.weights.dialects import Row

PREFIXES = ("decode_head.", "auxiliary_head.", "neck.")


def _conv_norm(ours: str, theirs: str, norm: str) -> tuple[Row, ...]:
    return Row((f"{ours}.conv.*",), (f"{theirs}.conv.*",)), Row((f"{ours}.norm.*",), (f"{theirs}.{norm}.*",))


def _upernet(norm: str, classifier: str) -> tuple[Row, ...]:
    head = "decode_head."
    return (
        *_conv_norm(head + "ppm.{s}", head + "psp_modules.{s}.1", norm),
        *_conv_norm(head + "ppm_fuse", head + "bottleneck", norm),
        *_conv_norm(head + "lateral.{s}", head + "lateral_convs.{s}", norm),
        *_conv_norm(head + "smooth.{s}", head + "fpn_convs.{s}", norm),
        *_conv_norm(head + "fuse", head + "fpn_bottleneck", norm),
        *_conv_norm("auxiliary_head.convs.{s}", "auxiliary_head.convs.{s}", norm),
        Row((head + "classifier.*",), (f"{head}{classifier}.*",)),
        Row(("auxiliary_head.classifier.*",), (f"auxiliary_head.{classifier}.*",)),
    )


HEADS: dict[str, tuple[Row, ...]] = {
    "mm": (
        *_upernet("bn", "conv_seg"),
        Row(("neck.lateral.{s}.*",), ("neck.lateral_convs.{s}.conv.*",)),
        Row(("neck.smooth.{s}.*",), ("neck.fpn_convs.{s}.conv.*",)),
        *_conv_norm("decode_head.branches.{s}.{b}", "decode_head.scale_heads.{s}.{2b}", "bn"),
        *_conv_norm("decode_head.convs.{s}", "decode_head.convs.{s}", "bn"),
        *_conv_norm("neck.blocks.{s}.reduce", "neck.decoder.{s}.upsample.interp_upsample.1", "bn"),
        *_conv_norm("neck.blocks.{s}.convs.{b}", "neck.decoder.{s}.conv_block.convs.{b}", "bn"),
    ),
    "hf": _upernet("batch_norm", "classifier"),
    "ours": tuple(Row((prefix + "*",), (prefix + "*",)) for prefix in PREFIXES),
}
# Buffers of losses with class weights, which some files carry: no part of the network.
IGNORED = ("decode_head.loss_decode.", "auxiliary_head.loss_decode.")
_KINDS = {"decode_head.ppm.": "upernet", "neck.lateral.": "fpn", "neck.blocks.": "unet"}


def recognise_head(keys: set[str]) -> str | None:
    """Return which table names the decoder in a file, None when there is no decoder."""
    if "decode_head.conv_seg.weight" in keys:
        return "mm"
    if "decode_head.classifier.weight" not in keys:
        return None
    return "hf" if any(".batch_norm." in key for key in keys) else "ours"


def infer_decoder(head: dict[str, Tensor], widths: tuple[int, ...], described: Decoder | None = None) -> tuple[Decoder, int]:
    """Return the decoder's shape and its number of classes.

    Args:
        head: its tensors under our names.
        widths: channels of the backbone's maps, fine to coarse.
        described: what a description beside the weights says; decides what tensors do not tell.

    Raises:
        UnknownDialect: a decoder of another kind.
    """
    kinds = [kind for start, kind in _KINDS.items() if any(key.startswith(start) for key in head)]
    if len(kinds) != 1:
        raise UnknownDialect(
            f"the decoder (first tensor: {min(head)}) is none of UPerNet, Semantic FPN and U-Net; this package has those"
        )
    classifier = head["decode_head.classifier.weight"]
    scales = len({key.split(".")[2] for key in head if key.startswith("decode_head.ppm.")})
    given = described or Decoder()
    if len(given.pool_scales) != scales and kinds[0] == "upernet":
        if scales != 4:
            raise UnknownDialect(f"the decoder pools at {scales} scales and nothing says which; UPerNet has 1, 2, 3 and 6")
        given = Decoder()
    auxiliary, index = head.get("auxiliary_head.classifier.weight"), given.auxiliary_index
    below = widths[::-1] if kinds[0] == "unet" else widths
    if auxiliary is not None and kinds[0] != "fpn":
        width = head["auxiliary_head.convs.0.conv.weight"].shape[1]
        index = below.index(width) if width in below else index
    return (
        Decoder(
            kinds[0],
            channels=int(classifier.shape[1]),
            neck_channels=int(head["neck.lateral.0.weight"].shape[0]) if kinds[0] == "fpn" else given.neck_channels,
            pool_scales=given.pool_scales,
            auxiliary_channels=0 if auxiliary is None else int(auxiliary.shape[1]),
            auxiliary_index=index,
            dropout=given.dropout,
        ),
        int(classifier.shape[0]),
    )
