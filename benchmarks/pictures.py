"""The pictures of docs/methods.md: of finished runs the last image of each class, in one row.

for m in dc dsa idc dm idm ncfm datadam atom mtt ftd tesla datm pad ast sre2l cvdd nrrdd rded kd_subset \\
    random random_soft herding kmeans kcenter; do
    condense run --method $m --ipc 1 --out runs/digits-$m; done
condense run --method infer --ipc 2 --out runs/digits-infer  # the least that it can do
python benchmarks/pictures.py runs/digits-*
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from condense.artifact import load_artifact

OUT = Path(__file__).parent.parent / "docs" / "images" / "methods"
SIDE, GAP = 24, 2
"""Pixels of an image on the page, and of white between two."""


def main(runs: list[str]) -> None:
    for run in runs:
        artifact = load_artifact(Path(run) / "distilled")
        per_class = len(artifact) // len(artifact.classes)
        strip = Image.new("L", (len(artifact.classes) * (SIDE + GAP) - GAP, SIDE), 255)
        for number, pixels in enumerate(artifact.pixels()[per_class - 1 :: per_class, 0]):
            image = Image.fromarray((255 * pixels.numpy()).round().astype(np.uint8))
            strip.paste(image.resize((SIDE, SIDE), Image.Resampling.NEAREST), (number * (SIDE + GAP), 0))
        strip.save(OUT / f"{artifact.manifest.method.name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
