"""What a classifier says about one image, as typed values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from swinkit.errors import InputError

BAR_CELLS = 30
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Prediction:
    """One class: its name, its index among the network's outputs, its probability (0..1)."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class ClassificationResult:
    """The answer for one image.

    Args:
        source: path of the image, or a description of one that came without.
        predictions: most probable first; empty when the image could not be read.
        error: why the image could not be read, one sentence; None when it could.
    """

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None

    @property
    def top(self) -> Prediction:
        """The most probable class.

        Raises:
            InputError: the image could not be read; the message is ``error``.
        """
        if not self.predictions:
            raise InputError(self.error or f"{self.source}: there are no predictions")
        return self.predictions[0]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: ``source``, ``predictions`` (``label``, ``index``, ``probability``), ``error``."""
        return {
            "source": self.source,
            "predictions": [asdict(prediction) for prediction in self.predictions],
            "error": self.error,
        }

    def bars(self) -> str:
        """Return a line a class: name, bar, per cent; under the source as a heading."""
        if self.error is not None:
            return self.error
        width = max((len(prediction.label) for prediction in self.predictions), default=0)
        lines = [
            f"  {prediction.label:<{width}}  {_bar(prediction.probability)} {100 * prediction.probability:5.1f} %"
            for prediction in self.predictions
        ]
        return "\n".join([self.source, *lines])


def _bar(share: float) -> str:
    full, eighths = divmod(round(share * BAR_CELLS * 8), 8)
    return ("█" * full + (_EIGHTHS[eighths] if eighths else "")).ljust(BAR_CELLS)
