"""The paper's ablation of the shift (arXiv 2103.14030, section 4.4) in small: windows that move against windows that stay.

Run ``python -m benchmarks.ablation --data ../shared/data --out DIR``: for CIFAR-10 (classification) and CamVid (segmentation, a
whole sequence held out) the same short training from scratch with and without shifted windows, a run a seed. A finished run
in DIR is not run again, an interrupted one goes on. The table goes to ``docs/benchmarks/shift.md``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from benchmarks.sequences import hold_out
from benchmarks.ship import measured
from swinkit.files import atomic_write
from swinkit.runs.card import machine
from swinkit.runs.train import train
from swinkit.tasks.recipes import load_recipe
from swinkit.training import runs
from swinkit.training.checkpoint import read_progress

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "shift.md"
ABOUT = """The same short training from scratch with shifted windows and with windows that stay where they are
(`network.shift=false`). Nothing else differs: a seed gives both arms the same first weights, order of pictures and changes of
pictures. The spread is the sample standard deviation over the seeds; the difference is paired by seed, its spread too. Trainings
this short say nothing about what the networks reach in the end."""
ARMS = {"shifted windows": "true", "no shift": "false"}
HELD = "0006R0"


@dataclass(frozen=True)
class Study:
    """One data set.

    Args:
        recipe: packaged one both arms follow.
        changes: to it, the same in both arms; {steps} is the budget.
        figures: of the last epoch, or of val.json -> what they are.
    """

    recipe: str
    changes: tuple[str, ...]
    figures: dict[str, str]


SHORT = ("from_scratch=true", "iterations={steps}", "evaluate_every=1000", "schedule.warmup_epochs=0.1", "data.check=false")
STUDIES = {
    "cifar10": Study("cifar10", (*SHORT, "compile=false"), {"top1": "top-1 on the 10,000 pictures of train-4"}),
    "camvid": Study(
        "camvid",
        (*SHORT, "scene.crop=[256, 256]"),
        {"mIoU": f"mIoU on the held-out sequence {HELD}", "val mIoU": "mIoU on CamVid's own val (one street, near the training)"},
    ),
}


def main() -> None:
    """Run what is missing, write the page, print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10 and camvid")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only", choices=sorted(STUDIES), action="append", help="run this alone; the page has all finished runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cifar10-steps", type=int, default=156, help="optimiser steps of 128 pictures")
    parser.add_argument("--camvid-steps", type=int, default=150, help="optimiser steps of 8 pictures")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    steps = {"cifar10": arguments.cifar10_steps, "camvid": arguments.camvid_steps}
    folders = {"cifar10": arguments.data / "cifar10", "camvid": arguments.out / f"camvid-{HELD}"}
    for name in arguments.only or STUDIES:
        if name == "camvid" and not folders[name].exists():
            hold_out(arguments.data / "camvid", HELD, folders[name])
        for seed in arguments.seeds:
            for arm in ARMS:
                folder = arguments.out / run_name(name, arm, seed)
                finish(STUDIES[name], overrides(STUDIES[name], steps[name], arm, seed), folders[name], folder)
                if name == "camvid" and not (folder / "val.json").exists():
                    report, _ = measured(folder / runs.LAST, arguments.data / "camvid")
                    atomic_write(folder / "val.json", json.dumps({"val mIoU": report["mIoU"]}))
    text = page(arguments.out, arguments.seeds, steps)
    atomic_write(arguments.page, text)
    Console(width=140, highlight=False).print(text, markup=False)


def run_name(study: str, arm: str, seed: int) -> str:
    """Return the folder's name of a run."""
    return f"{study}-{'shift' if ARMS[arm] == 'true' else 'still'}-{seed}"


def overrides(study: Study, steps: int, arm: str, seed: int) -> list[str]:
    """Return the changes to the recipe for one run; the arms differ in ``network.shift`` alone."""
    return [*(change.format(steps=steps) for change in study.changes), f"seed={seed}", f"network.shift={ARMS[arm]}"]


def finish(study: Study, changes: list[str], data: Path, folder: Path) -> None:
    """Train, go on with an interrupted run, or leave a finished one alone when it is of the same recipe."""
    begun = (folder / runs.STATE).exists()
    if begun and (progress := read_progress(folder / runs.STATE)).finished:
        if progress.recipe != load_recipe(study.recipe, changes).model_dump(mode="json"):
            raise SystemExit(f"{folder} holds a run of another recipe or budget; give another --out")
        return
    train(study.recipe, data, None, folder, changes, resume=begun)


def figure(folder: Path, name: str, steps: int) -> float | None:
    """Return a run's figure after its last step, None when it is not finished or of another budget."""
    if not (folder / runs.STATE).exists():
        return None
    progress = read_progress(folder / runs.STATE)
    if not progress.finished or progress.recipe["iterations"] != steps:
        return None
    further = json.loads((folder / "val.json").read_text()) if (folder / "val.json").exists() else {}
    return (progress.rows[-1] | further).get(name)


def page(out: Path, seeds: Sequence[int], steps: dict[str, int]) -> str:
    """Return the page: every study whose runs are all finished, how it was run, and where."""
    parts = [
        "# Does shifting the windows matter, in small?",
        ABOUT,
        "```\npython -m benchmarks.ablation --data ../shared/data --out DIR\n```",
        f"Machine: {'; '.join(machine())}. Date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}.",
    ]
    for name, study in STUDIES.items():
        plan = load_recipe(study.recipe, [change.format(steps=steps[name]) for change in study.changes])
        values = yaml.safe_dump(plan.model_dump(mode="json", exclude_unset=True), sort_keys=False, default_flow_style=None)
        parts.append(f"## {name}\n\nRecipe `{study.recipe}` for {plan.iterations} steps of {plan.batch_size} pictures:")
        parts.append(f"```yaml\n{values.strip()}\n```")
        for key, meaning in study.figures.items():
            found = {arm: [figure(out / run_name(name, arm, seed), key, steps[name]) for seed in seeds] for arm in ARMS}
            complete = {arm: [value for value in values if value is not None] for arm, values in found.items()}
            missing = any(len(values) < len(seeds) for values in complete.values())
            parts.append(f"{meaning}, per cent:")
            parts.append("Not measured yet." if missing else table(seeds, complete))
    return "\n\n".join(parts) + "\n"


def table(seeds: Sequence[int], arms: dict[str, list[float]]) -> str:
    """Return fractions as a Markdown table in per cent: an arm a line, then the first minus the second, seed by seed.

    Args:
        seeds: one a column.
        arms: two names, each with a value a seed.
    """
    (_, first), (_, second) = arms.items()
    rows = {**arms, "difference": [a - b for a, b in zip(first, second, strict=True)]}
    lines = [f"| | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | spread |", "|---" * (len(seeds) + 3) + "|"]
    for name, values in rows.items():
        sign = "+" if name == "difference" else ""
        spread = f"{100 * statistics.stdev(values):.2f}" if len(values) > 1 else "-"
        cells = [f"{100 * value:{sign}.2f}" for value in (*values, statistics.fmean(values))]
        lines.append(f"| {name} | {' | '.join(cells)} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
