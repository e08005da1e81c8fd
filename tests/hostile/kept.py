"""Changes that once did what no change may do: see `mutants.py` for what they mean. None is ever taken out."""

from typing import Any

KEPT: dict[str, list[list[list[Any]]]] = {
    "hard": [
        [["file", "preview.png", "link to a device"], ["sign"]],
        [["file", "data.safetensors", "link outside"], ["sign"]],
        [["set", "manifest.json", ["payload", "x" * 5000], {"bytes": 0, "sha256": "0" * 64}], ["sign"]],
        [["set", "manifest.json", ["config", "another"], "RAW:1e999"], ["sign"]],
        [["twice", "manifest.json", "lr"], ["sign"]],
        [["twice", "data.safetensors", "labels"], ["sign"]],
        [["set", "manifest.json", ["classes"], [0] * 300_000], ["sign"]],
        [["set", "manifest.json", ["evaluations"], [{}] * 200_000], ["sign"]],
    ],
    "store": [
        [["set", "manifest.json", ["store", "epochs"], 10**30], ["sign"]],
        [["set", "manifest.json", ["images", "shape"], [2**31, 2**31, 4, 4]], ["sign"]],
    ],
    "compensators": [
        [["set", "manifest.json", ["images", "compensators"], [10**30, 3]], ["sign"]],
    ],
    "trajectories": [
        [["file", "manifest.json", "pipe"]],
        [["file", "manifest.json", "missing"]],
        [["set", "manifest.json", ["experts"], [10**30]], ["sign"]],
        [["set", "manifest.json", ["costs", "0"], {"seconds": "x", "peak_bytes": []}], ["sign"]],
        [["set", "ranking.safetensors", ["0", "dtype"], "F64"], ["sign"]],
    ],
    "config": [
        [["text", "config.toml", 1.0, "\n" + "a." * 30_000 + "a = 1\n"]],
        [["text", "config.toml", 1.0, "\n[" + "a." * 16_000 + "a]\n" + "b = 1\n" * 4000]],
        [["text", "config.toml", 1.0, "\n" + "".join(f"iterationz{i} = 1\n" for i in range(3000))]],
        [["set", "config.toml", ["eval_networks"], ["convnett"] * 6000]],
        [["set", "config.toml", ["ipc"], 10**400]],
        [["set", "config.toml", ["buffer"], "~nobody-is-called-so/x"]],
        [["set", "config.toml", ["dataset"], "folder:~nobody-is-called-so/x"]],
        [["set", "config.toml", ["dataset"], "npz:a\0b"]],
    ],
    "run": [
        [["file", "config.toml", "link to a device"]],
        [["set", "config.toml", ["ipc"], "RAW:1979-05-27"]],
        [["set", "config.toml", ["ipc"], "RAW:" + "[" * 3000 + "]" * 3000]],
    ],
    "grid": [
        [["set", "grid.toml", ["ipc"], list(range(1, 9000))], ["set", "grid.toml", ["seeds"], list(range(5000))]],
        [["set", "grid.toml", ["seeds"], [1] * 15_000]],
        [["set", "grid.toml", ["methods"], [f"m{i}" for i in range(7000)]]],
        [["text", "grid.toml", 1.0, "\n" + "".join(f"[method.m{i}]\n" for i in range(3500))]],
        [["text", "grid.toml", 1.0, "\n" + "".join(f"[method.m{i}]\nseed=1\n" for i in range(2500))]],
        [["set", "grid.toml", ["set"], {f"syn{i}": 1 for i in range(4000)}]],
        [["set", "grid.toml", ["networks"], ["convnett"] * 5000]],
        [["set", "grid.toml", ["methods"], ["dm"] * 5000]],
    ],
    "checkpoint": [
        [["file", "000005.safetensors", "pipe"]],
        [["set", "000005.safetensors", ["__metadata__", "peak_bytes"], "x"], ["sign"]],
        [["set", "000005.safetensors", ["__metadata__", "iteration"], "6"], ["sign"]],
    ],
}
