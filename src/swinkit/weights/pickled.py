"""Files of ``torch.save``: every instruction is looked at before torch's weights-only reader may open them.

That reader runs no code, but it believes sizes: a tuple of two references to a tuple of two references ... is a few hundred
bytes and more than a memory holds once somebody walks it. So a pickle may hold what checkpoints hold (tables, lists, texts,
numbers, tensors no larger than what is stored), and its values, unfolded, may be only so many.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from swinkit.errors import CheckpointError, UnsafeFile, brief, refusing
from swinkit.files import open_file

MAX_PICKLE = 64 << 20  # bytes
MAX_STEPS = 500_000  # instructions; a checkpoint of 1,000 tensors with its optimiser has some 120,000
MAX_UNFOLDED = 2_000_000  # values, each counted as often as it is referred to
MAX_NESTED = 100
MAX_MEMBERS = 100_000  # of an archive: one for each tensor, optimiser states too
_ZIP = b"PK\x03\x04"

# Bytes of one number in each storage that a checkpoint may have.
_STORAGES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_CODECS = ("latin1", "ascii", "utf-8")
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(slots=True)
class _Value:
    """What an instruction made.

    Args:
        kind: "plain", "tuple", "list", "table", "name", "storage" or "tensor".
        held: the plain value, the items of a tuple, the name, or how many numbers a storage has.
        size: values in it, unfolded.
        nested: how deep they lie.
        closed: it stands in another value and may not grow any more.
    """

    kind: str
    held: Any = None
    size: int = 1
    nested: int = 0
    closed: bool = False


def load_pickle(path: Path, size: int) -> Any:
    """Return what a file of ``torch.save`` holds, tensors on the CPU.

    Args:
        path: a regular file.
        size: its bytes.

    Raises:
        UnsafeFile: it would run code, or announces more than it holds.
        CheckpointError: cut short or damaged.
    """
    with open_file(path, size, CheckpointError, fix="download it again") as file:
        start = file.read(4)
        is_zip = start == _ZIP
        head = b"" if is_zip else start + file.read(MAX_PICKLE)
    with refusing(CheckpointError, f"{path}: is cut short or damaged, or no file of torch.save", "download it again"):
        pickles = _pickle_of_zip(path, size) if is_zip else io.BytesIO(head)
        steps = 0
        for _ in range(1 if is_zip else 5):  # an old file has a number, a version, facts, the object, the storages' names
            steps = _check(path, pickles, size, steps)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _pickle_of_zip(path: Path, size: int) -> io.BytesIO:
    """Return the pickle of an archive, after refusing one that unpacks to more than it is: torch compresses no member."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: is cut short ({size:,} bytes without the table at the end); download it again") from error
    with archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > size:
            raise UnsafeFile(f"{path}: unpacks to more than the {size:,} bytes it has; do not use it")
        if len({member.filename.lower() for member in members}) < len(members):
            raise UnsafeFile(f"{path}: has two members of one name; do not use it")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise UnsafeFile(f"{path}: is a compressed archive, which torch.save never writes; unpack it and give the file in it")
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise UnsafeFile(f"{path}: is a TorchScript program, not weights; give the file of its state_dict")
        found = [member for member in members if member.filename.split("/")[1:] == ["data.pkl"]]
        if len(found) != 1:
            raise CheckpointError(f"{path}: is an archive that torch.save did not write; unpack it and give the file in it")
        if found[0].file_size > MAX_PICKLE:
            raise UnsafeFile(f"{path}: its pickle has {found[0].file_size:,} bytes, more than the {MAX_PICKLE:,} allowed")
        return io.BytesIO(archive.read(found[0]))


def _check(path: Path, pickle: io.BytesIO, size: int, steps: int) -> int:
    """Go through one pickle without making anything of it; return ``steps`` plus its number of instructions."""
    machine = _Machine(size)
    for code, argument, _ in pickletools.genops(pickle):
        steps += 1
        if steps > MAX_STEPS:
            raise UnsafeFile(f"{path}: its pickle has more than {MAX_STEPS:,} instructions; save the tensors alone")
        try:
            machine.step(code.name, argument)
        except _Refused as problem:
            raise UnsafeFile(
                f"{path}: is a pickle that wants code to be run or is none of torch.save's ({problem}) and is not loaded; where "
                "you trust its origin, open it there and save the tensors alone: "
                "torch.save({'model': checkpoint['model']}, 'weights.pth')"
            ) from None
    return steps


class _Refused(Exception):
    """What no checkpoint holds; its text says what."""


