"""Segmenters: names of their decoders in each code base, the decoder's shape from its tensors, transformers' UPerNet.

Keys and shapes: mmsegmentation's ``uper_head.py``, ``fpn_head.py``, ``unet.py``, ``fcn_head.py``; transformers'
``modeling_upernet.py``. The head part of the authors' fork (2.x) and of mmsegmentation 1.x is the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from swinkit.bounds import real, wholes
from swinkit.errors import CheckpointError, KeysLeftOver, ShapesDiffer, UnknownDialect
from swinkit.labels import ade20k
from swinkit.models.segmentation import Segmenter
from swinkit.models.swin import Swin
from swinkit.models.systems import DEFAULT_DECODERS, DROP_PATH, SYSTEM_NAMES, resolve_system
from swinkit.specs import Decoder, MaskRules, ModelSpec, Preprocessing, Variant
from swinkit.weights import hf
from swinkit.weights.heads.base import Fields, Head, Mode, Tensors, put
from swinkit.weights.rows import Row, renamed

_APART = ("decode_head.", "auxiliary_head.", "neck.")


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


TABLES: dict[str, tuple[Row, ...]] = {
    "mm": (
        *_upernet("bn", "conv_seg"),
        Row(("neck.lateral.{s}.*",), ("neck.lateral_convs.{s}.conv.*",)),
        Row(("neck.smooth.{s}.*",), ("neck.fpn_convs.{s}.conv.*",)),
        *_conv_norm("decode_head.branches.{s}.{b}", "decode_head.scale_heads.{s}.{2b}", "bn"),
        *_conv_norm("decode_head.convs.{s}", "decode_head.convs.{s}", "bn"),
        *_conv_norm("neck.blocks.{s}.reduce", "neck.decoder.{s}.upsample.interp_upsample.1", "bn"),
        Row(("neck.blocks.{s}.enlarge.conv.*",), ("neck.decoder.{s}.upsample.deconv_upsamping.0.*",)),  # spelt so there
        Row(("neck.blocks.{s}.enlarge.norm.*",), ("neck.decoder.{s}.upsample.deconv_upsamping.1.*",)),
        *_conv_norm("neck.blocks.{s}.convs.{b}", "neck.decoder.{s}.conv_block.convs.{b}", "bn"),
    ),
    "hf": _upernet("batch_norm", "classifier"),
    "ours": tuple(Row((prefix + "*",), (prefix + "*",)) for prefix in _APART),
}
# Buffers of losses with class weights, which some files carry: no part of the network.
_IGNORED = ("decode_head.loss_decode.", "auxiliary_head.loss_decode.")
_KINDS = {"decode_head.ppm.": "upernet", "neck.lateral.": "fpn", "neck.blocks.": "unet"}


class Segment(Head):
    """A decoder on the pyramid, and an auxiliary head for training: both stand beside the backbone in every code base."""

    task = "segment"
    called = "a decoder"
    network: ClassVar[type[nn.Module]] = Segmenter
    apart = _APART
    hf_types = ("upernet",)

    def names(self, name: str) -> bool:
        """Return whether ``name`` is a decoder's, or a published system's."""
        return name in SYSTEM_NAMES

    def canonical(self, name: str) -> str:
        """Return the system's own name."""
        return resolve_system(name)[0]

    def weights_of(self, name: str, backbone: str | None) -> str:
        """Return a system's name; of a decoder its backbone's, for there are no weights of a decoder alone."""
        return (backbone or "swin_tiny") if name in DEFAULT_DECODERS else name

    def describes(self, spec: ModelSpec) -> bool:
        """Return whether there is a decoder."""
        return spec.decoder is not None

    def read(self, tensors: Tensors) -> Tensors | None:
        """Return decoder and auxiliary head; None in a file without a decoder this package can tell."""
        table = _table_of(set(tensors))
        if table is None:
            return None
        own = {k: t for k, t in tensors.items() if k.startswith(self.apart) and not k.startswith(_IGNORED)}
        return renamed(own, TABLES[table], True, f"a decoder of the dialect {table}")

    def shape(self, apart: Tensors, variant: Variant, described: ModelSpec | None) -> tuple[Variant, Fields]:
        """Return the variant with the segmenter's classes and stochastic depth, and the decoder."""
        decoder, classes = infer_decoder(apart, variant.channels, described.decoder if described else None)
        drop_path = described.variant.drop_path if described else DROP_PATH
        return variant.changed(num_classes=classes, drop_path=drop_path), {"task": self.task, "decoder": decoder}

    def undescribed(self, variant: Variant, fields: Fields, dialect: str, name: str) -> ModelSpec:
        """Return the description of the authors' ADE20K systems, or with another number of classes one without names."""
        labels, palette = ade20k() if variant.num_classes == 150 else ((), ())
        preparation = Preprocessing((512, 2048), "box", 0, "bilinear", antialias=False)
        masks = MaskRules((0,), palette) if labels else None
        return ModelSpec(variant, preparation, labels, name=name, masks=masks, **fields)

    def read_hf(self, config: dict[str, Any], preparation: dict[str, Any] | None) -> ModelSpec:
        """Return the description of transformers' UPerNet; the file says nothing of how its labels were stored."""
        body = config.get("backbone_config")
        if not isinstance(body, dict) or body.get("model_type") not in hf.BODIES:
            raise CheckpointError(
                "config.json describes a UPerNet on another backbone than Swin; this package reads those on Swin"
            )
        spec = hf.read_config({**body, "id2label": config.get("id2label")}, preparation)
        decoder = Decoder(
            channels=hf.integer(config, "hidden_size", 512),
            pool_scales=config.get("pool_scales") or (1, 2, 3, 6),
            auxiliary_channels=hf.integer(config, "auxiliary_channels", 256) if config.get("use_auxiliary_head", True) else 0,
        )
        known, palette = ade20k()
        rate = real("config.json: drop_path_rate", body.get("drop_path_rate", 0.1), 0.0, 1.0)
        return spec.changed(
            variant=spec.variant.changed(drop_path=float(rate)),
            task=self.task,
            decoder=decoder,
            masks=MaskRules((0,), palette) if len(spec.labels) == len(known) else None,
            multi_label=body.get("problem_type") == "multi_label_classification",
            preprocessing=Preprocessing((512, 512), "squash", 0, "bilinear") if preparation is None else spec.preprocessing,
        )

    def reads_mm(self, config: dict[str, Any]) -> bool:
        """Return whether this is mmsegmentation's configuration of a segmenter."""
        return config.get("type") == "EncoderDecoder"

    def read_mm(self, config: dict[str, Any]) -> ModelSpec:
        """Return the description in mmsegmentation's ``model``; only what tensors do not tell is taken from its heads."""
        body, head, auxiliary = (config.get(part) or {} for part in ("backbone", "decode_head", "auxiliary_head"))
        if not all(isinstance(part, dict) for part in (body, head, auxiliary)) or body.get("type") != "SwinTransformer":
            raise CheckpointError("config.json describes no segmenter on one SwinTransformer with at most one auxiliary head")
        if head.get("align_corners"):
            raise CheckpointError("config.json: align_corners is on; this package resizes with corners not aligned")
        size = hf.integer(body, "pretrain_img_size", 224)
        variant = Variant(
            embed_dim=hf.integer(body, "embed_dims", 96),
            depths=wholes("config.json: depths", body.get("depths", (2, 2, 6, 2)), 1, 256),
            num_heads=wholes("config.json: num_heads", body.get("num_heads", (3, 6, 12, 24)), 1, 16384),
            window_size=hf.integer(body, "window_size", 7),
            patch_size=hf.integer(body, "patch_size", 4),
            img_size=size,
            in_chans=hf.integer(body, "in_channels", 3),
            num_classes=hf.integer(head, "num_classes", 1),
            drop_path=body.get("drop_path_rate", DROP_PATH),
        )
        decoder = Decoder(
            pool_scales=head.get("pool_scales") or (1, 2, 3, 6),
            auxiliary_index=auxiliary.get("in_index", 2),
            dropout=head.get("dropout_ratio", 0.1),
        )
        return self.undescribed(variant, {"task": self.task, "decoder": decoder}, "mm", "")

    def body(self, network: nn.Module) -> nn.Module:
        """Return the backbone."""
        assert isinstance(network, Segmenter)
        return network.backbone

    def load(self, network: nn.Module, apart: Tensors, mode: Mode) -> list[str]:
        """Load the decoder strictly, or leave it new; classifiers of another number of classes start as initialised."""
        assert isinstance(network, Segmenter)
        wanted = {key: value for key, value in network.state_dict().items() if key.startswith(self.apart)}
        if not apart:
            if mode == "exact":
                raise KeysLeftOver("the weights have no decoder, only a backbone; train one: swinkit train finetune_segment")
            return ["the decoder starts anew"]
        given, notes = dict(apart), []
        classifier = given.get("decode_head.classifier.weight")
        old, new = 0 if classifier is None else classifier.shape[0], network.num_classes
        if old != new:
            if mode == "exact":
                raise ShapesDiffer(f"the weights have {old} classes, the network {new}; build it with num_classes={old}")
            given |= {key: value for key, value in wanted.items() if ".classifier." in key}
            notes.append(f"classifiers start anew ({old} -> {new} classes)")
        auxiliary = {key for key in given.keys() ^ wanted.keys() if key.startswith("auxiliary_head.")}
        for key in auxiliary:
            if key in given:
                del given[key]
            elif mode != "exact":
                given[key] = wanted[key]
        if auxiliary:
            notes.append("auxiliary head left aside or new")
        odd = sorted(given.keys() ^ wanted.keys()) or [key for key in given if given[key].shape != wanted[key].shape]
        if odd:
            raise ShapesDiffer(
                f"{len(odd)} tensors of the decoder do not fit (first: {odd[0]}); build the decoder of the weights"
            )
        everything = network.state_dict()
        put(network, {**{key: value for key, value in everything.items() if key not in given}, **given}, everything)
        return [*notes, f"{len(given)} of the decoder"]

    def taken(self, network: nn.Module, spec: ModelSpec) -> tuple[Tensors, ModelSpec]:
        """Return tensors and description; a backbone of our own has its names without a prefix."""
        tensors = network.state_dict()
        if isinstance(network, Segmenter) and isinstance(network.backbone, Swin):
            variant = network.backbone.variant.changed(num_classes=network.num_classes)
            spec = spec.changed(variant=variant, decoder=network.decoder)
        if not spec.backbone:
            tensors = {key.removeprefix("backbone."): tensor for key, tensor in tensors.items()}
        return tensors, spec

    def refuse(self, dialect: str) -> None:
        """Raise CheckpointError for timm and torchvision."""
        if dialect not in ("official", "mm", "hf"):
            raise CheckpointError(f"{dialect} has no segmenters; write official, mm or hf")

    def prefix(self, spec: ModelSpec, dialect: str) -> str:
        """Return "backbone.", in every code base."""
        return "backbone."

    def write(self, apart: Tensors, dialect: str) -> Tensors:
        """Return decoder and auxiliary head in a dialect's names; the authors' are mmsegmentation's."""
        table = "hf" if dialect == "hf" else "mm"
        return renamed(apart, TABLES[table], False, f"a decoder of the dialect {table}")

    def content(self, tensors: Tensors, spec: ModelSpec, dialect: str) -> dict[str, Any]:
        """Return what mmsegmentation saves, class names beside the weights."""
        return {"meta": {"CLASSES": list(spec.labels)}, "state_dict": tensors}

    def write_hf(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the configuration of transformers' UPerNet."""
        decoder, variant = spec.decoder, spec.variant
        assert decoder is not None
        if decoder.kind != "upernet":
            raise CheckpointError(f"transformers has no {decoder.kind} on Swin, only UPerNet; write official or mm instead")
        if decoder.auxiliary_channels and decoder.auxiliary_index != 2:
            raise CheckpointError("transformers' auxiliary head stands on the third map; this one does not")
        if variant.version == 2:
            raise CheckpointError("transformers' Swin V2 backbone has no output norms; a segmenter on it cannot be written as hf")
        stages = [f"stage{i + 1}" for i in range(len(variant.depths))]
        body = hf.write_config(spec.changed(variant=variant.changed(num_classes=0)))
        return {
            "architectures": ["UperNetForSemanticSegmentation"],
            "model_type": "upernet",
            "backbone_config": body | {"out_features": stages, "stage_names": ["stem", *stages]},
            "hidden_size": decoder.channels,
            "pool_scales": list(decoder.pool_scales),
            "use_auxiliary_head": bool(decoder.auxiliary_channels),
            "auxiliary_loss_weight": 0.4,
            "auxiliary_in_channels": variant.channels[2],
            "auxiliary_channels": decoder.auxiliary_channels or 256,
            "auxiliary_num_convs": 1,
            "auxiliary_concat_input": False,
            "loss_ignore_index": 255,
            **hf.label_tables(spec),
            "torch_dtype": "float32",
        }


def _table_of(keys: set[str]) -> str | None:
    """Return which table names the decoder in a file with such keys, None when there is no decoder."""
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
            raise UnknownDialect(
                f"the decoder pools at {scales} scales and nothing says which (UPerNet has 1, 2, 3 and 6); "
                "put the model's configuration beside the weights: config.json, with pool_scales"
            )
        given = Decoder()
    auxiliary, index = head.get("auxiliary_head.classifier.weight"), given.auxiliary_index
    deconv = head.get("neck.blocks.0.enlarge.conv.weight")
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
            deconv_kernel=0 if deconv is None else int(deconv.shape[-1]),
        ),
        int(classifier.shape[0]),
    )
