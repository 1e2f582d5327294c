"""The page of a run, read as HTML: what it says, what it may not hold, and that nothing hostile gets through."""

import base64
import io
import itertools
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from finetuning.small import write_folder
from PIL import Image
from report.page_runs import HOSTILE, as_older, as_seed, chosen, make_run, open_hostile, page_with_images

import rl_det
from rl_det import cli
from rl_det.data.splits import Splits
from rl_det.finetuning.compared import compared_seeds
from rl_det.finetuning.results import load_results
from rl_det.finetuning.run_page import page_of_folder, page_of_seeds
from rl_det.report.drawings import bars_drawing
from rl_det.report.html import Drawing, Drawings, Page, Section, Table, html
from rl_det.text import printable

VOID = {"meta", "link", "img", "wbr"}
MOST_BYTES = 3_000_000


@dataclass
class Element:
    """An element, with the text below it."""

    name: str
    attributes: dict[str, str | None]
    text: str = ""
    within: list[str] = field(default_factory=list)


class Parsed(HTMLParser):
    """All elements of a page, in order; each must be closed where HTML asks for it."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        element = Element(tag, dict(attrs), within=[one.name for one in self.open])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, name: str) -> list[Element]:
        return [element for element in self.elements if element.name == name]

    @property
    def text(self) -> str:
        return self.all("body")[0].text


def rows(page: str, table: int = 0) -> list[list[str]]:
    """The cells of one table of the page."""
    own = page.split("<table>")[1:][table].split("</table>")[0]
    parts = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in own.split("<tr")[1:])
    return [
        [re.sub(r"<span.*?</span>|</?bdi>|<wbr>", "", cell, flags=re.DOTALL).strip() for cell in row] for row in parts
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return open_hostile(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, data: Splits) -> Path:
    """A run's folder as the run leaves it."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", data)


@pytest.fixture(scope="module")
def page(written: Path, data: Splits) -> str:
    """The page of a run whose best row is PPO's."""
    assert (written / "report.html").exists()
    return page_with_images(chosen(written, "ppo"), data)


def test_the_run_writes_the_page_that_its_folder_gives_again_but_for_the_images(written: Path, data: Splits) -> None:
    results = load_results(written)
    first, again = Parsed((written / "report.html").read_text()), Parsed(page_of_folder(results))
    assert len(first.all("table")) == len(again.all("table")) > 3
    assert not again.all("img")
    assert "this page is made from the folder, without the data" in again.text


def test_every_row_is_in_the_table_with_the_numbers_of_the_results(page: str, written: Path) -> None:
    told: dict[str, Any] = json.loads((written / "results.json").read_text())
    header, *cells = rows(page)
    assert [row[0] for row in cells] == list(told["methods"])
    for name, *own in cells:
        by_column = dict(zip(header[1:], own, strict=True))
        figures, intervals = told["methods"][name], told["intervals"][name]
        ap, over = ([f"{100 * intervals[what][part]:{sign}.2f}" for part in ("value", "low", "high")]
                    for what, sign in (("AP", ""), ("over_control", "+")))  # fmt: skip
        assert by_column["AP"] == f"{ap[0]} ({ap[1]} to {ap[2]})"
        assert by_column["AP over control"] == f"{over[0]} ({over[1]} to {over[2]})"
        assert by_column["AP50"] == f"{100 * figures['AP50']:.2f}"
        assert by_column["validation AP"] == f"{100 * told['validation_AP'][name]:.2f}"
    marked = [element for element in Parsed(page).all("tr") if element.attributes.get("class") == "marked"]
    assert len(marked) == 1
    assert marked[0].text.startswith("ppo")
    assert "best on validation" in marked[0].text


def test_it_has_every_section_with_a_heading_and_a_sentence(page: str) -> None:
    parsed = Parsed(page)
    names = [heading.attributes["id"] for heading in parsed.all("h2")]
    assert names == ["table", "curves", "gain", "recall", "calibration", "images", "changes", "configuration"]
    assert [link.attributes["href"] for link in parsed.all("a")] == ["#content", *(f"#{name}" for name in names)]
    leads = [element for element in parsed.all("p") if element.attributes.get("class") == "lead"]
    assert len(leads) == 1 + len(names)
    for kind in ("localisation", "classification", "both", "duplicate", "background", "missed", "false positives"):
        assert kind in parsed.text
    for change in ("raised", "lowered", "gone", "new"):
        assert any(change == element.text for element in parsed.all("th"))