class _Machine:
    """The unpickler's stack, with notes of sizes instead of values.

    Args:
        size: of the file, bytes; no tensor may be larger.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.stack: list[_Value] = []
        self.marks: list[list[_Value]] = []
        self.memo: dict[int, _Value] = {}
        self.storages: dict[str, int] = {}  # bytes of each, by name
        self.announced = 0  # bytes of all

    def step(self, name: str, argument: Any) -> None:
        """Take one instruction.

        Raises:
            _Refused: it is none that a checkpoint needs.
        """
        if name in _PLAIN:
            self._push("plain", argument)
        elif name in _EMPTY:
            self._push(_EMPTY[name], ())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name in _TUPLES:
            items = [self.stack.pop() for _ in range(_TUPLES[name])][::-1]
            self._push("tuple", tuple(items), items)
        elif name == "TUPLE":
            items = self._from_mark()
            self._push("tuple", tuple(items), items)
        elif name in ("APPEND", "APPENDS"):
            items = [self.stack.pop()] if name == "APPEND" else self._from_mark()
            self._grow(self._top("list"), items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self.stack.pop(), self.stack.pop()][::-1] if name == "SETITEM" else self._from_mark()
            _check_keys(items[::2])
            self._grow(self._top("table"), items)
        elif name == "GLOBAL":
            self._push("name", _known(argument))
        elif name == "BINPERSID":
            self._storage(self.stack.pop())
        elif name == "REDUCE":
            arguments, function = self.stack.pop(), self.stack.pop()
            self._call(function, arguments)
        elif name == "BUILD":
            state = self.stack.pop()
            self._grow(self._top("table"), [state])
        elif name not in ("PROTO", "STOP"):
            raise _Refused(f"instruction {name}")

    def _push(self, kind: str, held: Any, items: Sequence[_Value] = ()) -> None:
        self.stack.append(_Value(kind, held))
        self._grow(self.stack[-1], items)

    def _grow(self, value: _Value, items: Sequence[_Value]) -> None:
        """Note that ``value`` holds further ones, which may not grow themselves from now on."""
        for item in items:
            item.closed = True
            value.size += item.size
            value.nested = max(value.nested, item.nested + 1)
        if value.closed:
            raise _Refused("a value that grows after it was put into another")
        if value.size > MAX_UNFOLDED or value.nested > MAX_NESTED:
            raise _Refused(f"values that unfold to more than {MAX_UNFOLDED:,}, or lie more than {MAX_NESTED} deep")

    def _top(self, kind: str) -> _Value:
        if self.stack[-1].kind != kind:
            raise _Refused(f"a {self.stack[-1].kind} where a {kind} was expected")
        return self.stack[-1]

    def _from_mark(self) -> list[_Value]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _storage(self, name: _Value) -> None:
        """Note a storage: ("storage", its kind, its name, a device, how many numbers, ...)."""
        word, kind, key, device, numbers, *_ = _items(name)
        count = _number(numbers)
        if (word.held, device.kind) != ("storage", "plain") or kind.held not in _STORAGES or not isinstance(key.held, str):
            raise _Refused("a reference to something else than a tensor's values")
        more = count * _STORAGES[kind.held] - self.storages.get(key.held, 0)
        if more > 0:
            self.storages[key.held] = count * _STORAGES[kind.held]
            self.announced += more
        if self.announced > self.size:
            raise _Refused(f"tensors that announce more than the {self.size:,} bytes of the file")
        self._push("storage", count)

    def _call(self, function: _Value, arguments: _Value) -> None:
        """Note the result of one of the few functions that checkpoints call."""
        given = _items(arguments)
        if function.kind != "name":
            raise _Refused(f"a call of a {function.kind}")
        if function.held in ("OrderedDict", "Counter"):
            if given and not (len(given) == 1 and given[0].kind == "table"):
                raise _Refused(f"a {function.held} made of other things than names and values")
            self._push("table", (), given)
        elif function.held == "_rebuild_tensor_v2":
            storage, offset, size, stride, *rest = given
            _check_view(storage, _number(offset), [_number(n) for n in _items(size)], [_number(n) for n in _items(stride)])
            self._push("tensor", None, rest)
        elif function.held == "_rebuild_parameter":
            if [value.kind for value in given] != ["tensor", "plain", "table"]:
                raise _Refused("a parameter that is no tensor")
            self._push("tensor", None, given)
        elif function.held == "Size":
            self._push("tuple", None, given)
        elif function.held == "device" and all(value.kind == "plain" for value in given):
            self._push("plain", None)
        elif function.held == "encode" and [value.kind for value in given] == ["plain"] * 2 and given[1].held in _CODECS:
            self._push("plain", b"")
        else:
            raise _Refused(f"a call of {function.held}")


_PLAIN = {"NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_EMPTY = {"EMPTY_TUPLE": "tuple", "EMPTY_LIST": "list", "EMPTY_DICT": "table"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NAMES = {
    "collections OrderedDict": "OrderedDict",
    "collections Counter": "Counter",
    "torch._utils _rebuild_tensor_v2": "_rebuild_tensor_v2",
    "torch._utils _rebuild_parameter": "_rebuild_parameter",
    "torch Size": "Size",
    "torch device": "device",
    "_codecs encode": "encode",
    **{f"torch {name}": name for name in (*_STORAGES, *_DTYPES)},
}


def _known(name: str) -> str:
    if name not in _NAMES:
        raise _Refused(brief(name.replace(" ", ".", 1)))
    return _NAMES[name]


def _items(value: _Value) -> tuple[_Value, ...]:
    if value.kind != "tuple" or value.held is None:
        raise _Refused(f"a {value.kind} where a tuple was expected")
    return value.held


def _number(value: _Value) -> int:
    if value.kind != "plain" or type(value.held) is not int or not 0 <= value.held < 2**63:
        raise _Refused(f"{brief(value.held)} where a size was expected")
    return value.held


def _check_keys(keys: Sequence[_Value]) -> None:
    """Refuse keys other than texts and numbers of 64 bits: finding the place of anything else may take for ever."""
    for key in keys:
        text = isinstance(key.held, str | bytes | bool | None)
        if key.kind != "plain" or not (text or (isinstance(key.held, int) and -(2**63) <= key.held < 2**63)):
            raise _Refused("a table whose names are neither texts nor numbers")


def _check_view(storage: _Value, offset: int, size: list[int], stride: list[int]) -> None:
    """Refuse a tensor that reaches beyond its storage, which torch would enlarge for it."""
    if storage.kind != "storage" or len(size) != len(stride) or len(size) > 64:
        raise _Refused("a tensor without values")
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.held:
        raise _Refused("a tensor that reaches beyond its values")
