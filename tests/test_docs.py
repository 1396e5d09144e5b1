"""The documents: links lead somewhere, and what is said to be computed is what the code computes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="there is no docs folder beside the tests")


def anchors(path):
    """Those that a page's headings get: lower case, hyphens for spaces, no other punctuation."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        if name.startswith("http"):
            continue
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_the_table_of_more_gpus_is_the_computed_one():
    pytest.importorskip("torch")
    from zigzag.report.scaling import paper_lines

    text = (ROOT / "docs/cost-model.md").read_text()
    for line in paper_lines():
        assert f"| {' | '.join(line)} |" in text


def test_every_command_is_in_the_readme():
    from zigzag.cli import MEASURING, TRAINING

    text = (ROOT / "README.md").read_text()
    for command in (*MEASURING, *TRAINING):
        assert re.search(rf"\b{command}\b", text), command
