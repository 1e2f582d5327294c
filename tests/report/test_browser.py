"""The page of a run in a real browser: a headless Chromium that the machine has; nothing is downloaded."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report.page_runs import chosen, make_run, open_hostile, page_with_images

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is in the dev extra")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"needs a Chromium on the machine: {' or '.join(NAMES)}")
NARROW, WIDE = {"width": 360, "height": 740}, {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with images and all sections."""
    folder = tmp_path_factory.mktemp("page")
    data = open_hostile(folder)
    page = folder / "report.html"
    page.write_text(page_with_images(chosen(make_run(folder / "run", data), "ppo"), data))
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM)
        yield launched
        launched.close()


def opened(browser: Any, file: Path, *, scheme: str = "light", size: dict[str, int] = WIDE) -> tuple[Any, list[str]]:
    """The page, offline, and what went wrong while it loaded."""
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
    tab, wrong = context.new_page(), []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("requestfailed", lambda request: wrong.append(request.url))
    tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    tab.goto(file.as_uri())
    return tab, wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_it_opens_without_a_fault_and_the_page_does_not_scroll_sideways(
    browser: Any, file: Path, scheme: str, size: dict[str, int]
) -> None:
    tab, wrong = opened(browser, file, scheme=scheme, size=size)
    for folded in tab.locator("summary").all():
        folded.click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert not wrong


def test_all_pictures_and_tables_are_there(browser: Any, file: Path) -> None:
    tab, _ = opened(browser, file)
    images = tab.evaluate("[...document.images].map(image => [image.complete, image.naturalWidth, image.clientWidth])")
    assert len(images) >= 2
    assert all(complete and natural > 100 and shown > 100 for complete, natural, shown in images)
    drawings = tab.evaluate(
        "[...document.querySelectorAll('svg[role=img]')].map(one => one.getBoundingClientRect().height)"
    )
    assert len(drawings) > 5
    assert all(height > 50 for height in drawings)
    tables = tab.locator("table")
    assert tables.count() > 5
    assert tables.first.is_visible()
    assert tables.first.locator("tbody tr").count() == 3


def test_a_wide_table_scrolls_in_its_own_box(browser: Any, file: Path) -> None:
    tab, _ = opened(browser, file, size=NARROW)
    box = tab.locator(".scroll").first
    inner, outer = box.evaluate("box => [box.scrollWidth, box.clientWidth]")
    assert inner > outer
    assert outer <= NARROW["width"]
    box.focus()
    assert box.evaluate("box => document.activeElement === box")


def test_tab_reaches_the_skip_link_first_and_it_leads_to_the_content(browser: Any, file: Path) -> None:
    tab, _ = opened(browser, file)
    tab.keyboard.press("Tab")
    focused = tab.locator(":focus")
    assert focused.inner_text() == "Skip to the content"
    assert focused.bounding_box()["x"] >= 0
    assert focused.evaluate("link => getComputedStyle(link).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    assert tab.evaluate("location.hash") == "#content"
    tab.keyboard.press("Tab")
    assert tab.locator(":focus").get_attribute("class") == "scroll"


CONTRAST = """() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const own = getComputedStyle(e).backgroundColor;
      if (!own.startsWith('rgba(0, 0, 0, 0')) return own;
    }
  };
  const texts = 'p, a, li, td, th, caption span, figcaption, h1, h2, h3, h4, pre, summary, .mark';
  return [...document.querySelectorAll(texts)].map(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.tagName];
  });
}"""
"""The contrast of each text with what lies behind it (WCAG 2.2, relative luminance)."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast_and_drawings_take_their_colour(browser: Any, file: Path, scheme: str) -> None:
    tab, _ = opened(browser, file, scheme=scheme)
    measured = tab.evaluate(CONTRAST)
    assert len(measured) > 100
    assert min(measured)[0] >= 4.5, min(measured)
    ink = tab.evaluate("getComputedStyle(document.body).color")
    assert tab.locator("svg[role=img] text").first.evaluate("text => getComputedStyle(text).fill") == ink
