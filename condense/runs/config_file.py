"""`config.toml` of a run folder: every resolved key on a line, with where its value came from as a comment."""

import hashlib
import json
import re
from collections.abc import Mapping

from condense.text import printable


def to_toml(values: Mapping[str, object], origins: Mapping[str, str]) -> str:
    """Flat TOML, `key = value  # origin`, in the order of `values`.

    Values are str, bool, int, float, lists or tuples of these, or None. TOML has no null: a None becomes the comment
    `# key is unset  # origin`, and reading the file gives no such key.
    """
    lines = []
    for key, value in values.items():
        line = f"# {key} is unset" if value is None else f"{_key(key)} = {_value(value)}"
        lines.append(f"{line}  # {printable(origins[key])}\n")
    return "".join(lines)


def origins(text: str) -> dict[str, str]:
    """The trailing comments of what `to_toml` wrote, by key."""
    found = {}
    for line in text.splitlines():
        content, separator, origin = line.rpartition("  # ")
        key = content.removeprefix("# ").removesuffix(" is unset").partition(" = ")[0]
        if separator:
            found[key] = origin
    return found


def fingerprint(values: Mapping[str, object]) -> str:
    """SHA-256 of the keys and values that are set; their order does not matter."""
    known = {key: value for key, value in values.items() if value is not None}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"a value of type {type(value).__name__} cannot be written to config.toml")
