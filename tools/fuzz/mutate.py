"""Changes to an input that keep what would otherwise be refused at once: lengths, checksums, hashes, brackets.

``Changer`` picks a file of a case and changes it by what it is; the bytes of the rest go to the fuzzer's own mutator.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from tools.fuzz.cases import PIPE, Content, NoCase, pack, unpack

Bytes = Callable[[bytes], bytes]  # the fuzzer's own mutator

# JSON texts that a reader must expect where anything else stood.
RAW = [
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "2",
    "255",
    "65536",
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "0.5",
    "1e-300",
    "1e308",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "9" * 5000,
    '""',
    '"0"',
    '"a\\nb"',
    '"\\u001b[2J"',
    '"\\ud800"',
    '"../../../etc/passwd"',
    '"/dev/zero"',
    '"' + "x" * 3000 + '"',
    "[]",
    "{}",
    "[[]]",
    "[null]",
    '{"":0}',
    "[" * 200 + "]" * 200,
    "[16384, 16384]",
    "[1000000]",
    "[0, -5]",
    "[1e999, 0.9]",
]
YAML = [
    "*a",
    "&a [1]",
    "&a [*a]",
    "!!python/object/apply:os.system [x]",
    ".inf",
    "-.inf",
    ".nan",
    "1e999",
    "1_000",
    "0x7fffffffffffffff",
    "~",
    "!!binary eA==",
    "2026-01-01",
    "1:30",
    "<<: *a",
    "[0, -5]",
    "../../../etc",
    "'",
    '"\\x1b[2J"',
    "? x",
    "- x",
    "{a: {b: {c: 1}}}",
    "9" * 5000,
    "on",
    "!!set {a}",
    "0o17",
    "\t",
    "\u2028",
    "%YAML 1.1",
    "---",
    "...",
]


# Files that were damaged before are changed as bytes.
DAMAGED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    RecursionError,
    RuntimeError,
)


class Changer:
    """Changes cases.

    Args:
        seed: of its choices.
        plain: the fuzzer's own mutator of bytes.
    """

    def __init__(self, seed: int, plain: Bytes) -> None:
        self.random, self.plain = random.Random(seed), plain

    def case(self, data: bytes) -> bytes:
        """Return a case with one file changed; what is no case is changed as bytes."""
        try:
            files = unpack(data)
        except NoCase:
            return self.plain(data)
        name = self.random.choice(sorted(files))
        content = files[name]
        if self.random.random() < 0.03:
            self._rearrange(files, name)
        elif isinstance(content, bytes):
            files[name] = self.file(name, content)
        if "export.json" in files and self.random.random() < 0.9:
            rehash(files)
        return pack(files)

    def _rearrange(self, files: dict[str, Content], name: str) -> None:
        """Remove a file, double it, or put a pipe or a link in its place."""
        choice = self.random.randrange(5)
        if choice == 0:
            files.pop(name)
            files.setdefault("x", b"")
        elif choice == 1:
            files[name] = PIPE
        elif choice == 2:
            files[name] = f"link {self.random.choice(['/dev/zero', '.', 'nowhere', '/etc/passwd', name])}"
        elif choice == 3:
            files[f"{name}.{self.random.choice(['json', 'bin', 'png', 'safetensors'])}"] = files[name]
        else:
            other = self.random.choice(sorted(files))
            files[name], files[other] = files[other], files[name]

    def file(self, name: str, content: bytes) -> bytes:
        """Return a file changed by its kind, or as bytes."""
        if self.random.random() < 0.8:
            with contextlib.suppress(*DAMAGED):
                if name.endswith((".json", ".jsonl")) or content[:1] == b"{":
                    return self.json(content.decode()).encode("utf-8", "surrogatepass")
                if name.endswith(".safetensors"):
                    return self._safetensors(content)
                if content[:8] == b"\x89PNG\r\n\x1a\n":
                    return self._png(content)
                if content[:4] == b"PK\x03\x04":
                    return self._zip(content)
                if name.endswith((".yaml", ".csv", ".tsv", ".txt")):
                    return self._text(content.decode()).encode()
        return self.plain(content)

    def json(self, text: str) -> str:
        """Return JSON with a value replaced, removed, doubled or exchanged for another of the same text."""
        value = json.loads(text)
        places = list(_places(value))
        if not places:
            return self.random.choice(RAW)
        raw: dict[str, str] = {}
        for _ in range(self.random.choice([1, 1, 1, 2, 4])):
            table, key = self.random.choice(places)
            with contextlib.suppress(KeyError, IndexError):  # a change before may have taken it away
                self._change(table, key, places, raw)
        found = json.dumps(value)
        for mark, replacement in raw.items():
            found = found.replace(f'"{mark}"', replacement)
        return found

    def _change(self, table: Any, key: Any, places: list[tuple[Any, Any]], raw: dict[str, str]) -> None:
        item, choice = table[key], self.random.randrange(10)
        if choice == 0:
            del table[key]
        elif choice == 1 and isinstance(table, list):
            table.insert(self.random.randint(0, len(table)), json.loads(json.dumps(item)))
        elif choice == 2 and isinstance(table, dict):
            table[self.random.choice(["", "__metadata__", "x", "0", "-1", str(key).upper(), "é\x1b"])] = item
        elif choice == 3:
            other, place = self.random.choice(places)
            table[key] = json.loads(json.dumps(other[place]))  # a copy: no table may hold itself
        elif choice <= 5 and isinstance(item, int | float) and not isinstance(item, bool):
            near = float(max(-1e300, min(item, 1e300)))
            table[key] = self.random.choice([-item, item + 1, item - 1, item * 2, item * 1000, near / 3, near, str(item)])
        elif choice == 6 and isinstance(item, str):
            table[key] = self.random.choice([item * 2, item[:-1], item.upper(), f"../{item}", f"{item}\n", item[::-1], [item]])
        else:
            mark = f"@{len(raw)}@"
            table[key], raw[mark] = mark, self.random.choice(RAW)

    def _safetensors(self, data: bytes) -> bytes:
        """Change the header, or what is said in it of the network, and keep its length right."""
        (length,) = struct.unpack("<Q", data[:8])
        header, body = data[8 : 8 + length].decode(), data[8 + length :]
        if self.random.random() < 0.1:
            return data[: 8 + length] + self.plain(body)
        value = json.loads(header)
        said = value.get("__metadata__", {})
        if isinstance(said, dict) and said and self.random.random() < 0.7:
            key = self.random.choice(sorted(said))
            said[key] = self.json(said[key]) if str(said[key])[:1] in "{[" else self.random.choice(RAW).strip('"')
            header = json.dumps(value)
        else:
            header = self.json(header)
        raw = header.encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(raw)) + raw + body

    def _png(self, data: bytes) -> bytes:
        """Change one chunk, or their order, and make its checksum again."""
        chunks, place = [], 8
        while place + 12 <= len(data):
            (length,) = struct.unpack(">I", data[place : place + 4])
            chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
            place += 12 + length
        number = self.random.randrange(len(chunks))
        kind, body = chunks[number]
        if kind == b"IDAT" and self.random.random() < 0.5:
            body = zlib.compress(self.plain(zlib.decompress(body)))
        elif self.random.random() < 0.2:
            chunks.insert(
                self.random.randrange(len(chunks)),
                (self.random.choice([b"eXIf", b"tRNS", b"PLTE", b"acTL", b"iCCP", kind]), body),
            )
        else:
            body = self.plain(body)
        chunks[number] = (kind, body)
        return data[:8] + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
        )

    def _zip(self, data: bytes) -> bytes:
        """Change one member, or its name, and pack it again."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(item.filename, archive.read(item)) for item in archive.infolist() if item.file_size < 1 << 20]
        number = self.random.randrange(len(members))
        name, content = members[number]
        if self.random.random() < 0.1:
            name = self.random.choice([f"../{name}", f"/{name}", name.upper(), f"{name}/", "x" * 300, members[0][0]])
        members[number] = (name, self.file(name, content))
        buffer = io.BytesIO()
        how = zipfile.ZIP_DEFLATED if self.random.random() < 0.1 else zipfile.ZIP_STORED
        with zipfile.ZipFile(buffer, "w", how) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content)
        return buffer.getvalue()

    def _text(self, text: str) -> str:
        """Replace a value of a line, or move, double or remove lines."""
        lines = text.split("\n")
        number, choice = self.random.randrange(len(lines)), self.random.randrange(6)
        head, mark, _ = lines[number].partition(self.random.choice([": ", ",", "="]))
        if choice == 0:
            lines.insert(self.random.randrange(len(lines)), lines[number])
        elif choice == 1:
            del lines[number]
        elif choice == 2:
            lines[number] = f"{' ' * self.random.randrange(4)}{lines[number]}"
        else:
            lines[number] = f"{head}{mark}{self.random.choice(YAML)}"
        return "\n".join(lines)


def _places(value: Any) -> Any:
    """Yield (table, key) of everything in nested tables."""
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(rows):
        yield value, key
        yield from _places(item)


def rehash(files: dict[str, Content]) -> None:
    """Make a manifest agree with its files again: what somebody does who changes an export on purpose."""
    manifest = files["export.json"]
    with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
        values: Any = json.loads(manifest) if isinstance(manifest, bytes) else None
        values.pop("sha256", None)
        mark = values.pop("seal", "")  # neither is part of what is hashed
        for name in dict(values.get("files", {})):
            content = files.get(name)
            values["files"] |= {name: hashlib.sha256(content if isinstance(content, bytes) else b"").hexdigest()}
        text = json.dumps(values, sort_keys=True).encode()
        files["export.json"] = json.dumps({**values, "sha256": hashlib.sha256(text).hexdigest(), "seal": mark}).encode()
