"""How fast: swinkit and its peers in turn in one run, same weights, answers compared, beside the products alone.

Run ``python -m benchmarks [--only SECTION ...] [--rounds 7]``. Each section prints a table and writes it to
``docs/benchmarks/cpu.md`` (the section accelerator, for machines that have one, to ``accelerator.md`` beside it), where sections
of earlier runs stay. Times are medians of calls that take turns; on a shared machine only the ratios mean something.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from benchmarks import accelerator as on_accelerator
from benchmarks.peers import (
    Call,
    floor_compiled,
    floor_in_openvino,
    in_openvino,
    network,
    openvino_call,
    our_engines,
    plain,
    same,
    spec_of,
)
from swinkit.cards import machine
from swinkit.engines.timing import interleaved
from swinkit.files import atomic_write
from swinkit.models import swin
from swinkit.models.variants import resolve
from swinkit.specs import Variant

PAGES = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
BOUND = 1e-4  # of answers that shall be equal
SMALL = "swin_small_patch4_window7_224"


class Bench:
    """Options of the run, and what every section needs."""

    def __init__(self, rounds: int, photos: int, cache: Path) -> None:
        self.rounds, self.photos, self.cache = rounds, photos, cache

    def compare(self, calls: dict[str, Call], reference: str, exact: set[str] | None = None) -> dict[str, dict[str, float]]:
        """Return ms and the difference of answers from the reference's, a row a call; those of ``exact`` must agree."""
        with torch.inference_mode():
            expected = plain(calls[reference]()).clone()
            rows: dict[str, dict[str, float]] = {}
            for name, call in calls.items():
                answer = plain(call())
                fits = answer.shape == expected.shape
                rows[name] = {"error": float((answer - expected).abs().max()) if fits else math.nan}
                if (exact is None or name in exact) and fits and not rows[name]["error"] <= BOUND:
                    raise SystemExit(f"{name} answers otherwise than {reference}: {rows[name]['error']:.2g}")
            for name, seconds in interleaved(calls, self.rounds).items():
                rows[name]["ms"] = 1e3 * seconds
        return rows


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def ratios(rows: dict[str, dict[str, float]], bases: list[str]) -> str:
    """Return the rows with their ratio to some of them."""
    body = []
    for name, row in rows.items():
        error = "-" if math.isnan(row["error"]) else f"{row['error']:.1g}"
        body.append([name, f"{row['ms']:.1f}", *(f"{row['ms'] / rows[base]['ms']:.2f}" for base in bases), error])
    return markdown(["what", "ms", *(f"x {base}" for base in bases), "largest difference"], body)


def classify_calls(
    variant: Variant, batch: int, bench: Bench, engines: tuple[str, ...], peers: tuple[str, ...]
) -> dict[str, Call]:
    """Return calls of our engines, of the peers, of OpenVINO on timm's graph, and of the products alone."""
    model, images = network(variant), torch.randn(batch, 3, variant.img_size, variant.img_size)
    theirs = {name: same(model, name) for name in peers}
    calls: dict[str, Call] = {f"{name} eager": functools.partial(peer, images) for name, peer in theirs.items()}
    for name, engine in our_engines(model, spec_of(variant), bench.cache, engines).items():
        calls[f"swinkit {name}"] = functools.partial(engine, images)
    if "timm" in theirs:
        if "compile" in engines:
            calls["timm compiled"] = functools.partial(torch.compile(theirs["timm"], dynamic=False), images)
        calls["timm in OpenVINO"] = openvino_call(in_openvino(theirs["timm"], images), images.numpy())
    calls["products in OpenVINO"] = floor_in_openvino(model, images)
    if "compile" in engines:
        calls["products compiled"] = floor_compiled(model, images)
    return calls


