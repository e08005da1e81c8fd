"""The page in a browser, narrow and wide, light and dark."""

import numpy as np
import pytest
from fabricated_bench import fabricate
from headless import CHROMIUM, Browser
from PIL import Image

from condense.bench import write_report

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine"
)

OPEN = "document.querySelectorAll('details').forEach(element => element.open = true)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """With long names, many networks and a failed cell, so that there is something to overflow."""
    return write_report(
        fabricate(
            tmp_path_factory.mktemp("screens") / "bench",
            methods=["dm", "mtt", "datadam", "a-variant-with-quite-a-long-name", "dm-flip"],
            networks=["convnet", "resnet18", "vgg11:norm=batch,width=16", "alexnet", "vit", "mlp", "lenet"],
            seeds=[0, 1],
            failed=["digits-mtt-ipc10-seed1"],
            errors="error: " + "a very long line without an end " * 20 + "x" * 300,
            tables='[method.a-variant-with-quite-a-long-name]\nmethod = "ftd"\n',
        )
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1400])
def test_it_fits_and_is_not_blank(page, browser, width, theme, tmp_path):
    browser.open(page, width, 900, theme)
    browser.ask(OPEN)
    assert browser.ask("document.documentElement.clientWidth") == width
    assert browser.ask("document.documentElement.scrollWidth") <= width
    wider = f"[...document.querySelectorAll('.scroll')].filter(box => box.clientWidth > {width}).length"
    assert browser.ask(wider) == 0
    if width == 380:  # wide tables scroll in their own boxes
        assert browser.ask("[...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)")

    browser.shoot(tmp_path / "whole.png", whole=True)
    pixels = np.asarray(Image.open(tmp_path / "whole.png").convert("L"), dtype=float)
    paper = np.median(pixels)
    assert pixels.shape[1] == width and (paper > 240 if theme == "light" else paper < 40)
    marked = (abs(pixels - paper) > 60).mean(1)
    blocks = marked[: len(marked) // 450 * 450].reshape(-1, 450)
    assert (blocks.max(1) > 0.01).all()  # something on every half screen


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out_from_the_paper(page, browser, theme):
    """Contrast of at least 4.5 for text and 3 for lines and markers (WCAG 2, levels AA)."""
    browser.open(page, 1400, 900, theme)
    style = "getComputedStyle(document.documentElement)"
    names = ["paper", "ink", "quiet", "link", *(f"hue-{number}" for number in range(6))]
    colors = browser.ask(f"{names!r}.map(name => {style}.getPropertyValue('--' + name))")
    paper, *others = (luminance(color) for color in colors)
    ratios = {
        name: (max(paper, one) + 0.05) / (min(paper, one) + 0.05) for name, one in zip(names[1:], others, strict=True)
    }
    assert all(ratio > (3 if name.startswith("hue") else 4.5) for name, ratio in ratios.items()), ratios


def luminance(color):
    channels = [int(color.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_keyboard_reaches_everything(page, browser):
    """The skip link comes first, and every box that scrolls can be focused."""
    browser.open(page, 380, 900, "light")
    for kind in ("rawKeyDown", "keyUp"):
        browser("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert browser.ask("document.activeElement.className") == "skip"
    assert browser.ask("document.activeElement.getBoundingClientRect().left") >= 0
    browser.ask(OPEN)
    boxes = "[...document.querySelectorAll('.scroll')]"
    assert browser.ask(f"{boxes}.every(box => (box.focus(), document.activeElement === box))")
