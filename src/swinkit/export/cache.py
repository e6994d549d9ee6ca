"""Exports that are made when a size first comes, and kept for later: whose they are, where they lie, which of them are used.

A kept export may be code, so one is opened only when this user's processes wrote it for this very network: no link, nobody
else's file, its manifest sealed, its kind, description, size and digest of weights the network's own, its files those that the
manifest names. Everything else is removed unopened and made again. A cache that cannot be written costs time, never the answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from swinkit.engines import kernels
from swinkit.engines.exported import KINDS, MANIFEST, OPEN_SIZES, Engine, ExportedEngine, Manifest
from swinkit.engines.manifest import MACHINE_CODE
from swinkit.engines.seal import cache_home, private_folder, seal
from swinkit.engines.steps import building, step, tell
from swinkit.errors import ExportError, InputError, SwinkitError
from swinkit.export.write import default_size, export_network, versions
from swinkit.files import sweep
from swinkit.specs import ModelSpec

CACHE_BYTES = 8 * 2**30  # of exports made on demand; those not opened for longest make room
NETWORK = "network"  # the fact of a manifest that says whose export it is
STEPS = {MACHINE_CODE: 6}  # of a build; of other kinds there are four
Size = tuple[int, int]  # (height, width) in pixels


class Shelf:
    """The kept exports of one network to one kind, a folder a size.

    Args:
        network: with its weights.
        spec: its description.
        to: row of ``KINDS``.
        root: folder of all shelves; None is ``$SWINKIT_CACHE/exports`` or ``~/.cache/swinkit/exports``.
        digest: of network and description where it is known; two shelves of one network share it.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec, to: str, root: Path | None = None, digest: str = "") -> None:
        self.network, self.spec, self.to = network, spec, to
        self.digest = digest or digest_of(network, spec)
        if to == MACHINE_CODE:  # with kernels or without
            self.digest = hashlib.sha256(f"{self.digest} {kernels.state()}".encode()).hexdigest()
        self.root = root or cache_home() / "exports"
        self.folder = self.root / f"{to}-{self.digest[:32]}"
        self._own: tempfile.TemporaryDirectory[str] | None = None  # where the cache cannot be used

    def find(self, size: Size) -> ExportedEngine | None:
        """Return the kept export of a size, opened; None where there is none that may be used, and then nothing is left of it."""
        if not self.usable():
            return None
        for shelf in _folders(self.root):  # what killed processes left
            sweep(shelf)
        folder = self.folder / _name(size)
        if not os.path.lexists(folder):
            return None
        try:
            self._check(folder, size)
            engine = ExportedEngine(folder)
        except SwinkitError:  # of another network or user, changed, damaged, of another processor
            _remove(folder)
            return None
        with contextlib.suppress(OSError):
            os.utime(folder)
        return engine

    def make(self, size: Size) -> ExportedEngine:
        """Return a new export of a size, opened: kept, or where that cannot be, in a folder of this process alone.

        Raises:
            ExportError: the export answers otherwise than the network, or can be written nowhere.
            InputError, MissingExtraError: a compiler or library is missing.
        """
        height, width = size
        what = f"{self.spec.name or 'the network'} for this processor ({height}x{width}, engine {KINDS[self.to][2]})"
        with building(what, STEPS.get(self.to, 4)):
            if self.usable():
                try:
                    return self._kept(size)
                except ExportError as error:
                    if error.__cause__ is None:  # it answers otherwise, and would elsewhere
                        raise
                    reason = str(error.__cause__)
            else:
                reason = "it is not a folder that only you may write to"
            if self._own is None:
                tell(f"{self.root}: cannot keep what is built ({reason}); it serves this process and is built again by the next")
                self._own = tempfile.TemporaryDirectory(prefix="swinkit-", ignore_cleanup_errors=True)
            folder = Path(self._own.name) / _name(size)
            _remove(folder)
            export_network(self.network, self.spec, folder, self.to, [size], facts={NETWORK: self.digest})
            step("opening it")
            return ExportedEngine(folder, trusted=True)  # written above, where nobody else comes

    def _kept(self, size: Size) -> ExportedEngine:
        folder = self.folder / _name(size)
        make_room(self.root)
        try:
            export_network(self.network, self.spec, folder, self.to, [size], facts={NETWORK: self.digest})
        except InputError:
            if not os.path.lexists(folder):  # else another process was quicker
                raise
        step("opening it")
        engine = self.find(size)
        if engine is None:
            raise ExportError(f"{folder}: was changed while it was built") from OSError("somebody else writes there")
        return engine

    def usable(self) -> bool:
        """Say whether the folders are this user's alone and can be sealed in; a link in the place of one is removed."""
        for folder in (self.root, self.folder):
            with contextlib.suppress(OSError):
                if folder.is_symlink() and folder is self.folder:
                    folder.unlink()
            if not private_folder(folder):
                return False
        return bool(seal(b""))

    def _check(self, folder: Path, size: Size) -> None:
        """Raise ExportError unless a folder holds this network's export of a size, written by this user; nothing is opened."""
        found = set()
        for path in (folder, *folder.rglob("*")) if _ours(folder, stat.S_ISDIR) else (folder,):
            if not _ours(path, lambda mode: stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise ExportError(f"{path}: is a link, or somebody else's")
            if path.is_file():
                found.add(path.relative_to(folder).as_posix())
        manifest = Manifest.read(folder)
        right = (self.to, self.spec.to_dict(), [size], self.digest, versions())
        if not manifest.sealed or right != (
            manifest.to, manifest.spec.to_dict(), manifest.sizes, manifest.facts.get(NETWORK), manifest.software
        ):  # fmt: skip
            raise ExportError(f"{folder}: is no export of this network that you wrote")
        if found != {MANIFEST, *manifest.files}:
            raise ExportError(f"{folder}: holds other files than were written")


class OnDemandEngine(Engine):
    """A checkpoint's network run by another library: a size's export is made when that size first comes, and kept.

    Where an export can be written nowhere, the network itself answers.

    Args:
        network: with its weights.
        spec: its description.
        to: row of ``KINDS``.
        cache: folder for the exports; None is ``$SWINKIT_CACHE/exports`` or ``~/.cache/swinkit/exports``.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec, to: str, cache: Path | None = None) -> None:
        super().__init__(KINDS[to][2], spec)
        self.kind = to
        self._network = [network]  # in a list: its parameters are not this module's
        self._shelf = Shelf(network, spec, to, cache)
        self._engines: OrderedDict[Size, Engine] = OrderedDict()
        if spec.preprocessing.resize in ("squash", "shorter"):
            self._engine(default_size(spec))

    def run(self, pixels: Tensor) -> Tensor | list[Tensor]:
        """Answer (B, C, H, W) pixels of 0..255 of any size."""
        return self._engine((int(pixels.shape[2]), int(pixels.shape[3]))).run(pixels)

    def _engine(self, size: Size) -> Engine:
        if size not in self._engines:
            self._engines[size] = self._shelf.find(size) or self._made(size)
            self.name = self._engines[size].name
            if len(self._engines) > OPEN_SIZES:
                self._engines.popitem(last=False)
        self._engines.move_to_end(size)
        return self._engines[size]

    def _made(self, size: Size) -> Engine:
        try:
            return self._shelf.make(size)
        except kernels.NoCompiler as error:
            tell(f"{error}; torch answers")
        except ExportError as error:
            if error.__cause__ is None:
                raise
            tell(f"{KINDS[self.kind][2]} cannot be built ({error.__cause__}); torch answers")
        return PlainEngine(self._network[0], self.spec)


class PlainEngine(Engine):
    """The network itself, called like an engine: torch answers while, or where, there is no export.

    Args:
        network: in ``eval()``.
        spec: its description.
    """

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__("torch", spec)
        self._network = [network]

    def run(self, pixels: Tensor) -> Tensor | list[Tensor]:
        """Answer (B, C, H, W) pixels of 0..255 of any size."""
        with torch.inference_mode():
            return self._network[0]((pixels.float() / 255.0 - self.mean) / self.std)


def make_room(root: Path) -> None:
    """Remove the exports that were not opened for longest, so that the cache does not grow without end.

    Only folders that shelves make are looked at, links are not followed, and what lies beside them stays.
    """
    exports = [
        folder
        for shelf in _folders(root)
        if shelf.name.partition("-")[0] in KINDS
        for folder in _folders(shelf)
        if (folder / MANIFEST).is_file() and not (folder / MANIFEST).is_symlink()
    ]
    total = 0
    for folder in sorted(exports, key=lambda folder: folder.lstat().st_mtime, reverse=True):
        total += sum(path.lstat().st_size for path in folder.rglob("*"))
        if total > CACHE_BYTES:
            _remove(folder)
            with contextlib.suppress(OSError):  # it holds other sizes
                folder.parent.rmdir()


def digest_of(network: nn.Module, spec: ModelSpec) -> str:
    """Return what tells this network, made by these libraries, from any other."""
    found = hashlib.sha256(json.dumps([spec.to_dict(), versions()], sort_keys=True).encode())
    for name, value in network.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return found.hexdigest()


def _name(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    return []


def _ours(path: Path, kind: object) -> bool:
    status = path.lstat()
    return bool(kind(status.st_mode)) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())  # type: ignore[operator]


def _remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