def classify(bench: Bench) -> str:
    """Swin-S at 224: engines and peers, batch 1 and 8."""
    parts = []
    for batch in (1, 8):
        engines = ("torch", "folded", "compile", "openvino", "onnxruntime")
        calls = classify_calls(resolve(SMALL)[1], batch, bench, engines, ("timm", "hf", "torchvision"))
        rows = bench.compare(calls, "timm eager")
        parts.append(
            f"Batch {batch}:\n\n{ratios(rows, ['timm eager', 'timm in OpenVINO', 'products in OpenVINO', 'products compiled'])}"
        )
    return "\n\n".join(parts)


def families(bench: Bench) -> str:
    """V2 at 256 and window 12 at 384 (tiny V2, base V1), batch 1."""
    parts = []
    for name in ("swinv2_tiny_patch4_window8_256", "swin_base_patch4_window12_384"):
        calls = classify_calls(resolve(name)[1], 1, bench, ("torch", "compile", "openvino"), ("timm", "hf"))
        rows = bench.compare(calls, "timm eager")
        parts.append(f"{name}:\n\n{ratios(rows, ['timm eager', 'timm in OpenVINO', 'products in OpenVINO'])}")
    return "\n\n".join(parts)


def int8(bench: Bench) -> str:
    """Eight bits, Swin-S batch 8: ours, NNCF applied to timm's graph, both against exact OpenVINO."""
    import nncf
    import openvino as ov

    from swinkit.engines import openvino
    from swinkit.engines.exported import ExportedEngine, canary_pixels
    from swinkit.export import export_network
    from swinkit.export.int8 import quantiser

    variant = resolve(SMALL)[1]
    model, spec = network(variant), spec_of(variant)
    images = torch.randn(8, 3, 224, 224)
    pixels = torch.from_numpy(canary_pixels(spec, (224, 224), 8))
    pictures = np.split(canary_pixels(spec, (224, 224), 40), 40)
    with tempfile.TemporaryDirectory() as folder:
        export_network(model, spec, Path(folder) / "int8", "openvino", [(224, 224)], quantiser(pictures, smooth=True))
        ours = ExportedEngine(Path(folder) / "int8")
        theirs = same(model, "timm")
        with torch.no_grad():
            graph = ov.convert_model(torch.export.export(theirs, (images,)))
        # timm's graph has its batch inside: it is calibrated eight pictures at a time
        eights = [np.concatenate(pictures[i : i + 8]) for i in range(0, 40, 8)]
        normalised = [((pixels / 255.0 - 0.45) / 0.226).astype(np.float32) for pixels in eights]
        quantised = nncf.quantize(
            graph, nncf.Dataset(normalised), subset_size=len(normalised), model_type=nncf.ModelType.TRANSFORMER
        )
        exact = our_engines(model, spec, bench.cache, ("openvino",))["openvino"]
        calls: dict[str, Call] = {
            "swinkit exact": functools.partial(exact, pixels),
            "swinkit eight bits": functools.partial(ours, pixels),
            "timm in OpenVINO, exact": openvino_call(in_openvino(theirs, images), images.numpy()),
            "timm in OpenVINO, eight bits": openvino_call(openvino.compiled(quantised), images.numpy()),
        }
        rows = bench.compare(calls, "swinkit exact", exact=set())
    for name in ("timm in OpenVINO, exact", "timm in OpenVINO, eight bits"):
        rows[name]["error"] = math.nan  # other pictures
    return ratios(rows, ["swinkit exact", "timm in OpenVINO, eight bits"])


