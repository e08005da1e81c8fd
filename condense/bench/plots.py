"""Plots of a bench as SVG to be put into a page, the same bytes for the same numbers.

A plot has no colours of its own: ink, rules, paper and the series are CSS variables of the page, so it follows the
page's light and dark themes. Series differ by marker and dash as well as by colour.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from condense.bench.results import Interval
from condense.costs import size

INK, RULE, PAPER, QUIET = "#010101", "#010102", "#010103", "#010104"
HUES = tuple(f"#0200{number:02x}" for number in range(6))
VARIABLES = {INK: "currentColor", RULE: "var(--rule)", PAPER: "var(--paper)", QUIET: "var(--quiet)"}
VARIABLES |= {hue: f"var(--hue-{number})" for number, hue in enumerate(HUES)}
MARKERS, OPEN_MARKERS = "osD^vPX<>p", "sod^vph<>8"
Dash = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)))
PLOT, PANEL = (3.7, 2.9), (2.6, 1.7)  # inches
APART = 0.006
"""Of the horizontal axis: series with the same places are drawn that far apart, to tell their bars from each other."""
POINTS = 160
"""Points of a curve, at most: longer ones are averaged in groups."""

STYLE = {
    "svg.hashsalt": "condense",
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Look:
    """How a series is drawn, the same in every plot of a page."""

    color: str
    marker: str
    dash: Dash
    filled: bool


REFERENCE = Look(INK, "", (0, (1, 1.5)), False)
"""The full data: a dotted line."""


def looks(methods: Sequence[str], baselines: Sequence[str]) -> dict[str, Look]:
    """Methods in hues with full markers, baselines in grey with open ones."""
    found = {
        label: Look(HUES[i % len(HUES)], MARKERS[i % len(MARKERS)], DASHES[i // len(HUES) % len(DASHES)], True)
        for i, label in enumerate(methods)
    }
    return found | {
        label: Look(QUIET, OPEN_MARKERS[i % len(OPEN_MARKERS)], DASHES[1], False) for i, label in enumerate(baselines)
    }


def swatch(look: Look) -> str:
    """The line and marker of a series for a legend, where its name stands beside it: an SVG element."""
    dash = "" if isinstance(look.dash, str) else f' stroke-dasharray="{" ".join(f"{1.4 * n:g}" for n in look.dash[1])}"'
    line = f'<path d="M0 6H28" fill="none" stroke="{look.color}" stroke-width="1.4"{dash}/>'
    shape = ""
    if look.marker:
        marker = MarkerStyle(look.marker)
        corners: Any
        (corners,) = marker.get_path().transformed(marker.get_transform()).to_polygons()
        path = "L".join(f"{14 + 6.4 * x:.1f} {6 - 6.4 * y:.1f}" for x, y in corners)
        fill = look.color if look.filled else PAPER
        shape = f'<path d="M{path}Z" fill="{fill}" stroke="{look.color}" stroke-width="1.1"/>'
    return _with_variables(f'<svg viewBox="0 0 28 12" width="28" height="12" aria-hidden="true">{line}{shape}</svg>')


@dataclass(frozen=True)
class Point:
    """A place on the horizontal axis, and an accuracy as a fraction."""

    x: float
    accuracy: Interval


@contextmanager
def _styled() -> Iterator[None]:
    """Whatever the user's own settings of matplotlib are, they are out of the way and come back."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def accuracy_plot(
    series: Mapping[str, Sequence[Point]],
    styles: Mapping[str, Look],
    *,
    name: str,
    title: str,
    axis: str,
    ticks: str,
    reference: Interval | None = None,
) -> str:
    """Accuracy in percent with 95 % intervals against a quantity on a logarithmic axis: an SVG element.

    `name` is unlike that of any other plot of the page, `title` what a reader who cannot see it is told, `ticks` how
    the horizontal axis is labelled: the values themselves ("values"), bytes or powers. `reference` is a level drawn
    across. The legend is the page's: see `swatch`. Bars that are longer than the frame run out of it.
    """
    with _styled():
        figure = Figure(PLOT, layout="constrained")
        axes: Axes = figure.add_subplot()
        axes.set_xscale("log")
        places = sorted({point.x for points in series.values() for point in points})
        span = max(places[-1] / places[0], 2)
        apart = 1 if ticks == "powers" else span**APART
        for number, (label, points) in enumerate(series.items()):
            look, shift = styles[label], apart ** (number - (len(series) - 1) / 2)
            heights = [100 * point.accuracy[0] for point in points]
            errors = [100 * (point.accuracy[1] or 0) for point in points]
            _, caps, bars = axes.errorbar(
                [point.x * shift for point in points],
                heights,
                errors,
                color=look.color,
                marker=look.marker,
                linestyle=look.dash,
                markerfacecolor=look.color if look.filled else PAPER,
                markeredgecolor=look.color,
                markeredgewidth=1.1,
                elinewidth=0.8,
                capsize=2.5,
                capthick=0.8,
            )
            for faint in (*caps, *bars):
                faint.set_alpha(0.6)
        if reference is not None:
            level, half = 100 * reference[0], 100 * (reference[1] or 0)
            axes.axhspan(level - half, level + half, color=QUIET, alpha=0.15, linewidth=0)
            axes.axhline(level, color=REFERENCE.color, linestyle=REFERENCE.dash, linewidth=1.2)
        axes.set_ylim(*_frame([100 * point.accuracy[0] for points in series.values() for point in points], reference))
        axes.set_xlabel(axis)
        axes.set_ylabel("test accuracy, %")
        edge = span**0.07 * apart ** (len(series) / 2)
        axes.set_xlim(places[0] / edge, places[-1] * edge)
        _ticks(axes, places, ticks)
        return _svg(figure, name, title)


