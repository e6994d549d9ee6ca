"""The oracle: what reads a file from outside answers, or raises one sentence of ours, and does nothing else.

Watched by an audit hook: processes, connections, libraries, and files opened for writing. The room around the input is
compared before and after, for native code that no hook sees. Memory is bounded by the system, time by a clock.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 5.0  # of processor time an input may take
HANGS = 20  # seconds by the clock, after which the process ends itself with a traceback: pipes cost no processor time
MEMORY = 2 << 30  # bytes beyond what the process has when all is imported
LONGEST = 1000  # letters of a message

_PROCESSES = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn",
    "os.startfile", "webbrowser.open",
)  # fmt: skip
_CONNECTIONS = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "urllib.Request")
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil.rmtree")
_FORBIDDEN = frozenset([*_PROCESSES, *_CONNECTIONS])
_LIBRARIES = (None, "libc.so.6")  # the process itself
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Finding(BaseException):
    """Something that reading a file must never do; the message says what. No ``except Exception`` of a reader hides it."""


class Escaped(BaseException):
    """Raised where it happens, so that the traceback shows it; no ``except Exception`` stops it."""


class Room:
    """A folder in which inputs are laid out, and the watch over the process while one is read.

    Args:
        clock: end the process when an input hangs; False where somebody else looks after that.
    """

    def __init__(self, clock: bool = True) -> None:
        memory = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None)).resolve()
        self._clock = clock
        self.input = self.root / "input"
        self._private = (self.root / "home", self.root / "tmp")  # what a process keeps for itself
        for folder in (*self._private, self.root / "here"):
            folder.mkdir()
        os.environ |= {
            "HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp"), "SWINKIT_CACHE": str(self.root / "home" / "cache"),
            "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.root / "home" / "hub"),
        }  # fmt: skip
        tempfile.tempdir = None
        sys.dont_write_bytecode = True
        os.chdir(self.root / "here")
        self._watching = False
        self._seen: list[str] = []
        sys.addaudithook(self._watch)

    def fresh(self) -> Path:
        """Return the input's folder, empty."""
        shutil.rmtree(self.input, ignore_errors=True)
        self.input.mkdir()
        return self.input

    def remove(self) -> None:
        """Remove the whole room."""
        os.chdir("/")
        shutil.rmtree(self.root, ignore_errors=True)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the process, the room, the clock.

        Raises:
            Finding: something happened that must not.
        """
        before, began = self._names(), time.process_time()
        self._seen.clear()
        if self._clock:
            faulthandler.dump_traceback_later(HANGS, exit=True)
        self._watching = True
        try:
            yield
        except Escaped:
            pass  # it stands in _seen
        finally:
            self._watching = False
            if self._clock:
                faulthandler.cancel_dump_traceback_later()
        if self._seen:
            raise Finding(self._seen[0])
        if (took := time.process_time() - began) > SECONDS:
            raise Finding(f"took {took:.1f} s")
        if changed := before ^ self._names():
            raise Finding(f"changed files: {min(changed)}")

    def _names(self) -> set[str]:
        found: set[str] = set()
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if Path(folder, name) not in self._private]
            found.update(os.path.join(folder, name) for name in (*folders, *files))  # noqa: PTH118 - quicker
        return found

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event in _FORBIDDEN or (event == "ctypes.dlopen" and arguments[0] not in _LIBRARIES):
            self._escaped(event, arguments)
        elif event == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITES)
            if writes and not isinstance(path, int) and not self._inside(path):
                self._escaped(event, arguments)
        elif event in _CHANGES and not self._inside(arguments[0]):
            self._escaped(event, arguments)

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int):
            return True
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - pathlib's resolve asks the disk for every part
        return place == os.devnull or place.startswith(f"{self.root}{os.sep}")

    def _escaped(self, event: str, arguments: tuple[Any, ...]) -> None:
        text = f"{event} {arguments!r}"[:300]
        self._seen.append(text)
        raise Escaped(text)


def bound_memory() -> None:
    """Let the process have ``MEMORY`` more than it has now; more is a MemoryError."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmSize:"):
            limit = int(line.split()[1]) * 1024 + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def judged(room: Room, read: Callable[[Path], object]) -> str:
    """Read what lies in the room's input, and return "answered" or "refused: <error>".

    Raises:
        Finding: anything else happened.
    """
    from swinkit.errors import SwinkitError

    with room.watched():
        try:
            read(room.input)
            return "answered"
        except SwinkitError as error:
            problem, text = error, str(error)
        except Finding:
            raise
        except Exception as error:
            raise Finding(f"{type(error).__name__}: {str(error)[:300]}") from error
    if not text.strip() or "\n" in text or len(text) > LONGEST:
        raise Finding(f"no sentence, but {len(text):,} letters of {type(problem).__name__}: {text[:300]!r}") from problem
    return f"refused: {type(problem).__name__}: {text}"
