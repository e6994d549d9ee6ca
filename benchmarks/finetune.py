"""What ``swinkit train finetune`` reaches on small folders, beside a linear probe on raw pixels.

Run ``python -m benchmarks.finetune --data ../shared/data``: trains on ``flowers`` and ``hymenoptera`` with the recipe as it is,
from the embedded weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from swinkit.data import ClassificationData, open_dataset
from swinkit.data.pixels import pixels_of, scaled
from swinkit.prediction import load
from swinkit.runs.card import machine
from swinkit.runs.train import train
from swinkit.tasks.classify.metric import evaluate_classifier as evaluate


def raw_pixels(data: ClassificationData) -> tuple[Tensor, Tensor]:
    """Return (pictures squashed to 32 x 32 as vectors in -1..1, labels)."""
    rows = [scaled(pixels_of(data.read(i)), (32, 32), "bilinear").float().flatten() / 127.5 - 1 for i in range(len(data))]
    return torch.stack(rows), torch.tensor([data.target(i) for i in range(len(data))])


def probe(train_data: ClassificationData, val_data: ClassificationData) -> tuple[float, float]:
    """Return (training, validation) accuracy of the best regularised linear classifier on raw pixels.

    The strength is chosen on the validation pictures, which flatters the probe.
    """
    inputs, labels = raw_pixels(train_data)
    others, truth = raw_pixels(val_data)
    mean, spread = inputs.mean(0), inputs.std(0) + 1e-3
    inputs, others = (inputs - mean) / spread, (others - mean) / spread
    best = (0.0, 0.0)
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        layer = torch.nn.Linear(inputs.shape[1], len(train_data.classes))
        torch.nn.init.zeros_(layer.weight)
        optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=300, line_search_fn="strong_wolfe")

        def closure(layer: torch.nn.Linear = layer, strength: float = strength) -> Tensor:
            layer.zero_grad()
            loss = F.cross_entropy(layer(inputs), labels) + strength * layer.weight.square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)  # type: ignore[arg-type]
        with torch.no_grad():
            scores = [float((layer(x).argmax(1) == y).float().mean()) for x, y in ((inputs, labels), (others, truth))]
        best = max(best, (scores[1], scores[0]))
    return best[1], best[0]


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with flowers and hymenoptera")
    parser.add_argument("--model", default="swin-nano-cifar10")
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe")
    arguments = parser.parse_args()
    table = Table(
        "data",
        "train / val pictures",
        "minutes",
        "train top-1",
        "val top-1",
        "probe train",
        "probe val",
        "difference",
    )
    for name in ("flowers", "hymenoptera"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.data / name
            began = time.perf_counter()
            run = train("finetune", folder, arguments.model, Path(temporary) / "run", arguments.set)
            minutes = (time.perf_counter() - began) / 60
            predictor = load(run / "weights" / "best.safetensors")
            parts = [open_dataset(folder, split) for split in ("train", "val")]
            ours = [evaluate(predictor.model, part, predictor.preprocessing)["top1"] for part in parts]
            theirs = probe(*parts)
        table.add_row(
            name,
            f"{len(parts[0])} / {len(parts[1])}",
            f"{minutes:.1f}",
            *(f"{value:.1%}" for value in (*ours, *theirs)),
            f"{100 * (ours[1] - theirs[1]):+.1f} points",
        )
    console = Console(width=130)
    console.print("; ".join(machine()))
    console.print(table)


if __name__ == "__main__":
    main()
