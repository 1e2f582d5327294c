"""The site: every page is in the navigation, links resolve, and mkdocs builds it without a warning."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documentation.reading import DOCS, PAGES, ROOT, without_code

import rl_det
import rl_det.ap

BESIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + [
    ROOT / "experiments" / name for name in ("README.md", "NUMBERS.md", "LOG.md", "benchmarks/README.md")
]
"""The pages of the site that do not lie in docs/."""
LINK = re.compile(r"\]\(([^)\s]+)\)")
GENERATED = re.compile(r"^::: (\S+)$", re.MULTILINE)


def named(entry: Any) -> Iterator[str]:
    """The pages of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from named(part)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings and of its generated entries."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return slugs | set(GENERATED.findall(text))


def test_every_page_is_in_the_navigation_once() -> None:
    pages = list(named(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    here = {str(page.relative_to(DOCS)) for page in PAGES}
    beside = {"index.md"} | {str(page.relative_to(ROOT)) for page in BESIDE[1:]}
    assert len(pages) == len(set(pages))
    assert set(pages) == here | beside


@pytest.mark.parametrize("page", [*PAGES, *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(without_code(page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_every_public_name_has_an_entry_in_the_api_pages() -> None:
    entries = {name for page in (DOCS / "api").glob("*.md") for name in GENERATED.findall(page.read_text())}
    missing = [f"rl_det.{name}" for name in rl_det.__all__ if name != "__version__"]
    missing += [f"rl_det.ap.{name}" for name in rl_det.ap.__all__ if name != "COCO"]
    assert [name for name in missing if name not in entries] == []


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed (the extra docs)")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    start = (tmp_path / "site" / "index.html").read_text()
    assert 'href="getting_started/"' in start
    assert "fonts.googleapis" not in start
