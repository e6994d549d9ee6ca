"""A training step of Swin-T in parts: forward, backward, optimiser, and the data of a batch, beside timm and transformers.

A section of ``python -m benchmarks``. All networks start from the same weights and do the same steps in turn in one process.
Their losses are compared.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers import network, plain, same
from benchmarks.startup import make_photos
from swinkit.data import read_image
from swinkit.data.transforms import Augmentation, augment
from swinkit.engines.memory import keep_memory
from swinkit.models.variants import resolve
from swinkit.specs import Preprocessing

if TYPE_CHECKING:
    from benchmarks.__main__ import Bench

TINY = "swin_tiny_patch4_window7_224"
PARTS = ("forward", "backward", "optimiser")
CLOSE = {"float32": 1e-4, "bfloat16": 0.1}  # of the losses of the first step
Step = dict[str, float]  # seconds of each part


@dataclass
class Trained:
    """A network that is trained for a few steps."""

    name: str
    run: Callable[..., object]
    model: nn.Module
    steps: list[Step] = field(default_factory=list)
    loss: float = 0.0

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-6, weight_decay=0.05, fused=True)

    def step(self, images: Tensor, labels: Tensor, precision: str) -> None:
        """Do one step and note what its parts took."""
        times = [time.perf_counter()]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(plain(self.run(images)).float(), labels)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        times.append(time.perf_counter())
        self.loss = float(loss.detach())
        self.steps.append(dict(zip(PARTS, np.diff(times).tolist(), strict=True)))

    def ms(self, part: str) -> float:
        """Return the median of a part; of the whole step for ""."""
        return 1e3 * statistics.median(sum(step.values()) if not part else step[part] for step in self.steps)


def training(bench: Bench) -> str:
    """A training step of Swin-T at 224 on the CPU, beside timm and transformers: same weights, losses compared."""
    batch, rounds = bench.batch, bench.rounds
    keep_memory()
    variant = resolve(TINY)[1].changed(drop_path=0.0)
    ours = network(variant)
    networks = {"swinkit": ours, "timm": same(ours, "timm"), "transformers": same(ours, "hf")}
    images = torch.randn(batch, 3, variant.img_size, variant.img_size)
    labels = torch.randint(0, variant.num_classes, (batch,))
    parts = []
    for precision in CLOSE:
        how = precision if precision == "float32" else f"{precision} autocast"
        about = f"{how}, {batch} pictures, eager, medians of {rounds} steps in turn:"
        parts.append(f"{about}\n\n{measured(networks, images, labels, precision, rounds)}")
    compiled = {name: networks[name] for name in ("swinkit", "timm")}
    about = f"float32, {batch} pictures, `torch.compile` (a recipe's `compile: true`), medians of {rounds} steps in turn:"
    parts.append(f"{about}\n\n{measured(compiled, images, labels, 'float32', rounds, compiled=True)}")
    about = (
        f"The data of a batch, {batch} JPEG photos of 1200 x 900, one process: read, augmented as in the authors' recipe "
        "(RandAugment, erasing), normalised; transformers' processor does not augment:"
    )
    parts.append(f"{about}\n\n{data(batch, rounds)}")
    return "\n\n".join(parts)


def measured(
    networks: dict[str, nn.Module], images: Tensor, labels: Tensor, precision: str, rounds: int, compiled: bool = False
) -> str:
    """Let networks do steps in turn and return their table.

    Raises:
        SystemExit: the losses of the first step differ.
    """
    found, begun = [], {}
    for name, model in networks.items():
        own = copy.deepcopy(model).train()
        for module in own.modules():
            if hasattr(module, "drop_prob"):  # stochastic depth of the other two
                module.drop_prob = 0.0
        began = time.perf_counter()
        found.append(Trained(name, torch.compile(own, dynamic=False) if compiled else own, own))
        found[-1].step(images, labels, precision)
        begun[name] = time.perf_counter() - began
        if not abs(found[-1].loss - found[0].loss) <= CLOSE[precision]:
            raise SystemExit(f"the first loss of {name} is {found[-1].loss:.6f}, of {found[0].name} {found[0].loss:.6f}")
        found[-1].steps.clear()
    for turn in range(rounds):
        for one in found[:: 1 if turn % 2 else -1]:
            one.step(images, labels, precision)
    head = ["what", *(f"{part}, ms" for part in PARTS), "step, ms", "images/s", *(f"x {one.name}'s pace" for one in found[1:])]
    rows = []
    for one in found:
        cells = [
            one.name,
            *(f"{one.ms(part):.0f}" for part in PARTS),
            f"{one.ms(''):.0f}",
            f"{1e3 * len(images) / one.ms(''):.2f}",
        ]
        rows.append([*cells, *(f"{pace(one, base):.2f}" for base in found[1:])])
        if compiled:
            rows[-1].append(f"{begun[one.name]:.0f}")
    return markdown([*head, "first step, s"] if compiled else head, rows)


def pace(one: Trained, base: Trained) -> float:
    """Return how many steps ``one`` does while ``base`` does one: the median over the rounds."""
    return statistics.median(sum(b.values()) / sum(a.values()) for a, b in zip(one.steps, base.steps, strict=True))


def data(batch: int, rounds: int) -> str:
    """Return a table: ms to make a batch of photos on disk ready for training."""
    import transformers
    from timm.data import create_transform

    preprocessing, options, rng = Preprocessing((224, 224)), Augmentation(), np.random.default_rng(0)
    theirs = create_transform(224, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25, interpolation="bicubic")
    processor = transformers.ViTImageProcessor(size={"height": 224, "width": 224})
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder) / "photos", batch)
        paths = sorted((Path(folder) / "photos").iterdir())
        calls: dict[str, Callable[[], object]] = {
            "swinkit": lambda: torch.stack([augment(read_image(path), preprocessing, options, rng) for path in paths]),
            "timm": lambda: torch.stack([theirs(Image.open(path).convert("RGB")) for path in paths]),
            "transformers": lambda: processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(rounds + 1):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                seconds[name] += [time.perf_counter() - began] if turn else []
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [[name, f"{1e3 * median:.0f}", f"{batch / median:.1f}"] for name, median in medians.items()]
    return markdown(["what", "data, ms", "images/s"], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
