"""Seeds of checkpoints, exports and states of runs, of a network of 4 channels."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from swinkit.engines import exported
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import ModelSpec, Preprocessing
from swinkit.training.checkpoint import Progress, save_state
from swinkit.weights import save_folder
from tools.fuzz.cases import PIPE, Content
from tools.fuzz.targets import OPENED_BESIDE, TINY

Cases = dict[str, dict[str, Content]]
SPEC = ModelSpec(TINY, Preprocessing((8, 8)), ("a", "b", "c"), name="tiny")


def _network() -> SwinClassifier:
    torch.manual_seed(0)
    return SwinClassifier(TINY)


def _header(data: bytes, changed: Any) -> bytes:
    """Return a safetensors file after ``changed(header)``, or with that text as its header."""
    (length,) = struct.unpack("<Q", data[:8])
    if isinstance(changed, bytes):
        raw = changed
    else:
        value = json.loads(data[8 : 8 + length])
        raw = json.dumps(changed(value) or value).encode()
    return struct.pack("<Q", len(raw)) + raw + data[8 + length :]


def _described(spec: dict[str, Any] | str) -> bytes:
    text = spec if isinstance(spec, str) else json.dumps(spec)
    return save({name: value.contiguous() for name, value in _network().state_dict().items()}, {"swinkit": text, "format": "pt"})


def _spec(path: str, value: Any) -> dict[str, Any]:
    """Return the description with the value at a dotted path replaced."""
    spec = json.loads(json.dumps(SPEC.to_dict()))
    *tables, last = path.split(".")
    table = spec
    for name in tables:
        table = table[name]
    table[last] = value
    return spec


# What stood in a description and was believed (B8 and its kin); "@" is replaced by the text beside it.
DESCRIPTIONS: dict[str, tuple[str, Any, str]] = {
    "std-infinite": ("preprocessing.std", [0.2, 0.2, "@"], "Infinity"),
    "std-1e400": ("preprocessing.std", [0.2, 0.2, "@"], "1e400"),
    "std-tiny": ("preprocessing.std", [0.2, 0.2, "@"], "1e-300"),
    "mean-nan": ("preprocessing.mean", ["@", 0.4, 0.4], "NaN"),
    "mean-1e308": ("preprocessing.mean", ["@", 0.4, 0.4], "1e308"),
    "size-16384": ("preprocessing.size", [16384, 16384], ""),
    "size-1e400": ("preprocessing.size", ["@", 8], "1e400"),
    "size-digits": ("preprocessing.size", ["@", 8], "9" * 9000),
    "embed-dim-huge": ("variant.embed_dim", 1 << 40, ""),
    "depths-huge": ("variant.depths", [1 << 30, 1], ""),
    "window-huge": ("variant.window_size", 1 << 20, ""),
    "window-pretrained-huge": ("variant.pretrained_windows", [1 << 40, 1], ""),
    "img-size-huge": ("variant.img_size", 1 << 60, ""),
    "mlp-nan": ("variant.mlp_ratio", "@", "NaN"),
    "mlp-huge": ("variant.mlp_ratio", 1e300, ""),
    "stages-200": ("variant.depths", [1] * 200, ""),
    "classes-huge": ("variant.num_classes", 1 << 50, ""),
    "pooling-1e6": ("decoder", {"kind": "upernet", "pool_scales": [1000000]}, ""),
    "decoder-wide": ("decoder", {"kind": "unet", "channels": 1 << 40}, ""),
    "deconv-odd": ("decoder", {"kind": "unet", "deconv_kernel": 3}, ""),
    "deconv-huge": ("decoder", {"kind": "unet", "deconv_kernel": 1 << 40}, ""),
    "facts-deep": ("facts", {"a": "@"}, "[" * 400 + "]" * 400),
    "labels-numbers": ("labels", [1, 2, 3], ""),
    "task-unknown": ("task", "paint", ""),
    "backbone-outside": ("backbone", "timm:../../x", ""),
    "backbone-unknown": ("backbone", "other", ""),
    "void-huge": ("masks", {"void": [1 << 70]}, ""),
}


def _torch(value: Any, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _pickled(content: bytes) -> bytes:
    """Return a zip of torch.save whose pickle is ``content``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in (("data.pkl", content), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
    return buffer.getvalue()


def _doubled(times: int) -> bytes:
    """Return a pickle of a tuple of two of a tuple of two ...: small, endless to walk through."""
    value: Any = ()
    for _ in range(times):
        value = (value, value)
    return pickle.dumps({"model": value}, protocol=2)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch written-by-pickle",)


def weights() -> Cases:
    """Checkpoints: our own, torch's two forms, folders of other code bases, and what was done to them."""
    tensors = {name: value.contiguous() for name, value in _network().state_dict().items()}
    said = json.dumps(SPEC.to_dict())
    own = _described(said)
    first = next(iter(tensors))
    with tempfile.TemporaryDirectory() as place:
        save_folder(_network().state_dict(), SPEC, place)
        hub: dict[str, Content] = {path.name: path.read_bytes() for path in Path(place).iterdir() if path.suffix != ".md"}
        stranger = load_file(Path(place) / "model.safetensors")
    hub["model.safetensors"] = save(stranger)  # without our own description, which would be believed first
    parts: dict[str, Content] = {
        "config.json": hub["config.json"],
        "model.safetensors.index.json": json.dumps({"weight_map": dict.fromkeys(tensors, "part-1.safetensors")}).encode(),
    }
    preparation = {"input_size": [3, 8, 8], "crop_pct": 0.9}
    mm = json.dumps(
        {
            "type": "EncoderDecoder",
            "backbone": {"type": "SwinTransformer"},
            "decode_head": {"pool_scales": [1, 2], "dropout_ratio": 0.5},
        }
    ).encode()
    timm = {"architecture": "swin_tiny_patch4_window7_224", "num_classes": 3, "pretrained_cfg": preparation}

    def offsets(text: str) -> bytes:
        raw = own[8 : 8 + struct.unpack("<Q", own[:8])[0]]
        header = json.loads(raw)
        header[first]["data_offsets"][1] = "@"
        return _header(own, json.dumps(header).replace('"@"', text).encode())

    def entry(**changes: Any) -> bytes:
        return _header(own, lambda header: header | {first: header[first] | changes})

    files: dict[str, bytes] = {
        "ok-own": own,
        "ok-zip": _torch({"model": tensors}),
        "ok-legacy": _torch({"model": tensors}, legacy=True),
        "bad-tuple-doubled-45-times": _pickled(_doubled(45)),  # C1
        "bad-legacy-tuple-doubled": _doubled(45),
        "bad-pickle-of-code": _pickled(pickle.dumps({"model": _Code()}, protocol=2)),
        "bad-legacy-of-code": pickle.dumps(_Code(), protocol=2),
        "bad-zip-cut": _torch({"model": tensors})[:-40],
        "bad-nan": save(tensors | {first: torch.full_like(tensors[first], float("nan"))}, {"swinkit": said}),
        "bad-expanded": _torch({"model": tensors | {first: torch.zeros(1).expand(1 << 20, 1 << 20)}}),
        "bad-complex": _torch({"model": tensors | {first: tensors[first].to(torch.complex64)}}),
        "bad-sparse": _torch({"model": tensors | {first: tensors[first].to_sparse()}}),
        "bad-offsets-1e999": offsets("1e999"),
        "bad-offsets-digits": offsets("9" * 9000),
        "bad-offsets-text": offsets('"x"'),
        "bad-offsets-nan": offsets("NaN"),
        "bad-dtype-float8": entry(dtype="F8_E4M3"),
        "bad-dtype-float4": entry(dtype="F4"),
        "bad-shape-huge": entry(shape=[1 << 40, 1 << 40]),
        "bad-header-huge": struct.pack("<Q", 1 << 60) + b"{}" + bytes(20),
        "bad-header-deep": _header(own, b"[" * 3000 + b"]" * 3000),
        "bad-metadata-number": _header(own, lambda header: header | {"__metadata__": 5}),
        "bad-description-no-json": _described("{"),
        "bad-description-list": _described("[]"),
    }
    for name, (path, value, text) in DESCRIPTIONS.items():
        files[f"bad-{name}"] = _described(json.dumps(_spec(path, value)).replace('"@"', text))
    cases: Cases = {name: {"w.safetensors" if data[8:9] == b"{" else "w.pth": data} for name, data in files.items()}
    return cases | {
        "ok-hub": hub,
        "any-timm": {"config.json": json.dumps(timm).encode(), "model.safetensors": save(tensors)},
        "bad-timm-zeros": {
            "config.json": json.dumps(timm | {"pretrained_cfg": {"input_size": [0, 0, 0], "crop_pct": 0}}).encode(),
            "model.safetensors": save(tensors),
        },
        "bad-hub-size-1e400": hub | {"preprocessor_config.json": b'{"size": 1e400}'},
        "bad-hub-size-nothing": hub | {"preprocessor_config.json": b'{"size": {"shortest_edge": null}}'},
        "bad-hub-mean-nan": hub | {"preprocessor_config.json": b'{"size": 8, "image_mean": [NaN, 0, 0], "image_std": [1, 1, 1]}'},
        "bad-hub-depths": hub | {"config.json": b'{"model_type": "swin", "depths": 3}'},
        "bad-hub-labels": hub | {"config.json": b'{"model_type": "swin", "id2label": {"0": "a", "x": "b"}}'},
        "bad-pipe": {"w.pth": PIPE},  # C2
        "bad-part-pipe": {**parts, "part-1.safetensors": PIPE},
        "bad-mm-backbone": hub | {"config.json": b'{"type": "EncoderDecoder", "backbone": 3}'},
        "bad-mm-scales": hub | {"config.json": mm.replace(b"[1, 2]", b"[1e9, 2]")},
        "bad-mm-dropout": hub | {"config.json": mm.replace(b"0.5", b"[]")},
        "any-mm": hub | {"config.json": mm},
        "any-config-pipe": {**hub, "config.json": PIPE},
        "bad-part-outside": {**parts, "model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'},
        "bad-device": {"w.safetensors": "link /dev/zero"},
    }


# --- exports


def _manifest(to: str, files: dict[str, Content], mark: str = "", /, **changes: Any) -> bytes:
    """Return ``export.json`` for files that lie beside it, with every hash right and a seal of nobody's."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if isinstance(data, bytes)}
    values = json.loads(exported.Manifest(to, SPEC, 1, [(8, 8)], ["layers.0.blocks.0"], [1e-6], files=hashes).to_json())
    del values["sha256"], values["seal"]
    values |= changes
    text = json.dumps(values, sort_keys=True).encode()
    return json.dumps({**values, "sha256": hashlib.sha256(text).hexdigest(), "seal": mark}).encode()


def _export(to: str, graph: bytes = b"graph", mark: str = "", /, **changes: Any) -> dict[str, Content]:
    canary = save({"8x8.answer.0": torch.zeros(1, 3), "8x8.block.0": torch.zeros(4)})
    files: dict[str, Content] = {"canary.safetensors": canary, f"8x8/{exported.KINDS[to][1]}": graph}
    for name in OPENED_BESIDE.get(to, ()):
        files[f"8x8/{name}"] = b"weights"
    return {**files, "export.json": _manifest(to, files, mark, **changes)}


def _unnamed(name: str) -> dict[str, Content]:
    """Return an export whose manifest says nothing of a file that its library would open."""
    files = _export("onnx")
    said = {key: hashlib.sha256(data).hexdigest() for key, data in files.items() if isinstance(data, bytes)}
    return files | {
        "export.json": _manifest("onnx", files, files={key: said[key] for key in said if key not in (name, "export.json")})
    }


def program(**changes: Any) -> bytes:
    """Return a program of torch.export with its graph's JSON changed: what A1, A2 and C4 were."""
    graph: dict[str, Any] = {
        "graph_module": {
            "graph": {"nodes": [{"target": "torch.ops.aten.from_file.default", "inputs": [{"arg": {"as_string": "../x"}}]}]},
            "module_call_graph": [{"fqn": "", "signature": {"in_spec": "[1, {}]", "out_spec": "[1, {}]"}}],
        },
        "range_constraints": {},
    } | changes
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        text = json.dumps(graph).encode()
        for name, data in (("archive_format", b"pt2"), ("models/model.json", text), ("byteorder", b"little")):
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), data)
    return buffer.getvalue()


