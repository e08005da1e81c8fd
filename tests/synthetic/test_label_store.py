"""What is stored of a view is enough to make it again, and what teachers said of it is what they would say now."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from condense.errors import NumericsError
from condense.rng import generator
from condense.synthetic import DistilledSet, LabelStore, Views, draw_views, parts, relabel

N, SIZE, CLASSES = 10, 12, 3
IMAGES = torch.randn(N, 2, SIZE, SIZE, generator=generator(0, "images"))
CROPS = ("resized", "shifted", "none")
MIXES = ("none", "cutmix", "mixup")


def views(**changes):
    settings = {"epochs": 3, "batch": 4, "crop": "resized", "smallest": 0.08, "mirrored": True, "mix": "cutmix"}
    return draw_views(N, SIZE, **{**settings, "draws": lambda e: generator(7, "views", e), **changes})


def store(**changes):
    made = views()
    values = torch.zeros(3, N, CLASSES, dtype=torch.float16)
    return LabelStore(**{"views": made, "kind": "logits", "values": values, **changes})


def by_hand(made, epoch, place):
    """The view at a place of an epoch before it is mixed: cut out of a padded image, resized, mirrored."""
    top, left, height, width = made.boxes[epoch, place].tolist()
    image = F.pad(IMAGES[made.order[epoch, place]][None], (SIZE,) * 4)
    image = image[:, :, SIZE + top : SIZE + top + height, SIZE + left : SIZE + left + width]
    image = F.interpolate(image, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)[0]
    return image.flip(2) if made.mirrored[epoch, place] else image


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("mix", MIXES)
def test_a_batch_is_cut_mirrored_and_mixed_as_by_hand(crop, mix):
    made = views(crop=crop, mix=mix)
    places = [range(N)[part] for part in made.batches]
    assert [len(batch) for batch in places] == [4, 4, 2]
    for epoch in range(3):
        for k, batch in enumerate(places):
            shown = made.show(IMAGES, epoch, k)
            assert shown.rows.tolist() == made.order[epoch, batch.start : batch.stop].tolist()
            share = float(made.shares[epoch, k])
            for i, place in enumerate(batch):
                other = int(made.partners[epoch, place])
                own, partner = by_hand(made, epoch, place), by_hand(made, epoch, other)
                if mix == "cutmix":
                    top, left, bottom, right = made.patches[epoch, k].tolist()
                    own[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
                    assert share == pytest.approx(1 - (bottom - top) * (right - left) / SIZE**2)
                elif mix == "mixup":
                    own = share * own + (1 - share) * partner
                torch.testing.assert_close(shown.x[i], own, atol=1e-5, rtol=0)
                assert int(shown.partner_rows[i]) == int(made.order[epoch, other])
            assert shown.share == share


def test_every_image_is_in_every_epoch_once_and_epochs_differ():
    made = views()
    assert torch.equal(made.order.sort(1).values, torch.arange(N).expand(3, N))
    assert torch.equal(made.partners.sort(1).values, torch.arange(N).expand(3, N))
    assert made.order.unique(dim=0).shape == (3, N)
    assert store().fault(N, SIZE, CLASSES) is None


def test_an_epoch_is_drawn_by_its_generator_alone():
    short = views(epochs=1, draws=lambda _: generator(7, "views", 2))
    for name, tensor in LabelStore(short, "logits", torch.zeros(())).tensors().items():
        if name != "values":
            assert torch.equal(tensor[0], store().tensors()[name][2])


def test_what_is_not_asked_for_is_not_done():
    plain = views(crop="none", mirrored=False, mix="none")
    for epoch in range(3):
        batches = [plain.show(IMAGES, epoch, k) for k in range(3)]
        assert torch.equal(torch.cat([batch.x for batch in batches]), IMAGES[plain.order[epoch]])
        assert all(torch.equal(batch.rows, batch.partner_rows) and batch.share == 1 for batch in batches)


def test_the_ranges_of_the_draws():
    many = {"epochs": 60, "batch": 2}
    shifted, resized = views(crop="shifted", **many), views(smallest=0.5, **many)
    assert shifted.boxes[..., :2].aminmax() == (-2, 2)  # an eighth of 12, rounded
    assert (shifted.boxes[..., 2:] == SIZE).all()
    area = resized.boxes[..., 2] * resized.boxes[..., 3] / SIZE**2
    assert 0.4 < float(area.min()) < 0.6 and float(area.max()) == 1
    assert 0.4 < float(resized.mirrored.float().mean()) < 0.6
    assert not views(mirrored=False).mirrored.any()


def test_mixups_lambda_has_the_moments_of_its_beta():
    """Beta(0.8, 0.8): mean 1/2, variance 1 / (4 (2 * 0.8 + 1))."""
    shares = views(mix="mixup", epochs=1000).shares.double().flatten()
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(1 / 4 / 2.6, abs=0.005)


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (2, 4, [2]), (3, 2, [3]), (5, 4, [5]), (6, 4, [4, 2])],
)
def test_no_part_is_of_one(count, size, lengths):
    found = [range(count)[part] for part in parts(count, size)]
    assert [len(part) for part in found] == lengths
    assert [i for part in found for i in part] == list(range(count))
    made = draw_views(
        count,
        SIZE,
        epochs=1,
        batch=size,
        crop="none",
        smallest=1,
        mirrored=False,
        mix="mixup",
        draws=lambda _: generator(0, "v"),
    )
    assert made.shares.shape == (1, len(lengths)) and made.patches.shape == (1, len(lengths), 4)


@pytest.mark.parametrize("mix", MIXES)
def test_stored_labels_are_those_of_the_same_views_now(mix):
    made = views(mix=mix)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(2 * SIZE**2, CLASSES))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(1, "teacher")) / 10)
    values = relabel(IMAGES, made, lambda shown: teacher(shown.x))
    assert values.dtype == torch.float16 and values.shape == (3, N, CLASSES) and not values.requires_grad
    for epoch in range(3):
        for k, batch in enumerate(made.batches):
            live = teacher(made.show(IMAGES, epoch, k).x)
            torch.testing.assert_close(values[epoch, batch].float(), live, rtol=1e-3, atol=1e-3)


def test_values_are_in_the_order_of_the_views():
    rows = relabel(IMAGES, views(), lambda shown: shown.rows[:, None].float())
    assert torch.equal(rows[..., 0].long(), views().order)


@pytest.mark.parametrize("value", [7e4, torch.nan])
def test_what_float16_does_not_hold_is_refused_with_its_batch(value):
    said = []

    def label(shown):
        said.append(0.0 if len(said) < 4 else value)
        return torch.full((len(shown.x), CLASSES), said[-1])

    with pytest.raises(NumericsError, match=r"^x: logits of epoch 2, batch 2, are not finite, or above 65504"):
        relabel(IMAGES, views(), label, what="x: logits")
    assert len(said) == 5


def test_it_can_be_stopped_after_each_batch():
    said = []

    def label(shown):
        said.append(len(shown.x))
        return torch.zeros(len(shown.x), CLASSES)

    def poll():
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relabel(IMAGES, views(), label, poll=poll)
    assert said == [4, 4]


def test_groups_are_parts_of_a_batch():
    assert [(g.start, g.stop) for g in store(group=2).groups(5)] == [(0, 2), (2, 5)]
    assert store(group=8).groups(5) == store().groups(5) == [slice(0, 5)]


def test_a_mosaic_keeps_the_store_for_its_cells():
    made = DistilledSet(IMAGES, torch.arange(N), factor=2, store=store())
    assert made.decoded().store is made.store


def put(name, index, value):
    def change(made: LabelStore) -> LabelStore:
        tensor = made.tensors()[name].clone()
        tensor[index] = value
        if name == "values":
            return replace(made, values=tensor)
        return replace(made, views=replace(made.views, **{name: tensor}))

    return change


FAULTS = {
    "a batch of one": (lambda s: replace(s, views=replace(s.views, batch=1)), "must be 2 or more"),
    "a group of one": (lambda s: replace(s, group=1), "must be 2 or more"),
    "an unknown kind": (lambda s: replace(s, kind="labels"), "kind 'labels'"),
    "a weight above 1": (lambda s: replace(s, weight=1.5), "weight 1.5"),
    "an infinite weight": (lambda s: replace(s, kind="distances", weight=float("inf")), "weight inf"),
    "no epoch": (lambda s: replace(s, views=replace(s.views, order=s.views.order[:0])), "'order' has shape"),
    "flat order": (lambda s: replace(s, views=replace(s.views, order=s.views.order[0])), "'order' has shape"),
    "another batch": (lambda s: replace(s, views=replace(s.views, batch=2)), r"'patches' .* must be \[3, 5, 4\]"),
    "values of fewer classes": (lambda s: replace(s, values=s.values[..., 1:]), r"'values' .* must be \[3, 10, 3\]"),
    "distances of three": (lambda s: replace(s, kind="distances"), r"'values' .* must be \[3, 10, 2\]"),
    "an image twice": (lambda s: put("order", (0, 0), int(s.views.order[0, 1]))(s), "'order' must have each of 0..9"),
    "a partner elsewhere": (put("partners", (1, 0), 4), "'partners' has views of another batch"),
    "an empty box": (put("boxes", (1, 2, 2), 0), "'boxes' has one without pixels"),
    "a box far away": (put("boxes", (1, 2, 0), -SIZE - 1), "more than 12 pixels outside"),
    "a patch outside": (put("patches", (1, 2, 3), SIZE + 1), "'patches' has one that is not inside"),
    "a share above 1": (put("shares", (1, 2), 1.5), "'shares' has values outside"),
    "NaN": (put("values", (1, 2, 0), torch.nan), "'values' has values that are NaN"),
}


@pytest.mark.parametrize("change, message", FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_found(change, message):
    found = change(store()).fault(N, SIZE, CLASSES)
    assert found is not None and re.search(message, found)


def test_a_store_of_other_images_is_found():
    assert "must be [3, 11]" in store().fault(11, SIZE, CLASSES)
    assert "two images" in store().fault(1, SIZE, CLASSES)


def test_views_are_plain_numbers():
    made = views()
    assert isinstance(made, Views) and (made.epochs, made.batch) == (3, 4)
    kinds = {name: tensor.dtype for name, tensor in store().tensors().items()}
    assert kinds == {
        **dict.fromkeys(("order", "boxes", "partners", "patches"), torch.int64),
        "mirrored": torch.bool,
        "shares": torch.float32,
        "values": torch.float16,
    }
