"""A Ray cluster on this machine, for tests: `python ray_cluster.py` starts it, and ends it when its stdin ends.

Its workers can be killed: they are the processes below this one.
"""

import os
import sys
from pathlib import Path


def below(process):
    """The processes that `process` started, and those that they started, with the words they go by."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().replace("\0", " ").strip()
            parents[int(folder.name)] = (int((folder / "stat").read_text().rpartition(")")[2].split()[1]), words)
        except OSError:  # it has just ended
            continue
    found, new = {}, {process}
    while new:
        new = {number for number, (parent, _) in parents.items() if parent in new and number not in found}
        found |= {number: parents[number][1] for number in new}
    return found


def workers(process):
    """Those that are at a unit."""
    return [number for number, words in below(process).items() if words.startswith("ray::_perform")]


if __name__ == "__main__":
    from condense.scale.cluster import HERE

    os.environ.update(HERE)
    import ray

    held = ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    print(held.address_info["address"], flush=True)
    sys.stdin.read()
