"""The page: made twice it is the same, it needs nothing but itself, and no name can break out of its place."""

import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from fabricated_bench import fabricate

from condense.bench.page import PAGE, write_report
from condense.errors import RunError

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
EVIL = """<script>alert("1")</script>&'"""


class Page(HTMLParser):
    """Tags with their attributes, in order; every element must be closed where it was opened."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def read(path):
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return fabricate(tmp_path_factory.mktemp("page") / "bench", failed=["digits-mtt-ipc1-seed1"])


@pytest.fixture(scope="module")
def page(bench):
    return read(write_report(bench))


def test_two_reports_are_the_same_bytes(bench, tmp_path, page):
    """Also from another folder, and with other settings of matplotlib."""
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": False, "svg.hashsalt": "x"}):
        path = write_report(bench, tmp_path / "out" / "here")
    assert path == tmp_path / "out" / "here" / PAGE
    assert path.read_text(encoding="utf-8") == page[0]
    names = {entry.name for entry in path.parent.iterdir()}
    assert names == {PAGE, "accuracy.csv", "accuracy.md", "values.csv", "storage.csv", "costs.csv", "costs.md"}
    for name in names:
        assert (path.parent / name).read_bytes() == (bench / "report" / name).read_bytes()


def test_it_needs_nothing_from_outside(page):
    text, parsed = page
    without_pictures = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", without_pictures)
    assert text.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    for tag, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("#", "data:image/png;base64,")), value


def test_ids_are_unique_and_references_lead_somewhere(page):
    _, parsed = page
    ids = Counter(attributes["id"] for _, attributes in parsed.tags if "id" in attributes)
    assert set(ids.values()) == {1}, [name for name, times in ids.items() if times > 1]
    for _, attributes in parsed.tags:
        for name in ("href", "aria-labelledby"):
            if (value := attributes.get(name)) is not None:
                assert value.removeprefix("#") in ids, value
        for value in attributes.values():
            assert all(name in ids for name in re.findall(r"url\(#([^)]*)\)", value or ""))


def test_everyone_can_read_it(page):
    text, parsed = page
    assert parsed.all("html") == [{"lang": "en"}] and len(parsed.all("h1")) == 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in parsed.all("meta")
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert len(tables) == len(re.findall(r"<caption", text)) == 8
    for table in tables:
        assert re.match(r'<table[^>]*>\s*<caption id="', table)
        assert all('scope="' in head for head in re.findall(r"<th\b[^>]*>", table))
    assert all(image["alt"] and image["width"] and image["height"] for image in parsed.all("img"))
    for svg in parsed.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-labelledby"])
    scrolls = [attributes for tag, attributes in parsed.tags if attributes.get("class") == "scroll"]
    assert all(box["tabindex"] == "0" and box["role"] == "region" for box in scrolls)
    assert parsed.all("a")[0] == {"class": "skip", "href": "#content"}
    assert {"main", "header", "nav", "details", "summary", "figure", "figcaption"} <= {tag for tag, _ in parsed.tags}


def test_colours_are_those_of_the_theme(page):
    text, _ = page
    body = text[text.index("</style>") :]
    assert not re.search(r"#[0-9a-f]{6}\b", body)
    assert set(re.findall(r"var\((--[\w-]+)\)", body)) <= set(re.findall(r"(--[\w-]+):", text))
    assert text.count("prefers-color-scheme: dark") == 1


def test_it_says_what_was_found(bench, page):
    text = page[1].text
    for words in (
        "29 of 30 finished, 1 failed",
        "dm, mtt, dm-flip",
        "convnet, mlp, resnet18:norm=batch",
        "2 × 2, over sets",
        "exit code 1 error: nothing worked",
        "OMP_NUM_THREADS=1 condense run --config",
        "condense bench grid.toml --out bench --jobs 2",
        "an abacus",
        "convnet:width=32",
        "flip = True",
    ):
        assert words in text, words
    numbers = [line.split(",") for line in (bench / "report" / "accuracy.csv").read_text().splitlines()[1:]]
    for line in numbers:
        assert f"{float(line[7]):.1f} ± {float(line[8]):.1f}" in text


def test_the_pictures_are_the_images(page):
    assert len(page[1].all("img")) == 2 * 5
    assert {(image["width"], image["height"]) for image in page[1].all("img")} == {("20", "6"), ("20", "20")}


def test_hostile_names_stay_text(tmp_path):
    bench = fabricate(
        tmp_path / "bench",
        datasets=[f"npz:a/{EVIL.replace('/', '')}.npz"],
        networks=["convnet", f"mlp{EVIL}"],
        classes=(EVIL, "b", "c"),
        seeds=[0],
        ipc=[1],
        errors=EVIL,
        protocol=EVIL,
    )
    name = next(path for path in (bench / "cells").iterdir() if path.is_dir() and "-mtt-" in path.name)
    shutil.rmtree(name)
    (bench / "cells" / f"{name.name}.error").write_text(f"exit code 1\n{EVIL}")
    _, parsed = read(write_report(bench))
    assert parsed.all("script") == [] and "alert(" in parsed.text
    assert parsed.text.count(EVIL) >= 3
    assert EVIL in parsed.all("img")[0]["alt"]


def test_a_bench_that_has_only_begun_has_a_page(tmp_path):
    whole = fabricate(tmp_path / "whole", seeds=[0], ipc=[1])
    names = [entry.name for entry in (whole / "cells").iterdir()]
    _, parsed = read(write_report(fabricate(tmp_path / "new", missing=names, seeds=[0], ipc=[1])))
    assert "0 of 5 finished, 5 not yet run" in parsed.text
    one = fabricate(tmp_path / "one", missing=names[1:], seeds=[0], ipc=[1], networks=["convnet"])
    assert "1 of 5 finished" in read(write_report(one))[1].text


def test_a_method_without_losses_and_a_loss_that_was_not_finite(tmp_path):
    bench = fabricate(tmp_path / "bench", seeds=[0], ipc=[1])
    log = bench / "cells" / "digits-dm-ipc1-seed0" / "metrics.jsonl"
    log.write_text('{"iteration": 0, "loss": null}\n{"iteration": 1, "loss": -2.5}\n')
    log.with_name("metrics.jsonl").parent.with_name("digits-mtt-ipc1-seed0").joinpath("metrics.jsonl").unlink()
    _, parsed = read(write_report(bench))
    assert "seed 0 from -2.5 to -2.5" in parsed.text and "Loss of mtt" not in parsed.text


def test_no_bench(tmp_path):
    with pytest.raises(RunError, match="is no bench"):
        write_report(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_curves_are_drawn_where_the_numbers_are(tmp_path):
    """The markers of a plot, read back from the SVG, lie on a line with the accuracies of the table."""
    bench = fabricate(tmp_path / "bench", seeds=[0, 1], levels={"dm": 0.5, "mtt": 0.6, "dm-flip": 0.7})
    text, _ = read(write_report(bench))
    svg = re.search(r'<svg[^>]*aria-labelledby="ipc-0-title".*?</svg>', text, re.DOTALL)[0]
    heights = {}
    for hue in range(3):
        marks = re.findall(rf'<use [^>]*y="([\d.]+)" style="fill: var\(--hue-{hue}\); stroke: ', svg)
        heights[hue] = [float(mark) for mark in marks]
    rows = [line.split(",") for line in (bench / "report" / "accuracy.csv").read_text().splitlines()[1:]]
    means = [[float(row[7]) for row in rows if row[2:4] == ["convnet", name]] for name in ("dm", "mtt", "dm-flip")]
    x, y = np.ravel([heights[hue] for hue in range(3)]), np.ravel(means)
    assert len(x) == 6 and np.corrcoef(x, y)[0, 1] < -0.99999
