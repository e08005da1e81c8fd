"""Files that are almost right: valid ones with a few changes, the checksums mended where that is asked for.

A change is plain data, so that one that found something can be kept (`kept.py`):

    ["set", FILE, [key, ...], value]   a value of manifest or header; "RAW:text" stands for the text itself
    ["drop", FILE, [key, ...]]
    ["twice", FILE, key]               the key is in the text twice
    ["text", FILE, place, bytes]       bytes put in at a part of the length, in the finished file
    ["flip", FILE, place, mask]
    ["cut", FILE, place]
    ["number", FILE, place, bytes]     bytes of the tensors, from a part of their length on
    ["length", FILE, n]                the length that the file says its header has
    ["file", FILE, kind]               no file but: nothing, a link, a pipe, a folder
    ["sign"]                           sizes, hashes and seals are made to fit
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Change = list[Any]
Paths = dict[str, list[list[Any]]]
"""Of each file of a template the places of its values."""

DEEP = 3000
NUMBERS = (0, -1, 1, 2, 3, 5, 7, 9, 64, 2**15, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 10**30, 0.5, -0.0, 1e308, 5e-324)
TEXTS = (
    "", " ", "x", "..", "../secret", "/etc/passwd", "/dev/zero", "~nobody/x", "~nobody-is-called-so/x", "a/b", "a\\b",
    "a\0b", "\x1b[31m", "é" * 50, "x" * 5000, "NaN", "none", "folder:/", "folder:~nobody", "npz:/dev/zero", "npz:a\0b",
    "digits", "convnet:width=9999999", "convnet:depth=-1", "torchvision:os", "cuda:99", "meta", "hard", "soft", "zca",
    "distances", "published:x", "__metadata__", "F64", "I64", "I32", "BF16", "F8_E4M3", "U8", "BOOL",
    "data.safetensors", "labels.safetensors", "0" * 64,
)  # fmt: skip
RAW = (
    "RAW:NaN", "RAW:-Infinity", "RAW:1e999", "RAW:" + "9" * 5000, "RAW:nan", "RAW:inf", "RAW:1979-05-27", "RAW:",
    "RAW:0x_",
    "RAW:" + "[" * DEEP + "]" * DEEP, "RAW:" + '{"a":' * DEEP + "0" + "}" * DEEP, 'RAW:"\\ud800"', "RAW:00:00:00",
    "RAW:'''",
)  # fmt: skip
SHAPES = (
    [],
    [0],
    [0, 0],
    [6],
    [1, 2**62],
    [2**31, 2**31, 2**31, 2**31],
    [0, 4],
    [4, 0],
    [0, 2**40],
    [-1, 4],
    [3, 1, 4, 4],
)
SCALARS = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.sampled_from(RAW))
VALUES = st.one_of(
    SCALARS,
    st.integers(-10, 10),
    st.sampled_from(SHAPES),
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(TEXTS), SCALARS, max_size=2),
    st.sampled_from([0, "x", "mlp", {}, []]).map(lambda value: [value] * 3000),
)
BYTES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\0\x7c", b"\xff" * 8, b"\0" * 64]),
    st.sampled_from([b"{", b"}", b'"', b",", b"[" * 5000, b"[[a]]\n", b"a.b = 1\n", b"\n[x]\n", b"\xef\xbb\xbf"]),
    st.sampled_from([b"\n" + b"a." * 5000 + b"a = 1\n", b"\n[" + b"a." * 99 + b"a]\n" + b"b = 1\n" * 9]),
).map(lambda content: content.decode("latin-1"))  # fmt: skip
KINDS = (
    "missing",
    "link to nothing",
    "link to itself",
    "link outside",
    "link to a device",
    "pipe",
    "folder",
    "empty",
    "large",
)


def changes(paths: Paths, tensors: tuple[str, ...] = ()) -> st.SearchStrategy[list[Change]]:
    """One to four changes of files with values at `paths`, those called `tensors` with numbers after them."""
    files = st.sampled_from(sorted(paths))
    place = st.floats(0, 1, width=32)
    at = st.sampled_from([(file, path) for file, held in sorted(paths.items()) for path in held])
    value = st.tuples(at, VALUES).map(lambda drawn: ["set", *drawn[0], drawn[1]])
    kinds = [
        *[value] * 6,
        at.map(lambda drawn: ["drop", *drawn]),
        at.filter(lambda drawn: isinstance(drawn[1][-1], str)).map(lambda drawn: ["twice", drawn[0], drawn[1][-1]]),
        st.tuples(files, place, BYTES).map(lambda drawn: ["text", *drawn]),
        st.tuples(files, place, st.integers(1, 255)).map(lambda drawn: ["flip", *drawn]),
        st.tuples(files, place).map(lambda drawn: ["cut", *drawn]),
        st.tuples(files, st.sampled_from(KINDS)).map(lambda drawn: ["file", *drawn]),
    ]
    if tensors:
        inside = st.tuples(st.sampled_from(tensors), place, BYTES).map(lambda drawn: ["number", *drawn])
        kinds += [inside] * 4
        kinds.append(st.tuples(st.sampled_from(tensors), st.sampled_from(NUMBERS[:14])).map(lambda d: ["length", *d]))
    drawn = st.lists(st.one_of(kinds), min_size=1, max_size=4)
    return st.one_of(drawn.map(lambda held: [*held, ["sign"]]), drawn)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[list[Any]]:
    """Where values are in a value, and where a new key could be."""
    if above:
        yield list(above)
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in inner:
        yield from places(held, (*above, key))
    if isinstance(value, dict):
        yield [*above, "another"]


class Template:
    """A folder of valid files in memory: JSON, TOML and safetensors as values, others as bytes.

    `sign(value, content)` makes the value of `manifest` fit the contents of the other files.
    """

    def __init__(self, folder: Path, manifest: str, sign: Callable[[Any, dict[str, bytes]], None]) -> None:
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        self.manifest, self.sign = manifest, sign
        values = {name: _value(name, content)[0] for name, content in self.files.items()}
        self.paths: Paths = {name: list(places(value)) for name, value in values.items() if isinstance(value, dict)}
        self.tensors = tuple(name for name in self.files if name.endswith(".safetensors"))

    def changes(self) -> st.SearchStrategy[list[Change]]:
        return changes(self.paths, self.tensors)

    def write(self, folder: Path, made: list[Change]) -> None:
        """The files with the changes, in `folder`, which is empty."""
        values = {name: list(_value(name, content)) for name, content in self.files.items()}
        for kind, *where in made:
            if kind in ("set", "drop"):
                _edit(values[where[0]][0], where[1], where[2:])
            elif kind == "number":
                values[where[0]][1] = _put(values[where[0]][1], where[1], where[2].encode("latin-1"))
        content = {name: _text(name, *held, made) for name, held in values.items()}
        if ["sign"] in made:
            value = values[self.manifest][0]
            with suppress(Exception):
                self.sign(value, content)  # as far as there is something to sign
            text = _text(self.manifest, *values[self.manifest], made)
            content[self.manifest] = _sealed(text, value.get("seal") if isinstance(value, dict) else None)
        for kind, *where in made:
            if kind in ("text", "flip", "cut"):
                content[where[0]] = _damaged(content[where[0]], kind, *where[1:])
        for name, data in content.items():
            (folder / name).write_bytes(data)
        for kind, *where in made:
            if kind == "file":
                _replace(folder / where[0], where[1])


def _value(name: str, content: bytes) -> tuple[Any, bytes]:
    """What a file says, and what comes behind that."""
    if name.endswith(".json"):
        return json.loads(content), b""
    if name.endswith(".safetensors"):
        size = int.from_bytes(content[:8], "little")
        return json.loads(content[8 : 8 + size]), content[8 + size :]
    if name.endswith(".toml"):
        return tomllib.loads(content.decode()), b""
    return None, content


def _edit(value: Any, path: list[Any], new: list[Any]) -> None:
    try:
        for key in path[:-1]:
            value = value[key]
        if new:
            value[path[-1]] = new[0]
        else:
            del value[path[-1]]
    except (KeyError, IndexError, TypeError):
        pass  # an earlier change has taken the place away


def _text(name: str, value: Any, behind: bytes, made: list[Change]) -> bytes:
    if value is None:
        return behind
    text = _toml(value) if name.endswith(".toml") else json.dumps(value)
    while (start := text.find('"RAW:')) >= 0:
        string, end = json.JSONDecoder().raw_decode(text, start)
        text = text[:start] + string.removeprefix("RAW:") + text[end:]
    for kind, *where in made:
        if kind == "twice" and where[0] == name:
            mark = f"{where[1]} = " if name.endswith(".toml") else f"{json.dumps(where[1])}: "
            text = text.replace(mark, f"{mark}0\n{mark}" if name.endswith(".toml") else f"{mark}0, {mark}", 1)
    head = text.encode("utf-8", "surrogatepass")
    if name.endswith(".safetensors"):
        lengths = [where[1] for kind, *where in made if kind == "length" and where[0] == name]
        length = lengths[-1] if lengths else len(head)
        head = (int(length) % 2**64).to_bytes(8, "little") + head
    return head + behind


def _toml(value: dict[str, Any]) -> str:
    """Plain keys first, then tables, two deep as a grid has them."""
    lines = [f"{key} = {_inline(held)}" for key, held in value.items() if not isinstance(held, dict)]
    for key, table in value.items():
        if isinstance(table, dict):
            lines += [f"[{key}]", *(f"{inner} = {_inline(held)}" for inner, held in table.items())]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(held)}" for key, held in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def _put(content: bytes, place: float, new: bytes) -> bytes:
    start = int(place * max(0, len(content) - len(new)))
    return content[:start] + new[: len(content) - start] + content[start + len(new) :]


def _damaged(content: bytes, kind: str, place: float, new: Any = None) -> bytes:
    at = int(place * max(0, len(content) - 1))
    if kind == "text":
        return content[:at] + new.encode("latin-1") + content[at:]
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ new]) + content[at + 1 :] if content else content
    return content[:at]


def _replace(path: Path, kind: str) -> None:
    if path.is_dir():
        return
    path.unlink(missing_ok=True)
    match kind:
        case "link to nothing":
            path.symlink_to("nothing")
        case "link to itself":
            path.symlink_to(path.name)
        case "link outside":
            path.symlink_to("/etc/passwd")
        case "link to a device":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "large":
            path.touch()
            os.truncate(path, 2**26)  # sparse: it takes no room


def _sealed(text: bytes, seal: Any) -> bytes:
    """`text` with the seal that belongs to it in the place of `seal`."""
    if not isinstance(seal, str) or len(seal) != 64:
        return text
    blank = b'"seal": "' + b"0" * 64
    text = text.replace(b'"seal": "' + seal.encode(), blank)
    return text.replace(blank, b'"seal": "' + hashlib.sha256(text).hexdigest().encode())
