"""What the model card of a finished run says."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from torch import nn

from swinkit.runs.card import RunFacts, machine, plain
from swinkit.specs import ModelSpec
from swinkit.tasks.table import task_of
from swinkit.training import runs
from swinkit.training.checkpoint import Progress
from swinkit.training.recipe import Recipe, recipe_yaml


def facts_of(
    folder: Path, plan: Recipe, spec: ModelSpec, progress: Progress, network: nn.Module, parts: tuple[Any, Any]
) -> RunFacts:
    """Return what the model card of a finished run says; ``parts`` are its training and its validation data."""
    train_data, val_data = parts
    hardware, software = machine()
    best = next((row for row in progress.rows if row["epoch"] == progress.best_epoch), progress.rows[-1])
    task = task_of(spec)
    names = [metric.name for metric in task.metrics(spec) if metric.kept]
    metrics: dict[str, float] = {name: best[name] for name in names if best.get(name) is not None}
    cost = task.cost(spec).macs
    weights_file = folder / runs.BEST
    kind = "classes: " + ", ".join(plain(label) for label in spec.labels[:20]) + (" ..." if len(spec.labels) > 20 else "")
    return RunFacts(
        name=folder.name,
        description=f"A Swin Transformer ({plain(str(spec.facts['network']))}) trained by swinkit's recipe for the task "
        f"{plan.task!r}.",
        preprocessing=spec.preprocessing.describe(),
        dataset="the user's data",
        recipe=recipe_yaml(plan),
        data=[
            f"training: {len(train_data)} pictures, validation: {len(val_data)}, fingerprint {progress.data}",
            kind if spec.labels else "labels were not used",
        ],
        metrics=metrics,
        intended=["photos like those it was trained on, with the preparation named below"],
        out_of_scope=[
            "pictures of other kinds: the answer is always one of the classes, however little it fits",
            "decisions about people, and any use in which a wrong answer does harm",
        ],
        limits=[
            f"measured on {len(val_data)} pictures: one picture is {1 / len(val_data):.2%}",
            "accuracy on other cameras, places or groups was not measured; 'swinkit evaluate --groups' does it",
            f"{progress.skipped} training steps were skipped because they were not finite",
        ],
        licences={"code": "apache-2.0", "weights": plan.licence or None, "data": plan.data.licence or None},
        pipeline=task.pipeline,
        use=task.use,
        hardware=hardware,
        software=software,
        started=progress.started,
        ended=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=progress.seconds,
        images_per_second=progress.images / progress.seconds if progress.seconds else None,
        checkpoint_bytes=weights_file.stat().st_size if weights_file.is_file() else None,
        kilowatt_hours=progress.kilowatt_hours,
        carbon_kg=progress.carbon_kg,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        gflops=None if cost is None else cost / 1e9,
        base_model=spec.facts.get("started_from"),
        unknown={
            "gflops": "such a backbone is not counted here",
            "kilowatt_hours": "no meter could be read",
            "carbon_kg": "the environment variable SWINKIT_COUNTRY did not say where the power came from",
            "licence weights": "nobody said it with --set licence=...; data and first checkpoint bind them",
            "licence data": "nobody said it with --set data.licence=...",
        },
    )
