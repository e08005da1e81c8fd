"""The documentation keeps its promises: links lead somewhere, names exist, commands parse."""

import re
import shlex
from pathlib import Path

import pytest

from condense.evaluation import load_protocols
from condense.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|console|bash)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [
                line.removeprefix("$ ").partition("  #")[0]
                for line in lines
                if line.startswith(("condense ", "$ condense "))
            ]
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command):
    """Every command that the pages show is one the program accepts; none is run."""
    from condense.cli.verbs import app

    words = [word for word in shlex.split(command)[1:] if word != "..."]
    app.parse_args(words, exit_on_error=False, print_error=False)


def test_every_method_and_protocol_is_described():
    methods = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    evaluation = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in methods for name in METHODS)
    assert all(f"| `{name}`" in evaluation or f", `{name}` |" in evaluation for name in load_protocols())


def test_make_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)`", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