def test_it_is_made_for_screen_readers(page: str) -> None:
    parsed = Parsed(page)
    assert parsed.all("html")[0].attributes["lang"] == "en"
    headings = [element for element in parsed.elements if re.fullmatch(r"h[1-6]", element.name)]
    levels = [int(element.name[1]) for element in headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(element.text.strip() for element in headings)
    ids = [element.attributes["id"] for element in parsed.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for image in parsed.all("img"):
        assert re.search(r"\d+ right, \d+ wrong, \d+ missed", image.attributes["alt"] or "")
        assert "figure" in image.within
    for svg in parsed.all("svg"):
        assert svg.attributes.get("aria-hidden") == "true" or (
            svg.attributes["role"] == "img" and len(svg.attributes["aria-label"] or "") > 10
        )
    assert len(parsed.all("figcaption")) == len(parsed.all("figure")) > 5
    assert len(parsed.all("caption")) == len(parsed.all("table")) > 5
    assert all(element.attributes.get("scope") in ("row", "col") for element in parsed.all("th"))
    boxes = [element for element in parsed.all("div") if element.attributes.get("class") == "scroll"]
    assert len(boxes) == len(parsed.all("table"))
    assert all(box.attributes["tabindex"] == "0" and box.attributes["role"] == "region" for box in boxes)


def test_the_images_are_pictures_before_and_after(page: str) -> None:
    images = Parsed(page).all("img")
    assert 2 <= len(images) <= 12
    assert len(images) % 2 == 0
    for place, image in enumerate(images):
        head, coded = (image.attributes["src"] or "").split(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(coded))) as picture:
            assert picture.size == (int(image.attributes["width"] or 0), int(image.attributes["height"] or 0))
            assert max(picture.size) == 512  # scenes of 128 pixels, four times as large
        assert (image.attributes["alt"] or "").startswith(("Before, warm_start", "After, ppo")[place % 2])


def test_hostile_names_are_shown_as_text(page: str) -> None:
    parsed = Parsed(page)
    assert not parsed.all("script")
    assert not parsed.all("b")
    assert not any(name.startswith("on") for element in parsed.elements for name in element.attributes)
    for name in map(printable, HOSTILE.values()):
        assert any(element.text == name for element in parsed.all("th"))
        assert any(name in element.text for element in parsed.all("figcaption"))
    assert "data <b>" in parsed.all("h1")[0].text


def test_only_line_breaks_of_the_page_itself_are_left_and_no_control(page: str) -> None:
    assert {sign for sign in page if not sign.isprintable()} == {"\n"}
    folded = [element.text for element in Parsed(page).all("pre")]
    assert any(text.startswith("{\n  ") for text in folded), "JSON keeps its lines"


def test_names_of_any_script_leave_their_neighbours_in_place(page: str) -> None:
    names = [element.text for element in Parsed(page).all("bdi") if {"th", "figcaption"} & {*element.within}]
    assert {"ppo", *map(printable, HOSTILE.values())} <= {*names}


def test_a_right_to_left_name_within_a_sentence_or_a_label_stands_between_isolating_signs(tmp_path: Path) -> None:
    cat, dog, row, folder = "\u0642\u0637\u0629", "\u05db\u05dc\u05d1", "\u0645\u062f\u0631\u0628", "\u0635\u0648\u0631"
    data = rl_det.open_data(write_folder(tmp_path / folder, categories={1: cat, 2: dog}))
    run = chosen(make_run(tmp_path / "run", data, name=row), row)
    compared = compared_seeds([run, as_seed(run, tmp_path / "other", 1)], num_draws=3)
    endings = {"endings": ["collapse", "budget"]}
    compared["methods"] = {name: {**own, **endings} for name, own in compared["methods"].items()}
    of_run, of_seeds = page_with_images(run, data), page_of_seeds(compared, [run, tmp_path / "other"])
    for page, names in ((of_run, (cat, dog, row, folder)), (of_seeds, (row, folder))):
        sentences = re.sub(r"<(bdi|pre|style|text)[ >].*?</\1>", "", page, flags=re.DOTALL)
        for name in names:
            assert sentences.count(f"\u2068{name}\u2069") == sentences.count(name) > 0, name
        labels = "".join(value or "" for one in Parsed(page).elements for value in one.attributes.values())
        assert all(f"\u2068{name}\u2069" in labels for name in names if name != folder)


def test_nothing_is_fetched(page: str) -> None:
    parsed = Parsed(page)
    for element in parsed.elements:
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset", "data"):
            assert (element.attributes.get(name) or "#").startswith(("#", "data:"))
        assert not {"xmlns", "srcset"} & element.attributes.keys()
    assert parsed.all("script") == parsed.all("iframe") == parsed.all("object") == []
    for style in (*(element.text for element in parsed.all("style")), *re.findall(r'style="([^"]*)"', page)):
        assert "@import" not in style
        assert set(re.findall(r"url\((.)", style)) <= {"#"}
    assert len(page.encode()) < MOST_BYTES


def test_the_command_and_the_configuration_are_there(page: str, written: Path) -> None:
    parsed, config = Parsed(page), json.loads((written / "config.json").read_text())
    codes = [element.text for element in parsed.all("pre")]
    assert codes[0] == config["circumstances"]["command"]
    assert json.loads(codes[1]) == config["run"]
    assert "--resume" in parsed.text


def test_a_best_row_that_is_the_start_has_nothing_to_compare_but_the_control(written: Path, data: Splits) -> None:
    of_start = Parsed(page_with_images(chosen(written, "warm_start"), data))
    chosen(written, "ppo")
    assert [heading.attributes["id"] for heading in of_start.all("h2")] == ["table", "curves", "gain", "configuration"]
    assert "continued_supervised against warm_start" in of_start.text


def test_a_run_without_baselines_says_that_there_is_nothing_to_compare(tmp_path: Path, data: Splits) -> None:
    parsed = Parsed((make_run(tmp_path / "run", data, baselines=False) / "report.html").read_text())
    assert [heading.attributes["id"] for heading in parsed.all("h2")] == ["table", "curves", "gain", "configuration"]
    assert "The best row, ppo, has no row to be compared with" in parsed.text


def test_a_run_of_an_older_version_has_no_sections_of_detections(tmp_path: Path, written: Path) -> None:
    for file in ("config.json", "metrics.jsonl"):
        (tmp_path / file).write_bytes((written / file).read_bytes())
    told = json.loads((written / "results.json").read_bytes())
    (tmp_path / "results.json").write_text(json.dumps(as_older(told)))
    parsed = Parsed(page_of_folder(load_results(tmp_path)))
    assert [heading.attributes["id"] for heading in parsed.all("h2")] == ["table", "curves", "gain", "configuration"]
    assert "This run is of an older version" in parsed.text


def test_several_seeds_have_a_page_of_their_own(
    tmp_path: Path, written: Path, data: Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run(tmp_path / "other", data, seed=1)
    compared = compared_seeds([written, other], num_draws=3)
    page = page_of_seeds(compared, [written, other])
    parsed = Parsed(page)
    assert [heading.attributes["id"] for heading in parsed.all("h2")] == ["table", "gains", "curves", "configuration"]
    header, *cells = rows(page)
    assert [row[0] for row in cells] == list(compared["methods"])
    for name, *own in cells:
        value, low, high = (f"{100 * compared['methods'][name]['AP'][part]:.2f}" for part in ("value", "low", "high"))
        assert dict(zip(header[1:], own, strict=True))["AP"] == f"{value} ({low} to {high})"
    assert "seed 0" in parsed.text
    assert "seed 1" in parsed.text
    folders, shared = (element.text for element in parsed.all("pre"))
    assert folders.splitlines() == [str(written), str(other)]
    assert json.loads(shared)["seeds"] == [0, 1]
    file = tmp_path / "both.html"
    cli.main(["report", str(written), str(other), "--html", str(file)])
    assert f"the page is {file}" in capsys.readouterr().out
    assert [element.text for element in Parsed(file.read_text()).all("h2")] == [one.text for one in parsed.all("h2")]
    cli.main(["report", str(written), "--html", str(file)])
    assert "Where the gain comes from" in Parsed(file.read_text()).text


def test_texts_of_any_part_are_escaped() -> None:
    evil = "</style><script>alert('x')</script>"
    drawing = Drawing(svg=bars_drawing([evil], [1.0], [2.0], x_label=evil), label=evil, caption=evil)
    table = Table(caption=evil, header=[evil], rows=[[evil]], marks={evil: evil})
    section = Section(name="one", title=evil, lead=evil, blocks=[table, Drawings(drawings=[drawing])])
    parsed = Parsed(html(Page(title=evil, lead=evil, sections=[section])))
    assert not parsed.all("script")
    assert all(element.text == evil for element in parsed.all("text")[-2:])
    assert len(parsed.all("style")) == 1
