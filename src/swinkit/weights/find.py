"""Where weights lie: what a person typed is a path here, a name in our tables, or a repository of the hub."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from pathlib import Path

from swinkit.embedded import EMBEDDED, embedded_names
from swinkit.errors import CheckpointError, UnknownName, nearest, shown
from swinkit.extras import need
from swinkit.models.systems import SYSTEMS
from swinkit.models.variants import RELEASES, resolve
from swinkit.weights.read import SUFFIXES

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_MOST_NAMES = 2000  # of a folder, when a name is looked for that is like the one typed
_ALIKE = 0.7  # of 0..1


def local_path(text: str) -> Path | None:
    """Return the file or folder that a text means, or None when it is no path: then it is a model's name or a hub id.

    What looks like a path and is none is answered here, with the nearest names on disk, for the hub takes half a minute.

    Raises:
        UnknownName: it looks like a path, and nothing is there.
    """
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - a user that nobody knows stays as typed
    if os.path.lexists(path):
        return path
    spellings = [row.aliases for row in RELEASES.values()] + [row.aliases for row in SYSTEMS.values()]
    if any(text in aliases for aliases in spellings):
        return None
    near = _near(path)
    first = path.parts[0] if path.parts else ""
    is_path = (
        text.startswith((".", "/", "~", "runs/"))
        or "\\" in text
        or text.count("/") > 1
        or path.suffix in SUFFIXES
        or ("/" in text and (bool(near) or os.path.isdir(first)))  # noqa: PTH112
    )
    if not is_path:
        return None
    beside = f"; did you mean {' or '.join(near)}?" if near else _held(path.parent)
    raise UnknownName(f"{shown(text)}: no such file or folder{beside}")


def _near(path: Path) -> list[str]:
    """Return up to three paths on disk that are spelt like this one, in any of its parts."""
    found = [path.root or "."]
    for part in path.parts[1 if path.root else 0 :]:
        following: list[str] = []
        for folder in found:
            exact = os.path.join(folder, part)  # noqa: PTH118
            following += [exact] if os.path.lexists(exact) else []
        for folder in found:
            alike = difflib.get_close_matches(part, _names(folder), 3, _ALIKE)
            following += [beside for name in alike if (beside := os.path.join(folder, name)) not in following]  # noqa: PTH118
        found = following[:3]
    return [name.removeprefix("./") for name in found]


def _names(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in itertools.islice(entries, _MOST_NAMES) if not entry.name.startswith(".")]
    except OSError:
        return []


def _held(folder: Path) -> str:
    names = sorted(_names(str(folder)))
    return f"; {folder} holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "; check the path"


def looked_up(text: str) -> tuple[str, str]:
    """Return (embedded name, "") or ("", repository of the hub) for a name that is no path.

    Raises:
        UnknownName: it is neither; with the nearest names.
        CheckpointError: it is known, but lies nowhere from where it could be fetched.
    """
    if _HUB_ID.fullmatch(text) and ".." not in text:
        return "", text
    if text in SYSTEMS:
        for alias in SYSTEMS[text].aliases:
            return "", alias
        raise CheckpointError(f"{text} has no copy on the Hugging Face hub; give the file of its authors")
    try:
        canonical, _ = resolve(text)
    except UnknownName:
        near, known = _near(Path(text)), [*EMBEDDED, *RELEASES, *SYSTEMS]
        like = f"; did you mean the file or folder {near[0]}?" if near else nearest(text, known, cutoff=0.0)
        raise UnknownName(
            f"{shown(text)!r} is no file, folder, hub id or model (embedded: {', '.join(embedded_names())}){like}"
        ) from None
    for alias in RELEASES[canonical].aliases:
        if alias in EMBEDDED:
            return alias, ""
        if alias.startswith("microsoft/"):
            return "", alias
    raise CheckpointError(
        f"{canonical} has no copy on the Hugging Face hub; download {canonical}.pth from the authors' release and give the "
        f"file, or use an embedded model: {', '.join(embedded_names())}"
    )


def download(repository: str) -> Path:
    """Return the local folder of a hub repository, fetching only what is read.

    Raises:
        CheckpointError: it cannot be fetched, with the reason.
    """
    hub = need("huggingface_hub", "hub")
    folder = None
    for names in (("config.json",), ("preprocessor_config.json",), ("model.safetensors", "pytorch_model.bin")):
        reason = ""
        for name in names:
            try:
                folder = Path(hub.hf_hub_download(repository, name)).parent
                break
            except Exception as error:  # noqa: BLE001 - of the library, of its connection, of the disk
                reason = reason or f" ({shown(' '.join(str(error).split()).split('. ')[0])})"
        else:
            if names != ("preprocessor_config.json",):
                raise CheckpointError(
                    f"{repository}: {names[0]} could not be fetched from the Hugging Face hub{reason}; without network give a "
                    f"file, or use an embedded model: {', '.join(embedded_names())}"
                )
    assert folder is not None
    return folder