def pyramid(bench: Bench) -> str:
    """The Swin-T pyramid at 800 x 1216, batch 1: swinkit, transformers' SwinBackbone, and what padded rows cost."""
    import transformers
    from safetensors.torch import save_file

    from swinkit import create_backbone
    from swinkit.export import OnDemandEngine
    from swinkit.specs import ModelSpec, Preprocessing
    from swinkit.weights import from_neutral

    model = create_backbone("swin_tiny").eval()
    images = torch.randn(1, 3, 800, 1216)
    config = transformers.SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    tensors = from_neutral(model.state_dict(), "hf", 1, "swin.")
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tensors = {k.removeprefix("swin."): v.contiguous() for k, v in tensors.items()}
        save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
        theirs = transformers.SwinBackbone.from_pretrained(folder, config=config).eval()

    def maps(answer: Any) -> Any:
        return answer.feature_maps[-1] if hasattr(answer, "feature_maps") else answer[-1]

    class Maps(nn.Module):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return list(theirs(images).feature_maps)

    spec = ModelSpec(model.variant.changed(num_classes=0), Preprocessing((800, 1216)), task="pyramid", name="swin_tiny")
    ours, left_out = (OnDemandEngine(model, spec, "openvino", bench.cache / name) for name in ("usual", "rows left out"))
    machine_code = OnDemandEngine(model, spec, "aotinductor", bench.cache)
    compiled = torch.compile(Maps(), dynamic=False)
    ours(images)
    with padding_pays(0):
        left_out(images)
    request = in_openvino(Maps(), images).create_infer_request()

    def transformers_in_openvino() -> Any:
        request.infer([images.numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(request.output_tensors[3].data)

    def padded(share: float) -> Any:
        with padding_pays(share):
            return maps(model(images))

    calls: dict[str, Call] = {
        "transformers eager": lambda: maps(theirs(images)),
        "swinkit torch": lambda: maps(model(images)),
        "swinkit torch, all padded rows computed": lambda: padded(math.inf),
        "swinkit torch, no padded rows computed": lambda: padded(0),
        "transformers compiled": lambda: maps(compiled(images)),
        "swinkit compile": lambda: maps(machine_code(images)),
        "transformers in OpenVINO": transformers_in_openvino,
        "swinkit openvino": lambda: maps(ours(images)),
        "swinkit openvino, no padded rows computed": lambda: maps(left_out(images)),
    }
    return ratios(
        bench.compare(calls, "transformers eager"), ["transformers eager", "transformers compiled", "transformers in OpenVINO"]
    )


@contextlib.contextmanager
def padding_pays(share: float) -> Iterator[None]:
    """While entered, products of padded rows are computed up to this share of a map times channels: 0 none, infinity all."""
    usual, swin.PADDING_PAYS = swin.PADDING_PAYS, share
    try:
        yield
    finally:
        swin.PADDING_PAYS = usual


def segment(bench: Bench) -> str:
    """UPerNet on Swin-T at 512 x 512, 150 classes, batch 1, against transformers' own."""
    from transformers import UperNetForSemanticSegmentation

    from swinkit import create_model
    from swinkit.models.segmentation import Segmenter
    from swinkit.specs import ModelSpec, Preprocessing
    from swinkit.weights import save_pretrained

    model = create_model("upernet", backbone="swin_tiny").eval()
    assert isinstance(model, Segmenter)
    variant = model.backbone.variant.changed(num_classes=150)  # type: ignore[union-attr]
    spec = ModelSpec(variant, Preprocessing((512, 512)), task="segment", name="upernet_swin_tiny", decoder=model.decoder)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, spec, Path(folder) / "hf")
        theirs = UperNetForSemanticSegmentation.from_pretrained(Path(folder) / "hf").eval()
    images = torch.randn(1, 3, 512, 512)

    class Logits(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return theirs(images).logits

    engines = our_engines(model, spec, bench.cache, ("torch", "compile", "openvino", "onnxruntime"))
    calls: dict[str, Call] = {
        "transformers eager": lambda: theirs(images),
        "transformers in OpenVINO": openvino_call(in_openvino(Logits(), images), images.numpy()),
        **{f"swinkit {name}": functools.partial(engine, images) for name, engine in engines.items()},
    }
    return ratios(bench.compare(calls, "transformers eager"), ["transformers eager", "transformers in OpenVINO"])


def sizes(bench: Bench) -> str:
    """Swin-T pyramid from 224 to 1344 pixels, torch: time, peak memory of a fresh process, exponent over pixels."""
    sides = (224, 448, 672, 896, 1120, 1344)
    from swinkit import create_backbone

    model = create_backbone("swin_tiny").eval()
    images = {side: torch.randn(1, 3, side, side) for side in sides}
    with torch.inference_mode():
        seconds = interleaved({str(side): functools.partial(model, images[side]) for side in sides}, bench.rounds)
    rows = []
    for side in sides:
        # VmHWM begins anew with a program; ru_maxrss would begin at this process's own
        code = (
            "import torch, swinkit; m = swinkit.create_backbone('swin_tiny').eval();"
            f"torch.set_num_threads({torch.get_num_threads()}); mode = torch.inference_mode(); mode.__enter__();"
            f"m(torch.randn(1, 3, {side}, {side}));"
            "print(next(int(line.split()[1]) // 1024 for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        peak = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        rows.append([str(side), f"{1e3 * seconds[str(side)]:.0f}", f"{1e9 * seconds[str(side)] / side**2:.0f}", peak])
    exponent = np.polyfit(np.log([side**2 for side in sides]), np.log([seconds[str(side)] for side in sides]), 1)[0]
    return markdown(["side, pixels", "ms", "ns a pixel", "peak MB"], rows) + f"\n\nExponent of time over pixels: {exponent:.3f}"


def photos(bench: Bench) -> str:
    """1,000 photos on disk to top-5, Swin-T's weights: swinkit's predictor against transformers' pipeline, batch 8."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    from benchmarks.startup import make_photos
    from swinkit.prediction import Predictor
    from swinkit.weights import save_pretrained

    variant = resolve("swin_tiny_patch4_window7_224")[1]
    model, spec = network(variant), spec_of(variant).changed(labels=tuple(f"class {i}" for i in range(1000)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_photos(folder / "photos", bench.photos)
        paths = [str(path) for path in sorted((folder / "photos").iterdir())]
        save_pretrained(model, spec, folder / "hf")
        theirs = pipeline(
            "image-classification",
            model=AutoModelForImageClassification.from_pretrained(folder / "hf"),
            image_processor=AutoImageProcessor.from_pretrained(folder / "hf"),
        )
        engines = our_engines(model, spec, bench.cache, ("torch", "compile", "openvino"))
        ours = {name: Predictor(engine, spec, model) for name, engine in engines.items()}

        def rate(call: Callable[[list[str]], list[Any]]) -> tuple[float, list[Any]]:
            call(paths[:16])
            began = time.perf_counter()
            answers = call(paths)
            return len(paths) / (time.perf_counter() - began), answers

        found = {"transformers pipeline": rate(lambda chosen: theirs(chosen, batch_size=8, top_k=5))}
        for name, predictor in ours.items():
            found[f"swinkit {name}"] = rate(lambda chosen, p=predictor: list(p.stream(chosen, batch=8)))
        images = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8)
        with torch.inference_mode():
            alone = interleaved(
                {
                    name: functools.partial(engine, images if name != "torch" else images / 255.0)
                    for name, engine in engines.items()
                },
                bench.rounds,
            )
    peer_rate, peer_answers = found["transformers pipeline"]
    tops = [max(answer, key=lambda row: row["score"])["label"] for answer in peer_answers]
    rows = []
    for name, (speed, answers) in found.items():
        own = alone.get(name.removeprefix("swinkit "))
        share = f"{100 * speed * own / 8:.0f} %" if own else ""
        agree = (
            ""
            if own is None
            else f"{sum(a.predictions[0].label == t for a, t in zip(answers, tops, strict=True))} of {len(tops)}"
        )
        rows.append([name, f"{speed:.1f}", f"{speed / peer_rate:.2f}", share, agree])
    return markdown(["what", "photos/s", "x pipeline", "of the engine's own rate", "same top-1"], rows)


def exports(_bench: Bench) -> str:
    """Every kind of export of every task: largest difference from the network over batches 1 and 3, at two sizes."""
    from swinkit import create_backbone, create_model
    from swinkit.export import export_network
    from swinkit.specs import ModelSpec, Preprocessing

    pre = Preprocessing((224, 224))
    models: dict[str, tuple[nn.Module, ModelSpec]] = {}
    for name in ("swin_tiny_patch4_window7_224", "swinv2_tiny_patch4_window8_256"):
        models[name] = (network(resolve(name)[1]), spec_of(resolve(name)[1]))
    tiny = create_backbone("swin_tiny").eval()
    models["pyramid of swin_tiny"] = (tiny, ModelSpec(tiny.variant.changed(num_classes=0), pre, task="pyramid"))
    for kind in ("upernet", "fpn", "unet"):
        model = create_model(kind, backbone="swin_tiny", num_classes=21).eval()
        variant = model.backbone.variant.changed(num_classes=21)  # type: ignore[union-attr]
        models[f"{kind} on swin_tiny"] = (model, ModelSpec(variant, pre, task="segment", decoder=model.decoder))  # type: ignore[union-attr]
    rows = []
    for name, (model, spec) in models.items():
        side = spec.preprocessing.size[0]
        chosen = [(side, side), (side + 32, side + 96)]
        for kind in ("openvino", "onnx", "torch", "aotinductor"):
            with tempfile.TemporaryDirectory() as folder:
                manifest = export_network(model, spec, Path(folder) / "export", kind, chosen)
            rows.append([name, kind, *(f"{h}x{w}: {e:.1e}" for (h, w), e in zip(chosen, manifest.errors, strict=True))])
            print(rows[-1], flush=True)
    return markdown(["network", "export", "first size", "second size"], rows)


def profile(bench: Bench) -> str:
    """Where the time goes: Swin-S, batch 8, by kind of node as OpenVINO tells it, and by kind of operation in machine code."""
    from swinkit.engines.exported import ExportedEngine, canary_pixels, graph_path
    from swinkit.export import export_network
    from swinkit.export.int8 import quantiser

    variant = resolve(SMALL)[1]
    model, spec, size = network(variant), spec_of(variant), (224, 224)
    pixels = canary_pixels(spec, size, 8)
    with tempfile.TemporaryDirectory() as folder:
        pictures = np.split(canary_pixels(spec, size, 40), 40)
        export_network(model, spec, Path(folder) / "int8", "openvino", [size], quantiser(pictures, smooth=True))
        export_network(model, spec, Path(folder) / "exact", "openvino", [size])
        with torch._inductor.config.patch({"cpp.enable_kernel_profile": True}):
            export_network(model, spec, Path(folder) / "code", "aotinductor", [size])
        code = ExportedEngine(Path(folder) / "code", trusted=True)
        parts = {
            "OpenVINO": openvino_profile(graph_path(Path(folder) / "exact", "openvino", size), pixels, bench.rounds),
            "OpenVINO, eight bits": openvino_profile(graph_path(Path(folder) / "int8", "openvino", size), pixels, bench.rounds),
        }
    images = torch.from_numpy(pixels)
    with torch.inference_mode():
        code(images)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
            began = time.perf_counter()
            for _ in range(bench.rounds):
                code(images)
            whole = 1e3 * (time.perf_counter() - began) / bench.rounds
    inside: dict[str, float] = {}
    for event in watched.key_averages():
        kind = "fused loops" if event.key.startswith(("graph_", "cpp_fused")) else event.key
        inside[kind] = inside.get(kind, 0.0) + event.self_cpu_time_total / 1e3 / bench.rounds
    inside["all else"] = whole - sum(inside.values())
    parts["compile"] = shares(inside)
    return "\n\n".join(f"{name}:\n\n{table}" for name, table in parts.items())


def openvino_profile(path: Path, pixels: np.ndarray, rounds: int) -> str:
    """Return a table of the median ms of each kind of node, the graph compiled for this number of pictures."""
    from swinkit.engines import openvino

    model = openvino.read(path)
    model.reshape(list(pixels.shape))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERF_COUNT": True}
    request = openvino.core().compile_model(model, "CPU", settings).create_infer_request()
    totals: dict[str, list[float]] = {}
    for _ in range(rounds):
        request.infer([pixels])
        seen: dict[str, float] = {}
        for node in request.profiling_info:
            seen[node.node_type] = seen.get(node.node_type, 0.0) + 1e3 * node.real_time.total_seconds()
        for kind, value in seen.items():
            totals.setdefault(kind, []).append(value)
    return shares({kind: float(np.median(values)) for kind, values in totals.items()})


def shares(parts: dict[str, float]) -> str:
    """Return a table of ms and their shares, largest first, without what is below a five hundredth."""
    whole = sum(parts.values())
    rows = sorted(((value, kind) for kind, value in parts.items() if value > whole / 500), reverse=True)
    return markdown(["what", "ms", "per cent"], [[kind, f"{value:.1f}", f"{100 * value / whole:.1f}"] for value, kind in rows])


def accelerator(bench: Bench) -> str:
    """Swin-S at 224 on this machine's accelerator: bfloat16, batch 1 and 128, and a training step, beside timm."""
    return on_accelerator.tables(resolve(SMALL)[1], torch.device("cuda"), bench.rounds)


SECTIONS: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "classify": ("Swin-S at 224, exact", classify),
    "profile": ("Where the time goes", profile),
    "int8": ("Eight bits", int8),
    "families": ("V2, and window 12 at 384", families),
    "pyramid": ("The pyramid at 800 x 1216", pyramid),
    "segment": ("UPerNet at 512 x 512", segment),
    "sizes": ("Cost against size", sizes),
    "photos": ("From photos on disk to top-5", photos),
    "exports": ("Exports agree", exports),
    "accelerator": ("Swin-S at 224 on an accelerator", accelerator),
}
TITLES = {"cpu": "Speed on a CPU", "accelerator": "Speed on an accelerator"}  # of pages


def main() -> None:
    """Run sections and write them into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(SECTIONS), default=None, metavar="SECTION")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each, in turn")
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--cache", type=Path, help="folder that keeps exports between runs")
    parser.add_argument("--pages", type=Path, default=PAGES, help="folder of the pages")
    arguments = parser.parse_args()
    there = torch.cuda.is_available()
    chosen = arguments.only or [name for name in SECTIONS if name != "accelerator" or there]
    if "accelerator" in chosen and not there:
        raise SystemExit("torch finds no accelerator here")
    if arguments.rounds < 7:
        print("medians of fewer than seven calls are for trying out only")
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(arguments.rounds, arguments.photos, arguments.cache or Path(temporary))
        for name in chosen:
            title, section = SECTIONS[name]
            torch.manual_seed(0)
            text = section(bench)
            Console(width=160, markup=False, highlight=False).print(f"{title}\n{text}\n")
            _write(arguments.pages, name, title, section.__doc__ or "", text, arguments.rounds)


def _write(pages: Path, name: str, title: str, about: str, text: str, rounds: int) -> None:
    """Put a section into its page, in the order of ``SECTIONS``; the others stay as they are."""
    kind = "accelerator" if name == "accelerator" else "cpu"
    page = pages / f"{kind}.md"
    there = page.read_text(encoding="utf-8") if page.is_file() else ""
    parts = {found[1]: found[0] for found in re.finditer(r"<!-- (\w+) -->.*?(?=\n<!-- |\Z)", there, re.DOTALL)}
    made = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {'; '.join((*machine(), *_versions()))}; medians of {rounds}"
    parts[name] = f"<!-- {name} -->\n## {title}\n\n{about.strip()}\n\n{text}\n\n`python -m benchmarks --only {name}`, {made}.\n"
    head = f"# {TITLES[kind]}\n\nPrinted by `python -m benchmarks`; only ratios within a table mean something.\n"
    atomic_write(page, "\n".join([head, *(parts[key] for key in SECTIONS if key in parts)]))


def _versions() -> list[str]:
    import importlib.metadata

    wanted = {"timm", "transformers", "openvino", "onnxruntime", "nncf"}
    found = {found.name: found.version for found in importlib.metadata.distributions() if found.name in wanted}
    return [f"{name} {version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    main()
