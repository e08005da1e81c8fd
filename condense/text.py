"""JSON and TOML that anybody may have written: read within limits of time and memory, and sealed where we write it.

A sealed JSON file holds a SHA-256 of itself: that of its bytes with zeros in place of the 64 digits.
"""

import hashlib
import json
import math
import tomllib
from datetime import date, time
from pathlib import Path
from typing import Any

SEAL = "seal"
"""The key of the SHA-256."""
_BLANK = "0" * 64
MOST_JSON = 2**20
"""Bytes of a file: parsing them takes a hundred times their memory where they are unlike what we write."""
MOST_TOML, MOST_DOTS = 2**16, 100
"""Bytes of a file, and dots in a line: Python's parser takes the square of either."""


def read_text(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes. Raises ValueError for a larger one, OSError as reading does."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"larger than {most} bytes, the most that is read")
    return content


def parse_json(content: bytes) -> Any:
    """The value in `content`. Raises ValueError: not UTF-8, not JSON, too deep, a key that is there twice, a number
    that is not finite."""
    try:
        return json.loads(content.decode(), object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} is there twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:80]} is not a finite number")
    return number


def parse_toml(content: bytes) -> dict[str, Any]:
    """The keys in `content`, without dates. Raises ValueError: not UTF-8, not TOML, too deep, too long."""
    if len(content) > MOST_TOML:
        raise ValueError(f"larger than {MOST_TOML} bytes, the most that is read")
    text = content.decode()
    if any(line.count(".") > MOST_DOTS for line in text.splitlines()):
        raise ValueError(f"a line with more than {MOST_DOTS} dots")
    try:
        found = tomllib.loads(text)
        _refuse_dates(found)
    except RecursionError:
        raise ValueError("too deep") from None
    return found


def _refuse_dates(value: Any) -> None:
    """No key is a date, and neither JSON nor a fingerprint could hold one."""
    if isinstance(value, date | time):
        raise ValueError(f"{value} is a date or time; write it in quotes")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_dates(inner)


def printable(text: str) -> str:
    """A line without what is no letter or sign, such as the codes by which a text takes over a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def seal(content: dict[str, Any], indent: int) -> bytes:
    """UTF-8 JSON of `content` and its seal. Raises ValueError for numbers that are not finite."""
    text = json.dumps(content | {SEAL: _BLANK}, indent=indent, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    blank = f'"{SEAL}": "{_BLANK}"'.encode()
    assert text.count(blank) == 1
    return text.replace(blank, f'"{SEAL}": "{hashlib.sha256(text).hexdigest()}"'.encode())


def is_whole(content: bytes, seal: str) -> bool:
    """Whether these are the bytes that got this seal."""
    return hashlib.sha256(content.replace(seal.encode(), _BLANK.encode())).hexdigest() == seal
