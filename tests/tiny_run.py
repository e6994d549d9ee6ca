"""A run small enough for tests: made-up pictures, a one-stage Swin, the real loop. Also a script for kill tests."""

from __future__ import annotations

import contextlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from swinkit.files import atomic_path
from swinkit.models.classifier import SwinClassifier
from swinkit.specs import Variant
from swinkit.tasks.classify.mixing import smooth_targets
from swinkit.tasks.recipes import parse_recipe
from swinkit.training.log import Metric
from swinkit.training.loop import train
from swinkit.training.recipe import Recipe

VARIANT = Variant(
    embed_dim=16,
    depths=(2, 1),
    num_heads=(1, 2),
    window_size=4,
    patch_size=2,
    img_size=16,
    num_classes=3,
    drop_path=0.2,
)


class TinyWork:
    metric = Metric("top1", "top-1")

    def __init__(self, count: int = 48, poison: int | None = None) -> None:
        rng = np.random.default_rng(7)
        self.labels = rng.integers(0, 3, count)
        self.images = rng.normal(0, 0.5, (count, 3, 16, 16)).astype(np.float32)
        self.images += self.labels[:, None, None, None].astype(np.float32)
        self.poison = poison

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        return f"tiny-{len(self)}"

    def sample(self, index: int, rng: np.random.Generator) -> Any:
        image = torch.from_numpy(self.images[index]) + 0.1 * torch.from_numpy(rng.standard_normal((3, 16, 16), np.float32))
        return (image * float("nan") if index == self.poison else image), int(self.labels[index])

    def collate(self, samples: list[Any], rng: np.random.Generator) -> dict[str, Any]:
        labels = torch.tensor([label for _, label in samples])
        return {"images": torch.stack([image for image, _ in samples]), "targets": smooth_targets(labels, 3, 0.1)}

    def evaluate(self, model: torch.nn.Module, device: torch.device, progress: Any = None) -> dict[str, Any]:
        model.eval()
        with torch.inference_mode():
            right = model(torch.from_numpy(self.images).to(device)).argmax(1).cpu().numpy() == self.labels
        return {"top1": float(right.mean())}

    def draw(self, folder: Path, batch: Any, report: Any) -> None: ...

    def save(self, path: Path, tensors: dict[str, torch.Tensor], progress: Any) -> None:
        with atomic_path(path) as temporary:
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)


@contextlib.contextmanager
def no_meter() -> Any:
    yield types.SimpleNamespace(kilowatt_hours=None, carbon_kg=None, reason="a test", measure=lambda: None)


def tiny_recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 8,
        "precision": "fp32",
        "workers": 0,
        "optimiser": {"learning_rate": 1e-3, "rate_batch": 8},
        "schedule": {"warmup_epochs": 0},
    }
    return parse_recipe(values | changes, "test")


def run(folder: Path, resume: bool = False, work: TinyWork | None = None, variant: Variant = VARIANT, **changes: Any) -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = SwinClassifier(variant)
    folder.mkdir(parents=True, exist_ok=True)
    progress = train(model, work or TinyWork(), tiny_recipe(**changes), folder, variant.depths, resume, no_meter)
    return model, progress


if __name__ == "__main__":
    target = Path(sys.argv[1])
    # Saving after every step makes a kill in the middle of a save likely; long enough to be killed on a busy machine.
    run(target, resume=(target / "state.safetensors").exists(), epochs=25, save_minutes=1e-9, ema_decay=0.9)