def _frame(means: Sequence[float], reference: Interval | None) -> tuple[float, float]:
    """Lower and upper end of the vertical axis: it shows the means well, and long bars run out of it."""
    shown = [*means, *([100 * reference[0]] if reference is not None else [])]
    low, high = min(shown), max(shown)
    margin = max(2.0, 0.15 * (high - low))
    return max(0.0, low - margin), min(100.5, high + margin)


def _ticks(axes: Axes, places: Sequence[float], kind: str) -> None:
    x = axes.xaxis
    if kind == "values":
        x.set_major_locator(FixedLocator(places))
        x.set_minor_locator(NullLocator())
        x.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return
    x.set_major_locator(_locator(*axes.get_xlim()))
    x.set_minor_formatter(NullFormatter())
    words = size if kind == "bytes" else "{:g}".format
    x.set_major_formatter(FuncFormatter(lambda value, _: words(value)))


def _locator(low: float, high: float) -> Locator:
    """Few ticks on a logarithmic axis, whatever its length."""
    if high / low < 6:
        return MaxNLocator(4, steps=[1, 2, 5, 10])
    return LogLocator(10, (1, 2, 5) if high / low < 60 else (1,), numticks=7)


def loss_plot(curves: Mapping[int, Sequence[float]], look: Look, *, name: str, title: str) -> str:
    """The loss of each seed by iteration, an SVG element; logarithmic where all are positive."""
    with _styled():
        figure = Figure(PANEL, layout="constrained")
        axes: Axes = figure.add_subplot()
        for number, losses in enumerate(curves.values()):
            group = -(-len(losses) // POINTS)
            means = [sum(part) / len(part) for part in (losses[i : i + group] for i in range(0, len(losses), group))]
            middle = [min(i * group + (group - 1) / 2, len(losses) - 1) for i in range(len(means))]
            axes.plot(middle, means, color=look.color, linestyle=DASHES[number % len(DASHES)], linewidth=1)
        if all(loss > 0 for losses in curves.values() for loss in losses):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(_locator(*axes.get_ylim()))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        return _svg(figure, name, title)


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an element for a page: no prologue, ids of its own, variables for colours, a title."""
    buffer = StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    label = f'<title id="title">{escape(title)}</title>'
    text = f'<svg {box[0]} role="img" aria-labelledby="{name}-title">\n{label}' + text[text.index(">") + 1 :]
    for foreign in (r"<!--.*?-->", r"<defs>\s*<style.*?</style>\s*</defs>\s*", r"font-family: [^;\"]*; "):
        text = re.sub(foreign, "", text, flags=re.DOTALL)  # comments, and what the page's own style says
    text = text.replace(' id="', f' id="{name}-')
    text = text.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    return _with_variables(text.strip())


def _with_variables(svg: str) -> str:
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg
