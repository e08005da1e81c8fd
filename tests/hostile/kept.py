"""Changes that once did what no change may do: see `mutants.py` for what they mean. None is ever taken out."""

from typing import Any

KEPT: dict[str, list[list[list[Any]]]] = {
    "hard": [
        [["file", "preview.png", "link to a device"]],
        [["file", "data.safetensors", "link outside"], ["sign"]],
        [["set", "manifest.json", ["payload", "x" * 5000], {"bytes": 0, "sha256": "0" * 64}], ["sign"]],
        [["set", "manifest.json", ["config", "another"], "RAW:1e999"], ["sign"]],
        [["twice", "manifest.json", "lr"], ["sign"]],
        [["twice", "data.safetensors", "labels"], ["sign"]],
        [["set", "manifest.json", ["classes"], [0] * 300_000], ["sign"]],
        [["set", "manifest.json", ["evaluations"], [{}] * 200_000], ["sign"]],
    ],
    "store": [],
    "compensators": [],
    "trajectories": [],
    "config": [],
    "run": [],
    "grid": [],
    "checkpoint": [],
}
