import pytest
import torch
from problems import blobs, make_condenser, make_problem
from torch.nn import functional as F

from condense import api
from condense.augment import cut, draw_boxes
from condense.config import Layer, resolve
from condense.methods.patches import stitch
from condense.methods.rded import RDEDConfig
from condense.synthetic import sample_per_class


def by_hand(condenser, problem, c):
    """Losses and patches of each image of a class, crop by crop, with loops."""
    config, size = condenser.config, problem.data.size
    draws = problem.rng("patches", c)
    count = max(config.candidates, problem.ipc * config.patch_factor**2)
    rows = sample_per_class([problem.members[c]], count, draws)
    boxes = draw_boxes(count * config.crops, size, draws, smallest=0.08, aspect=1.0)
    side = -(-size // config.patch_factor)
    found = []
    for number, row in enumerate(rows):
        tries = []
        for box in boxes[number * config.crops : (number + 1) * config.crops]:
            patch = cut(problem.inputs[row[None]], box[None], size=side)
            field = torch.zeros(1, 1, size, size)
            first = (size - side) // 2
            field[:, :, first : first + side, first : first + side] = patch
            with torch.no_grad():
                loss = F.cross_entropy(problem.pool[0].module(field), torch.tensor([c]))
            tries.append((float(loss), patch[0]))
        found.append(min(tries, key=lambda pair: pair[0]))
    return sorted(found, key=lambda pair: pair[0])


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_tiles_are_the_easiest_patches_in_order(factor, tmp_path):
    """Tile k of image i of a class is number k ipc + i of its patches, the surest first."""
    condenser = make_condenser("rded", candidates=20, patch_factor=factor)
    problem = make_problem(condenser, tmp_path)
    images = condenser.init(problem)["images"]
    for c in range(3):
        ranked = by_hand(condenser, problem, c)
        for i in range(2):
            bands = images[2 * c + i].tensor_split(factor, 1)
            tiles = [tile for band in bands for tile in band.tensor_split(factor, 2)]
            for k, tile in enumerate(tiles):
                expected = F.interpolate(ranked[k * 2 + i][1][None], tile.shape[1:], mode="nearest")[0]
                torch.testing.assert_close(tile, expected)


def test_stitching_keeps_the_bits_of_tiles_that_fit():
    tiles = torch.rand(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = stitch(tiles, 8)
    assert torch.equal(whole[:, :, :4, :4], tiles[0]) and torch.equal(whole[:, :, :4, 4:], tiles[1])
    assert torch.equal(whole[:, :, 4:, :4], tiles[2]) and torch.equal(whole[:, :, 4:, 4:], tiles[3])


def test_no_image_gives_two_patches(tmp_path):
    """All candidates are wanted, so each of them is in the set."""
    condenser = make_condenser("rded", candidates=1, crops=1)
    problem = make_problem(condenser, tmp_path, ipc=40)
    assert len(condenser.init(problem)["images"].unique(dim=0)) == 120


def test_a_class_with_too_few_images_for_its_patches_is_refused():
    resolved = resolve([Layer("test", {"method": "rded", "ipc": 40, "patch_factor": 2, "recipe": "none"})])
    with pytest.raises(ValueError, match=r"ipc = 40: class .* only .* training images .* and 160 are needed"):
        api.prepare(resolved)


def test_a_class_with_fewer_images_than_candidates_gives_all(tmp_path):
    condenser = make_condenser("rded", candidates=300)
    problem = make_problem(condenser, tmp_path, data=blobs(per_class=5))
    assert condenser.init(problem)["images"].isfinite().all()


def test_defaults_are_the_published_ones():
    c = RDEDConfig()
    assert (c.candidates, c.crops, c.label_epochs, c.label_mix, c.iterations) == (300, 5, 300, "cutmix", 0)