def exports() -> Cases:
    """Exports: whole ones of the two forms that are data, and everything else."""
    library = {"__enum__": True, "fqn": "ctypes:cdll", "name": "/tmp/hostile.so"}
    spec = [1, {"type": "builtins.dict", "context": json.dumps(library), "children_spec": []}]
    loads = {"graph_module": {"module_call_graph": [{"fqn": "", "signature": {"in_spec": json.dumps(spec)}}]}}
    power = {"range_constraints": {"s0": {"expr_str": "9**9**9**9"}}}
    onnx, openvino = _export("onnx"), _export("openvino")
    cases: Cases = {
        "ok-onnx": onnx,
        "ok-openvino": openvino,
        "bad-program": _export("torch", program()),  # A2
        "bad-program-loads-a-library": _export("torch", program(**loads)),  # A1
        "bad-program-power": _export("torch", program(**power)),  # C4
        "bad-machine-code": _export("aotinductor", b"\x7fELF"),
        "bad-changed-program": {**_export("torch", program()), "8x8/model.pt2": program(**loads)},  # A3
        "bad-changed-onnx": {**onnx, "8x8/model.onnx": b"other"},
        "bad-changed-weights": {**openvino, "8x8/model.bin": b"other"},
        "bad-canary": {**onnx, "canary.safetensors": b"other"},
        "bad-missing": {name: data for name, data in onnx.items() if not name.endswith("model.onnx")},
        "bad-floats-unnamed": _unnamed("8x8/floats.onnx"),  # B7
        "bad-weights-unnamed": _unnamed("8x8/model.onnx.data"),
        "bad-graph-pipe": {**onnx, "8x8/model.onnx": PIPE},
        "bad-manifest-pipe": {**onnx, "export.json": PIPE},
        "bad-canary-pipe": {**onnx, "canary.safetensors": PIPE},
        "bad-seal-of-nobody": _export("torch", program(), "0" * 64),
        "bad-kind-unknown": _export("onnx", to="exe"),
        "bad-sizes": _export("onnx", sizes=[[16384, 16384]]),
        "bad-size-text": _export("onnx", sizes=[["8", "8"]]),
        "bad-tolerance": _export("onnx", tolerance=1e300),
        "bad-maps": _export("onnx", maps="1"),
        "bad-maps-true": _export("onnx", maps=True),
        "bad-file-outside": _export("onnx", files={"../../etc/passwd": "0"}),
        "bad-sealed-list": _export("onnx", spec=[1]),
        "bad-manifest-list": {**onnx, "export.json": b"[1]"},
        "bad-manifest-deep": {**onnx, "export.json": b"[" * 5000 + b"]" * 5000},
        "bad-manifest-digits": {**onnx, "export.json": b'{"maps": ' + b"9" * 9000 + b"}"},
        "bad-manifest-infinite": {**onnx, "export.json": b'{"tolerance": 1e400}'},
    }
    return cases


