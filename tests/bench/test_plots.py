"""What a plot shows: looks that differ without colour, lines through their points, curves of any length."""

import re

import pytest

from condense.bench.plots import HUES, POINTS, Point, accuracy_plot, looks, loss_plot, swatch

NAMES = [f"m{i}" for i in range(14)]


def plot(series, styles=None, **changes):
    settings = {"name": "p", "title": "t", "axis": "x", "ticks": "values", "reference": None} | changes
    return accuracy_plot(series, styles or looks(list(series), []), **settings)


def path(svg, hue):
    """Corners of the line in this hue."""
    found = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none; [^"]*stroke: var\(--hue-{hue}\)', svg)
    corners = [re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", line) for line in found]
    return [(float(x), float(y)) for x, y in max(corners, key=len)]


def test_no_two_series_look_alike_even_in_grey():
    styles = looks(NAMES, [f"b{i}" for i in range(5)])
    shapes = [(look.marker, look.dash, look.filled) for look in styles.values()]
    assert len(set(shapes)) == len(shapes)
    assert all(look.filled for name, look in styles.items() if name[0] == "m")
    assert len({swatch(look) for look in styles.values()}) == len(shapes)


def test_every_method_keeps_its_look_when_others_come_after_it():
    assert looks(NAMES[:3], []).items() <= looks(NAMES, ["b"]).items()


def test_the_title_is_text():
    svg = plot({"m": [Point(1, (0.5, 0.1))]}, title="<b> & more")
    assert '<title id="p-title">&lt;b&gt; &amp; more</title>' in svg and "<b>" not in svg


def test_a_line_goes_through_its_points():
    svg = plot({"m": [Point(1, (0.5, None)), Point(10, (0.6, None)), Point(100, (0.8, None))]})
    (x0, y0), (x1, y1), (x2, y2) = path(svg, 0)
    assert x1 - x0 == pytest.approx(x2 - x1, rel=1e-3)  # logarithmic
    assert (y1 - y2) / (y0 - y1) == pytest.approx(2, rel=1e-3) and y0 > y1  # linear, upwards


@pytest.mark.parametrize("ticks", ["values", "bytes", "powers"])
@pytest.mark.parametrize("places", [[3.0], [0.001, 5000.0], [1.0, 1.0], [2648.0, 2649.0]])
def test_any_places_can_be_drawn(places, ticks):
    series = {name: [Point(x, (0.5, 0.4)) for x in places] for name in NAMES}
    svg = plot(series, ticks=ticks, reference=(0.99, 0.005))
    assert svg.startswith("<svg ") and "nan" not in svg and svg.count("var(--hue-0)") > 0
    assert "<text" in svg


def test_long_bars_do_not_squeeze_the_means():
    """The frame is that of the means, so a bar of 60 points leaves it as it is."""
    short, long = (plot({"m": [Point(10**i, (0.5 + 0.1 * i, half)) for i in range(3)]}) for half in (0.01, 0.6))
    assert path(short, 0) == path(long, 0)


@pytest.mark.parametrize("count", [1, 2, POINTS, POINTS + 1, 5000])
def test_curves_of_any_length_are_drawn_with_few_points(count):
    losses = [1000.0 - i % 7 for i in range(count)]
    svg = loss_plot({0: losses, 3: losses[:1]}, looks(["m"], [])["m"], name="p", title="t")
    assert 1 <= len(path(svg, 0)) <= POINTS
    assert svg == loss_plot({0: losses, 3: losses[:1]}, looks(["m"], [])["m"], name="p", title="t")


def test_negative_losses_are_drawn_on_a_plain_axis():
    svg = loss_plot({0: [-1.0, -2.0, 3.0]}, looks(["m"], [])["m"], name="p", title="t")
    (_, y0), (_, y1), (_, y2) = path(svg, 0)
    assert y2 < y0 < y1


def test_no_hue_is_a_prefix_of_another():
    """Or replacing the one would damage the other."""
    assert len({len(hue) for hue in HUES}) == 1
