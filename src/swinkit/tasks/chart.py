"""Shares as bars of a terminal."""

from __future__ import annotations

from swinkit.errors import shown

BAR_CELLS = 30
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar_chart(heading: str, rows: list[tuple[str, float]]) -> str:
    """Return a heading and a line for each label and share (0..1); no name can bring a line of its own."""
    named = [(shown(label), share) for label, share in rows]
    width = max((len(label) for label, _ in named), default=0)
    lines = [f"  {label:<{width}}  {_bar(share)} {100 * share:5.1f} %" for label, share in named]
    return "\n".join([shown(heading), *lines])


def _bar(share: float) -> str:
    full, eighths = divmod(round(share * BAR_CELLS * 8), 8)
    return ("█" * full + (_EIGHTHS[eighths] if eighths else "")).ljust(BAR_CELLS)
