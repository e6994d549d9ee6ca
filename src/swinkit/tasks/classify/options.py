"""Options of the commands for classifiers."""

from __future__ import annotations

from dataclasses import dataclass, field

from swinkit.tasks.options import Together, at_least_one


@dataclass(frozen=True)
class ClassifyPredict(Together):
    """How photos are classified.

    Args:
        top: how many classes to give, most probable first; more than there are means all.
    """

    top: int = field(default=5, metadata={"min": 1, "help": "Classes to name for each photo."})

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(top=self.top)


@dataclass(frozen=True)
class ClassifyEvaluate:
    """How a classifier is measured.

    Args:
        batch: pictures that go through the network together.
        mistakes: table file for the wrong answers.
        groups: CSV with columns file and group.
        real: ImageNet ReaL file.
    """

    batch: int = field(default=32, metadata={"min": 1, "help": "Pictures that go through the network together."})
    mistakes: str | None = field(
        default=None,
        metadata={
            "metavar": "CSV",
            "help": "Write every wrong answer, surest first; - is stdout.",
            "columns": ("file", "truth", "answer", "probability"),
        },
    )
    groups: str | None = field(default=None, metadata={"metavar": "CSV", "help": "Table file,group: the accuracy of each group."})
    real: str | None = field(default=None, metadata={"metavar": "JSON", "help": "ImageNet ReaL labels: any of several is right."})

    def __post_init__(self) -> None:
        at_least_one(batch=self.batch)