# --- states


def states() -> Cases:
    """States of a run: one that is whole, and edited ones."""
    network = _network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network(torch.zeros(1, 3, 8, 8)).sum().backward()
    optimiser.step()
    ema = {name: value.clone() for name, value in network.state_dict().items()}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "state.safetensors"
        save_state(path, network, optimiser, ema, Progress(step=3, epoch=1, rows=[{"epoch": 1, "top1": 0.5}]))
        whole = path.read_bytes()

    def said(**changes: Any) -> bytes:
        def change(header: dict[str, Any]) -> None:
            header["__metadata__"]["progress"] = json.dumps(json.loads(header["__metadata__"]["progress"]) | changes)

        return _header(whole, change)

    def renamed(old: str, new: str) -> bytes:
        return _header(whole, lambda header: {new if name == old else name: value for name, value in header.items()})

    (length,) = struct.unpack("<Q", whole[:8])
    names = list(json.loads(whole[8 : 8 + length]))
    slot = next(name for name in names if name.startswith("optimiser."))
    flipped = bytearray(whole)
    flipped[-3] ^= 0x40
    files: dict[str, Content] = {
        "ok-whole": whole,
        "bad-flipped-bit": bytes(flipped),  # B4
        "bad-step": said(step=1 << 30),  # B5
        "bad-finished": said(finished=True),
        "bad-epoch-text": said(epoch="1"),
        "bad-rows": said(rows=[[1]]),
        "bad-seconds-nan": said(seconds=float("nan")),
        "bad-digits": _header(whole, lambda header: header["__metadata__"].update(progress='{"step": ' + "9" * 9000 + "}")),
        "bad-deep": _header(whole, lambda header: header["__metadata__"].update(progress="[" * 3000)),
        "bad-slot-name": renamed(slot, "optimiser.x.y.z"),
        "bad-slot-number": renamed(slot, "optimiser.99999999.exp_avg"),
        "bad-ema-name": renamed(next(name for name in names if name.startswith("ema.")), "ema.nobody"),
        "bad-model-name": renamed(next(name for name in names if name.startswith("model.")), "model.nobody"),
        "bad-cut": whole[:-10],
        "bad-empty": b"",
        "bad-pipe": PIPE,
    }
    # Older states have no checksum: then each edit must still be refused in a sentence, or do no harm.
    for name, data in list(files.items()):
        if isinstance(data, bytes) and name.startswith("bad-") and len(data) > length:
            files[name.replace("bad-", "any-unsummed-")] = _header(
                data, lambda header: header["__metadata__"].pop("checksum", None) and None
            )
    return {name: {"state.safetensors": data} for name, data in files.items()}
