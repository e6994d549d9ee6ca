"""How fast: swinkit and its peers in turn in one run, same weights, answers compared, beside the products alone.

Run ``python -m benchmarks [--only SECTION ...] [--rounds 7]``. Each section prints a table and writes it to
``docs/benchmarks/cpu.md`` (the section accelerator, for machines that have one, to ``accelerator.md`` beside it), where sections
of earlier runs stay. Times are medians of calls that take turns; on a shared machine only the ratios mean something.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import inspect
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from benchmarks import accelerator as on_accelerator
from benchmarks.contenders import (
    FLOORS,
    PARTS,
    SMALL,
    classify_makers,
    int8_makers,
    photo_makers,
    pyramid_makers,
    segment_makers,
)
from benchmarks.peers import Products, network, spec_of
from benchmarks.processor import peak
from benchmarks.training import training
from benchmarks.turns import Makers, enough, take_turns
from swinkit.engines.timing import interleaved
from swinkit.files import atomic_write
from swinkit.models.variants import resolve
from swinkit.runs.card import machine
from swinkit.specs import ModelSpec, Preprocessing, Variant

PAGES = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
BOUND = 1e-4  # of answers that shall be equal


class Bench:
    """Options of the run."""

    def __init__(self, rounds: int, photos: int, cache: Path, batch: int = 16) -> None:
        self.rounds, self.photos, self.cache, self.batch = rounds, photos, cache, batch


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


PLACES = {"near": "Cores that share a cache", "far": "Cores that share none"}


def compare(
    makers: Callable[..., Makers], arguments: tuple, bench: Bench, bases: Sequence[str], unequal: Sequence[str] = ()
) -> str:
    """Let contenders take turns and return their table: times and their ratio to ``bases``, the first of which is the truth.

    There is a table for each place of the cores in which every contender had as many turns as wanted; one of all turns where
    neither has.

    Args:
        makers, arguments: as for ``take_turns``.
        bench: rounds.
        bases: names.
        unequal: whose answers need not be the same.

    Raises:
        SystemExit: another's answer differs by more than ``BOUND``.
    """
    found = take_turns(makers, arguments, bench.rounds)
    truth, errors = found[bases[0]].answer, {}
    for name, contender in found.items():
        same_shape = contender.answer.shape == truth.shape and truth.size
        errors[name] = float(np.abs(contender.answer - truth).max()) if same_shape else math.nan
        if contender.answer.size and name not in unequal and not errors[name] <= BOUND:
            raise SystemExit(f"{name} answers otherwise than {bases[0]}: {errors[name]:.2g}")
    tables = []
    for place in [place for place in PLACES if enough(found, place, bench.rounds)] or [""]:
        rows = []
        for name, contender in found.items():
            times = [contender.ms(place) / found[base].ms(place) for base in bases]
            error = "-" if math.isnan(errors[name]) else f"{errors[name]:.1g}"
            held = f"{contender.megabytes:.0f}{'' if contender.alone else ' together'}"
            rows.append([name, f"{contender.ms(place):.1f}", *(f"{x:.2f}" for x in times), error, held])
        turns = [len(contender.turns(place)) for contender in found.values()]
        about = f"{PLACES.get(place, 'Cores in either place')}, medians of {min(turns)} to {max(turns)} turns:"
        tables.append(
            f"{about}\n\n{markdown(['what', 'ms', *(f'x {base}' for base in bases), 'largest difference', 'peak MB'], rows)}"
        )
    return "\n\n".join(tables)


def classify(bench: Bench) -> str:
    """Swin-S at 224: engines and peers, batch 1 and 8."""
    engines, bases = ("torch", "folded", "compile", "openvino", "onnxruntime"), ("timm eager", "timm in OpenVINO", *FLOORS)
    parts = []
    for batch in (1, 8):
        arguments = (resolve(SMALL)[1], batch, bench.cache, engines, ("timm", "hf", "torchvision"))
        parts.append(f"### Batch {batch}\n\n{compare(classify_makers, arguments, bench, bases)}")
    return "\n\n".join(parts)


def families(bench: Bench) -> str:
    """V2 at 256 and window 12 at 384 (tiny V2, base V1), batch 1."""
    parts = []
    for name in ("swinv2_tiny_patch4_window8_256", "swin_base_patch4_window12_384"):
        arguments = (resolve(name)[1], 1, bench.cache, ("torch", "compile", "openvino"), ("timm", "hf"))
        parts.append(f"### {name}\n\n{compare(classify_makers, arguments, bench, ('timm eager', 'timm in OpenVINO', *FLOORS))}")
    return "\n\n".join(parts)


def int8(bench: Bench) -> str:
    """Eight bits in OpenVINO, Swin-S batch 8: ours, and NNCF applied to timm's graph, which answers other pictures."""
    theirs = ("timm exact", "timm eight bits")
    with tempfile.TemporaryDirectory() as folder:
        arguments = (bench.cache, Path(folder) / "int8")
        return compare(int8_makers, arguments, bench, ("swinkit exact", *theirs), ("swinkit eight bits", *theirs))


