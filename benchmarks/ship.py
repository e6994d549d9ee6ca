"""Put a finished run's weights into the package, and its log and card into the documentation.

Run ``python -m benchmarks.ship RUN swin-nano-cifar10`` after ``swinkit train cifar10 --data DIR --out RUN``.
"""

from __future__ import annotations

import argparse
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from swinkit.cards import RunFacts, run_card
from swinkit.embedded import EMBEDDED
from swinkit.files import atomic_write
from swinkit.models.build import build_network
from swinkit.models.systems import segmenter_macs
from swinkit.models.variants import count_macs
from swinkit.training import runs
from swinkit.training.checkpoint import read_progress
from swinkit.weights import load_checkpoint, save_native

ROOT = Path(__file__).resolve().parents[1]


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
SHIPPED = {"swin-nano-cifar10": CIFAR}


def main() -> None:
    """Copy, describe, say what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("name", choices=sorted(SHIPPED))
    arguments = parser.parse_args()
    about, progress = SHIPPED[arguments.name], read_progress(arguments.run / runs.STATE)
    best = next(row for row in progress.rows if row["epoch"] == progress.best_epoch)
    metrics = {name: best[name] for name in about.metrics}
    if metrics[about.metrics[0]] < about.least:
        raise SystemExit(f"{about.metrics[0]} {metrics[about.metrics[0]]:.4f} is under {about.least}: it does not ship")
    checkpoint = load_checkpoint(arguments.run / runs.BEST)
    facts = {"trained_on": about.dataset, **{f"licence of {k}": v for k, v in about.licences.items()}, "metrics": metrics}
    spec = checkpoint.spec.changed(name=arguments.name, facts=facts)
    asset = ROOT / "src" / "swinkit" / "assets" / EMBEDDED[arguments.name]
    tensors = checkpoint.tensors
    if spec.decoder is not None:  # the auxiliary head lives in training only
        heads = ("decode_head.", "neck.")
        tensors = {
            key if key.startswith(heads) else f"backbone.{key}": tensor
            for key, tensor in tensors.items()
            if not key.startswith("auxiliary_head.")
        }
    save_native(asset, tensors, spec)
    network = build_network(load_checkpoint(asset).spec)
    size = spec.preprocessing.size
    macs = (
        count_macs(spec.variant) if spec.decoder is None else sum(segmenter_macs(spec.variant, spec.decoder, size, True).values())
    )
    written = (arguments.run / "README.md").read_text()  # by the machine that trained, which need not be this one
    hardware, software, ended = (
        found[1] if (found := re.search(pattern, written)) else None
        for pattern in (r"- Hardware: (.+)", r"- Software: (.+)", r"ended: ([^;]+);")
    )
    card = run_card(
        RunFacts(
            name=arguments.name,
            description=about.description,
            preprocessing=spec.preprocessing.describe(),
            dataset=about.dataset,
            recipe=(arguments.run / "recipe.yaml").read_text(),
            data=[*about.data, f"fingerprint of both parts: {progress.data}"],
            metrics=metrics,
            intended=about.intended,
            out_of_scope=about.out_of_scope,
            limits=[*about.limits, f"best of {len(progress.rows)} epochs by the validation pictures it is reported on"],
            licences=about.licences,
            hardware=hardware,
            software=software,
            started=progress.started,
            ended=ended,
            seconds=progress.seconds,
            images_per_second=progress.images / progress.seconds,
            checkpoint_bytes=asset.stat().st_size,
            kilowatt_hours=progress.kilowatt_hours,
            carbon_kg=progress.carbon_kg,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            gflops=macs / 1e9,
            base_model=str(checkpoint.spec.facts.get("started_from") or "") or None,
            unknown={
                "kilowatt_hours": "no meter was read",
                "carbon_kg": "the environment variable SWINKIT_COUNTRY did not say where the power came from",
            },
        )
    )
    folder = ROOT / "docs" / "model-cards"
    card = card.replace('swinkit.load("weights/best.safetensors")', f'swinkit.load("{arguments.name}")')
    pictures = f"\n![curves]({arguments.name}/curves.png)\n\n![confusion matrix]({arguments.name}/confusion_matrix.png)\n"
    log = f"\nThe log of every epoch: [`{arguments.name}/results.csv`]({arguments.name}/results.csv).\n{pictures}"
    atomic_write(folder / f"{arguments.name}.md", card.rstrip() + "\n" + log)
    for name in ("results.csv", "curves.png", "confusion_matrix.png"):
        (folder / arguments.name).mkdir(exist_ok=True)
        shutil.copyfile(arguments.run / name, folder / arguments.name / name)
    Console().print(f"{asset.relative_to(ROOT)}: {asset.stat().st_size:,} bytes, {metrics}; card in {folder.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
