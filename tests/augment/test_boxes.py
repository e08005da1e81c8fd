import pytest
import torch
from torch.nn import functional as F

from condense.augment import cut, draw_boxes, draw_shifts
from condense.rng import isolated

X = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_boxes_are_cropped_and_resized_as_torch_does_it():
    boxes = torch.tensor([[0, 0, 12, 12], [2, 3, 6, 4], [7, 0, 5, 12], [11, 11, 1, 1], [0, 5, 3, 7]])
    for size in (12, 5, 30):
        made = cut(X, boxes, size=size)
        for image, (top, left, height, width), cropped in zip(X, boxes.tolist(), made, strict=True):
            part = image[None, :, top : top + height, left : left + width]
            expected = F.interpolate(part, (size, size), mode="bilinear", align_corners=False, antialias=True)
            torch.testing.assert_close(cropped, expected[0], atol=1e-5, rtol=0)


def test_the_whole_image_keeps_its_bits_and_is_mirrored():
    whole = torch.tensor([[0, 0, 12, 12]])
    assert torch.equal(cut(X, whole), X)
    assert torch.equal(
        cut(X, whole, torch.tensor([True, False, True, False, False])),
        torch.stack([image.flip(2) if k in (0, 2) else image for k, image in enumerate(X)]),
    )


def test_a_shift_brings_zeros_in():
    boxes = torch.tensor([[-2, 3, 12, 12]])
    expected = F.pad(X, (4, 4, 4, 4))[:, :, 2:14, 7:19]
    assert torch.equal(cut(X, boxes), expected)
    shifts = draw_shifts(500, 12, draws(), most=4)
    assert shifts[:, :2].min() == -4 and shifts[:, :2].max() == 4 and (shifts[:, 2:] == 12).all()


@pytest.mark.parametrize(("smallest", "aspect"), [(0.08, 4 / 3), (0.5, 1.0), (1.0, 4 / 3)])
def test_boxes_are_drawn_as_torchvision_draws_them(smallest, aspect):
    from condense._torchvision import torchvision

    get_params = torchvision.transforms.RandomResizedCrop.get_params
    with isolated(0, "test"):
        image = torch.zeros(3, 64, 64)
        theirs = torch.tensor([get_params(image, (smallest, 1.0), (1 / aspect, aspect)) for _ in range(3000)])
    ours = draw_boxes(3000, 64, draws(), smallest=smallest, aspect=aspect)
    top, left, height, width = ours.T
    assert (ours >= 0).all() and (top + height <= 64).all() and (left + width <= 64).all()
    torch.testing.assert_close(ours.double().mean(0), theirs.double().mean(0), atol=1.2, rtol=0)
    torch.testing.assert_close(ours.double().std(0), theirs.double().std(0), atol=0.8, rtol=0)
    shapes = [torch.log(boxes[:, 3] / boxes[:, 2]).aminmax() for boxes in (ours, theirs)]
    torch.testing.assert_close(*map(torch.stack, shapes), atol=0.05, rtol=0)


def test_the_gradient_goes_back_to_the_pixels():
    x = X[:1].double().requires_grad_()
    boxes = torch.tensor([[2, 3, 7, 5]])
    assert torch.autograd.gradcheck(lambda x: cut(x, boxes, torch.tensor([True])), x)
