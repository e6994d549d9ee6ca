"""``swinkit demo``, behind ``make demo``: the embedded model on a real photo, as bars and as a picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from swinkit.cli.common import keep_memory_of, regular, say, writing
from swinkit.errors import MissingExtraError
from swinkit.files import atomic_path


def demo(
    out: Annotated[Path, typer.Option(help="Picture to write.", metavar="FILE")] = Path("demo.png"),
) -> None:
    """Classify scikit-image's cat "chelsea" (public domain) and draw the answer."""
    photo = _chelsea()
    from swinkit.data.images import read_image
    from swinkit.prediction import draw_bars, load
    from swinkit.weights import DEFAULT

    with writing(str(out)):
        target = regular(str(out))
    predictor = load(DEFAULT)
    keep_memory_of(predictor)
    result = predictor.predict(photo)
    with writing(str(out)), atomic_path(target) as temporary:
        draw_bars(read_image(photo), result).save(temporary, format="PNG")
    say(result.bars().split("\n"))
    say(f"wrote {out}")


def _chelsea() -> Path:
    """Return the photo's path without importing scikit-image, which is slow."""
    found = importlib.util.find_spec("skimage")
    for folder in (found.submodule_search_locations or ()) if found else ():
        photo = Path(folder) / "data" / "chelsea.png"
        if photo.is_file():
            return photo
    raise MissingExtraError("the photo is part of scikit-image, which is not installed; run: pip install scikit-image")
