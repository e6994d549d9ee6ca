"""A model card for every run, in Hugging Face's format, with its own classes; what was not measured says why."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import platform
import re
from dataclasses import dataclass, field
from typing import Any

from swinkit.errors import InputError
from swinkit.extras import need
from swinkit.files import read_text

SECTIONS = (
    "Model details",
    "Intended use",
    "Out-of-scope use",
    "Limits",
    "Data",
    "Training",
    "Evaluation",
    "Environmental impact",
    "Licences",
    "How to use",
)
KNOWN_LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0")
LIBRARIES = ("swinkit", "torch", "torchvision", "accelerate", "torchmetrics", "numpy", "pillow")
UNITS = {"avx2": "AVX2", "avx512f": "AVX512", "avx512_vnni": "VNNI", "amx_tile": "AMX"}  # by flag of /proc/cpuinfo


@dataclass
class RunFacts:
    """What a card says; None where nobody measured or nobody said, with the reason in ``unknown``.

    Args:
        name: of the model.
        description: one paragraph.
        data: lines about the training and validation data.
        recipe: the resolved recipe as YAML.
        metrics: fractions 0..1 on the validation part, by name.
        preprocessing: how photos are prepared, for the metrics and for use.
        dataset: name of the data set for the metadata.
        hardware, software: one line each.
        started, ended: ISO times.
        seconds: of training.
        images_per_second: mean over the run.
        checkpoint_bytes: size of the weights file.
        kilowatt_hours, carbon_kg: measured by codecarbon.
        licences: of "code", "weights" and "data".
        pipeline: tag of the Hugging Face Hub.
        use: lines of Python that show its use.
        intended, out_of_scope, limits: lines.
        parameters: of the network.
        gflops: multiply-adds of an image.
        base_model: checkpoint it started from.
        unknown: reason for a missing field, by its name.
    """

    name: str
    description: str
    preprocessing: str
    dataset: str
    recipe: str
    data: list[str]
    metrics: dict[str, float]
    intended: list[str]
    out_of_scope: list[str]
    limits: list[str]
    licences: dict[str, str | None]
    pipeline: str
    use: tuple[str, ...] = ()
    hardware: str | None = None
    software: str | None = None
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    checkpoint_bytes: int | None = None
    kilowatt_hours: float | None = None
    carbon_kg: float | None = None
    parameters: int | None = None
    gflops: float | None = None
    base_model: str | None = None
    unknown: dict[str, str] = field(default_factory=dict)


def plain(text: str) -> str:
    """Return a name that somebody else has given as Markdown that shows it as it is, in one line."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    line = re.sub(r"([\\`*\[\]<>|~&#])", r"\\\1", line)
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)  # inside a word it is no emphasis
    return line.replace("://", ":\\//")


def run_card(facts: RunFacts) -> str:
    """Return the card's text: YAML head and all of ``SECTIONS``."""
    hub = need("huggingface_hub", "train")
    results = [
        hub.EvalResult(
            task_type=facts.pipeline,
            dataset_type="imagefolder",
            dataset_name=facts.dataset,
            dataset_split="validation",
            metric_type=name,
            metric_name=name,
            metric_value=round(value, 5),
        )
        for name, value in facts.metrics.items()
    ]
    licence = (facts.licences.get("weights") or "").lower()
    head = hub.ModelCardData(
        license=licence if licence in KNOWN_LICENCES else "other",
        license_name=None if licence in KNOWN_LICENCES else "see-licences-section",
        library_name="swinkit",
        pipeline_tag=facts.pipeline,
        tags=["swin", facts.pipeline, "swinkit"],
        model_name=facts.name,
        eval_results=results or None,
    )
    text = f"---\n{head.to_yaml()}\n---\n\n{_body(facts)}"
    card = hub.ModelCard(text)
    validate_card(str(card))
    return str(card)


def validate_card(text: str) -> None:
    """Check a card without a network: its head parses into huggingface_hub's classes, every section has content.

    Raises:
        InputError: what is missing.
    """
    hub = need("huggingface_hub", "train")
    if not text.startswith("---\n"):
        raise InputError("the card has no YAML head; begin it with ---")
    try:
        head = hub.ModelCard(text).data
        head.to_yaml()
    except Exception as error:  # the library raises YAML's, KeyError and ValueError
        raise InputError(f"the card's YAML head is not valid ({error})") from error
    if not head.license:
        raise InputError("the card's head names no license")
    if "more information needed" in text.lower():
        raise InputError("the card says 'More Information Needed'; say what is known, or why it is unknown")
    for section in SECTIONS:
        marker = f"\n## {section}\n"
        if marker not in text:
            raise InputError(f"the card has no section {section!r}")
        content = text.split(marker, 1)[1].split("\n## ", 1)[0].strip()
        if not content:
            raise InputError(f"the card's section {section!r} is empty")


def machine() -> tuple[str, str]:
    """Return (hardware, software) of this machine, a line each."""
    import torch

    processor = platform.processor() or platform.machine()
    try:
        lines = read_text("/proc/cpuinfo", 2**24).splitlines()
        told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        processor = told.get("model name", processor)
        units = [unit for flag, unit in UNITS.items() if flag in told.get("flags", "").split()]
        processor += f" ({', '.join(units)})" if units else ""  # a virtual machine's processor often has no other name
    except InputError:
        pass  # no Linux
    hardware = f"{os.cpu_count()} cores of {processor}, {torch.get_num_threads()} used"
    if torch.cuda.is_available():
        hardware += f"; {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    versions = [f"Python {platform.python_version()}", platform.system()]
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return hardware, ", ".join(versions)


class EnergyMeter:
    """Energy and carbon of a block of code by codecarbon, without a network; failing to measure fails nothing else.

    The carbon intensity is that of the country in the environment variable ``SWINKIT_COUNTRY`` (three letters, ISO
    3166-1); without it only energy is given, for carbon depends on where the power came from.

    Attributes:
        kilowatt_hours, carbon_kg: after the block; None when not measured.
        reason: why not.
    """

    def __init__(self) -> None:
        self.kilowatt_hours: float | None = None
        self.carbon_kg: float | None = None
        self.reason = ""
        self._tracker: Any = None

    def __enter__(self) -> EnergyMeter:
        country = os.environ.get("SWINKIT_COUNTRY", "").upper()
        try:
            codecarbon = need("codecarbon", "train")
            logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
            self._tracker = codecarbon.OfflineEmissionsTracker(
                country_iso_code=country or "USA",
                save_to_file=False,
                log_level="critical",
                allow_multiple_runs=True,
                tracking_mode="process",
                output_handlers=[self],
            )
            logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # its start has set the level again
            self._tracker.start()
        except Exception as error:  # noqa: BLE001 - no meter is a fact about the machine, not a failure of the run
            self.reason, self._tracker = f"codecarbon could not start ({' '.join(str(error).split())[:120]})", None
        return self

    def __exit__(self, *_: object) -> None:
        tracker, self._tracker = self._tracker, None
        self._told(tracker, "stop")

    def measure(self) -> None:
        """Bring the attributes up to date in the middle of the block."""
        self._told(self._tracker, "flush")

    def _told(self, tracker: Any, what: str) -> None:
        if tracker is not None:
            try:
                getattr(tracker, what)()  # it answers by calling out()
            except Exception as error:  # noqa: BLE001 - as above
                self.reason = f"codecarbon failed ({' '.join(str(error).split())[:120]})"

    def out(self, total: Any, _delta: Any) -> None:
        """Take what codecarbon has counted since the start of the block (it calls this)."""
        if not math.isfinite(total.energy_consumed):
            return
        self.kilowatt_hours = float(total.energy_consumed)
        if os.environ.get("SWINKIT_COUNTRY"):
            self.carbon_kg = float(total.emissions)
        else:
            self.reason = "the environment variable SWINKIT_COUNTRY did not say where the power came from"

    def live_out(self, total: Any, delta: Any) -> None:
        """Take what it counts between two calls of ``measure``."""
        self.out(total, delta)

    def task_out(self, *_: Any) -> None:
        """Tasks of its own are not used."""

    def exit(self) -> None:
        """Nothing is open."""


def _body(facts: RunFacts) -> str:
    def known(name: str, form: str = "{}") -> str:
        value = getattr(facts, name)
        if value is None or value == "":
            return f"unknown, because {facts.unknown.get(name, 'it was not recorded')}"
        return form.format(value)

    hours = None if facts.seconds is None else facts.seconds / 3600
    duration = known("seconds") if hours is None else f"{hours:{'.2f' if hours >= 1 else '.3g'}} hours"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", facts.recipe)), default=0))
    metrics = "\n".join(f"| {name} | {value:.4f} |" for name, value in facts.metrics.items()) or "| none | - |"
    licences = "\n".join(
        f"- {kind}: {plain(facts.licences.get(kind) or '') or 'unknown, because ' + reason}"
        for kind in ("code", "weights", "data")
        for reason in (facts.unknown.get(f"licence {kind}", "nobody said"),)
    )

    def lines(items: list[str]) -> str:
        return "\n".join(f"- {item}" for item in items)

    environment = f"""- Energy: {known("kilowatt_hours", "{:.4f} kWh")}
- Carbon: {known("carbon_kg", "{:.4f} kg CO2 equivalent")}

Both by codecarbon in offline mode; where no power meter is readable it estimates from the processor's rated power."""
    training = f"""- Hardware: {known("hardware")}
- Software: {known("software")}
- Started: {known("started")}; ended: {known("ended")}; duration: {duration}
- Throughput: {known("images_per_second", "{:.1f} images a second")}

{fence}yaml
{facts.recipe.strip()}
{fence}"""
    evaluation = f"""On the validation part; photos were prepared so: {facts.preprocessing}.

| metric | value |
|---|---|
{metrics}"""
    details = f"""- Parameters: {known("parameters", "{:,}")}
- Multiply-adds of an image: {known("gflops", "{:.3f} G")}
- Started from: {plain(known("base_model"))}
- Size of the weights file: {known("checkpoint_bytes", "{:,} bytes")}"""
    contents = (
        details,
        lines(facts.intended),
        lines(facts.out_of_scope),
        lines(facts.limits),
        lines(facts.data),
        training,
        evaluation,
        environment,
        licences,
        "\n".join(["```python", "import swinkit", "", *facts.use, "```"]),
    )
    sections = (f"## {title}\n\n{content}\n" for title, content in zip(SECTIONS, contents, strict=True))
    return "\n".join((f"# {plain(facts.name)}\n\n{facts.description}\n", *sections))