def pyramid(bench: Bench) -> str:
    """The Swin-T pyramid at 800 x 1216, batch 1: swinkit, transformers' SwinBackbone, and what padded rows cost."""
    bases = ("transformers eager", "transformers compiled", "transformers in OpenVINO", "transformers in ONNX Runtime")
    return compare(pyramid_makers, (bench.cache,), bench, bases)


def segment(bench: Bench) -> str:
    """UPerNet on Swin-T at 512 x 512, 150 classes, batch 1, against transformers' own."""
    bases = ("transformers eager", "transformers in OpenVINO", "transformers in ONNX Runtime")
    return compare(segment_makers, (bench.cache,), bench, bases)


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
    """1,000 photos on disk to top-5, Swin-S and Swin-T: swinkit's predictor against transformers' pipeline, batch 8.

    Each engine alone takes its turn right behind the predictor with it, in the same process; the share of its rate is the median
    over the rounds.
    """
    from benchmarks.startup import make_photos
    from swinkit.weights import save_pretrained

    parts, rounds = [], max(bench.rounds, PARTS // 2)  # of two calls each: every photo is answered
    for source in (SMALL, "swin_tiny_patch4_window7_224"):
        variant = resolve(source)[1]
        spec = spec_of(variant).changed(labels=tuple(f"class {i}" for i in range(1000)))
        with tempfile.TemporaryDirectory() as temporary:
            make_photos(Path(temporary) / "photos", bench.photos)
            save_pretrained(network(variant), spec, Path(temporary) / "hf")
            found = take_turns(photo_makers, (variant, Path(temporary), bench.cache), rounds, patience=0, lives=1)
        pipeline = found["transformers pipeline"]
        for place in [place for place in PLACES if enough(found, place, rounds)] or [""]:
            rows = []
            for name, contender in found.items():
                if name.endswith(" alone"):
                    continue
                own = found.get(f"{name.removeprefix('swinkit ')} alone")
                each = contender.ms(place) / (bench.photos / PARTS)  # ms of a photo
                same = (contender.answer == pipeline.answer) & (pipeline.answer >= 0)
                rows.append(
                    [
                        name,
                        f"{1e3 / each:.1f}",
                        f"{pipeline.ms(place) / contender.ms(place):.2f}",
                        "" if own is None else f"{100 * own.part(contender):.0f} %",
                        f"{int(same[:, 0].sum())} of {len(same)}",
                        f"{int(same.all(1).sum())} of {len(same)}",
                        f"{contender.megabytes:.0f}",
                    ]
                )
            head = ["what", "photos/s", "x pipeline", "of the engine's own rate", "same first", "same five", "peak MB"]
            about = f"{PLACES.get(place, 'Cores in either place')}, medians of {len(pipeline.turns(place))} turns:"
            parts.append(f"### {source}\n\n{about}\n\n{markdown(head, rows)}")
    return "\n\n".join(parts)


def kernels(bench: Bench) -> str:
    """Kernels of our own (`engines/kernels`), off (plain PyTorch) and on, in turn in one process, on shapes of Swin-T; rounding.

    That is the root mean square against float64, in multiples of float32's own (`F.linear`), of numbers of size 1, one channel in
    a hundred many times larger. Where products of bytes (AMX) lose more than four times, they are not used.
    """
    from benchmarks import kernels as ours

    rows = [row for batch in (1, 8) for row in ours.speed(batch, bench.rounds)]
    losses = markdown(["large channels", "inputs", "seven products", "products of bytes", "with AMX"], ours.accuracy())
    return markdown(["kernel", "stage", "batch", "off, ms", "on, ms", "on / off"], rows) + f"\n\nRounding:\n\n{losses}"


def exports(_bench: Bench) -> str:
    """Every kind of export of every task: largest difference from the network over batches 1 and 3, at two sizes."""
    from swinkit import create_backbone, create_model
    from swinkit.export import export_network
    from swinkit.specs import ModelSpec

    pre = Preprocessing((224, 224))
    models: dict[str, tuple[nn.Module, ModelSpec]] = {}
    for name in ("swin_tiny_patch4_window7_224", "swinv2_tiny_patch4_window8_256"):
        models[name] = (network(resolve(name)[1]), spec_of(resolve(name)[1]))
    tiny = create_backbone("swin_tiny").eval()
    models["pyramid of swin_tiny"] = (tiny, ModelSpec(tiny.variant.changed(num_classes=0), pre))
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
    return "\n\n".join([*(f"{name}:\n\n{table}" for name, table in parts.items()), limit(variant, len(pixels))])


def limit(variant: Variant, batch: int) -> str:
    """Return a sentence: what the products need on a processor that does nothing but multiply and add, in registers."""
    products = Products(network(variant), torch.randn(batch, 3, variant.img_size, variant.img_size))
    work = sum(2 * rows * layer.weight.numel() for rows, layer in zip(products.rows, products.layers, strict=True))  # type: ignore[operator,union-attr]
    most = peak()
    return (
        f"The products are {work / 1e9:.1f} GFLOP. This processor multiplies and adds {most / 1e9:.0f} GFLOP a second at most, "
        f"with everything in registers: as products of float32 they take {1e3 * work / most:.1f} ms at least."
    )


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
    "training": ("A training step", training),
    "kernels": ("Kernels of our own, off and on", kernels),
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
    parser.add_argument("--batch", type=int, default=16, help="pictures of a training step")
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
        bench = Bench(arguments.rounds, arguments.photos, arguments.cache or Path(temporary), arguments.batch)
        for name in chosen:
            title, section = SECTIONS[name]
            torch.manual_seed(0)
            text = section(bench)
            Console(width=160, markup=False, highlight=False).print(f"{title}\n{text}\n")
            _write(arguments.pages, name, title, inspect.getdoc(section) or "", text, arguments.rounds)


def _write(pages: Path, name: str, title: str, about: str, text: str, rounds: int) -> None:
    """Put a section into its page, in the order of ``SECTIONS``; the others stay as they are."""
    kind = "accelerator" if name == "accelerator" else "cpu"
    page = pages / f"{kind}.md"
    there = page.read_text(encoding="utf-8") if page.is_file() else ""
    parts = {found[1]: found[0] for found in re.finditer(r"<!-- (\w+) -->.*?(?=\n<!-- |\Z)", there, re.DOTALL)}
    made = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {'; '.join((*machine(), *_versions()))}; medians of {rounds}"
    parts[name] = f"<!-- {name} -->\n## {title}\n\n{about}\n\n{text}\n\n`python -m benchmarks --only {name}`, {made}.\n"
    head = f"# {TITLES[kind]}\n\nPrinted by `python -m benchmarks`; only ratios within a table mean something.\n"
    atomic_write(page, "\n".join([head, *(parts[key] for key in SECTIONS if key in parts)]))


def _versions() -> list[str]:
    import importlib.metadata

    wanted = {"timm", "transformers", "openvino", "onnxruntime", "nncf"}
    found = {found.name: found.version for found in importlib.metadata.distributions() if found.name in wanted}
    return [f"{name} {version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    main()
