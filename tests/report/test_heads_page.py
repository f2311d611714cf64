"""The page of a model, in the system's browser: all heads are reached, by pointer and keyboard, and told right."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxheads as jh
from jaxheads import cli
from jaxheads.report.atlas import Atlas
from jaxheads.report.heads_page import heads_page, save_page
from jaxheads.report.portrait import Portrait

HEADS = [(layer, head) for layer in range(2) for head in range(2)]


@pytest.fixture(scope="module")
def file(drawn: Portrait, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_page([drawn], tmp_path_factory.mktemp("page") / "heads.html", "jaxheads page small")


def cell(page: Any, layer: int, head: int) -> Any:
    return page.locator(f".jh-cell[data-layer='{layer}'][data-head='{head}']")


def title(page: Any) -> str:
    return page.locator(".jh-page-card h2").inner_text()


def test_every_head_is_reached_in_the_map_and_in_the_scatter(file: Path, opened: Callable[..., Any]):
    page = opened(file)
    for layer, head in HEADS:
        cell(page, layer, head).click()
        assert title(page) == f"Layer {layer} head {head}"
        assert page.evaluate("document.activeElement.textContent") == f"Layer {layer} head {head}"
    page.get_by_role("button", name="Scatter").click()
    for layer, head in HEADS:
        page.locator(f".jh-point[data-layer='{layer}'][data-head='{head}']").focus()
        page.keyboard.press("Enter")
        assert title(page) == f"Layer {layer} head {head}"
    page.get_by_label("Go to head").fill("0.1")
    page.get_by_role("button", name="Open", exact=True).click()
    assert title(page) == "Layer 0 head 1"
    page.get_by_label("Go to head").fill("9.1")
    page.get_by_role("button", name="Open", exact=True).click()
    assert "layers are 0 to 1" in page.inner_text(".jh-tools")
    assert page.evaluate("location.hash") == "#0.1"


def test_a_job_marks_its_heads_and_lists_them(file: Path, opened: Callable[..., Any]):
    page = opened(file)
    page.locator("[data-role='induction']").click()
    assert "what followed the earlier copy" in page.inner_text(".jh-about")
    faint = [cell(page, *head).evaluate("one => one.classList.contains('jh-faint')") for head in HEADS]
    assert faint == [True, True, False, True]
    [leader] = page.locator(".jh-leaders button").all()
    leader.click()
    assert title(page) == "Layer 1 head 0"
    card = page.inner_text(".jh-page-card")
    assert "An induction head." in card
    for part in ("Why it is called so", "What removing it changes", "Where it looks", "Heads that write alike"):
        assert part in card
    # Many texts and one dot each.
    assert page.locator(".jh-example").count() >= 2 * 3


def test_numbers_are_named_for_those_who_do_not_see_them(file: Path, drawn: Portrait, opened: Callable[..., Any]):
    page = opened(file)
    page.get_by_label("Colour by").select_option(label="entropy")
    label = cell(page, 1, 1).get_attribute("aria-label")
    value = drawn.tables.table.grid("entropy")[1, 1]
    found = re.fullmatch(r"layer 1 head 1: entropy ([\d.]+) \[([\d.]+), ([\d.]+)\], n (\d+).*", label or "")
    assert found, label
    assert float(found[1]) == pytest.approx(value, abs=0.06)
    assert float(found[2]) <= float(found[1]) <= float(found[3])


def test_the_pointer_and_the_keyboard_tell_the_same(file: Path, opened: Callable[..., Any]):
    page = opened(file)
    cell(page, 0, 1).hover()
    told = page.inner_text(".jh-tip")
    assert told.startswith("layer 0 head 1")
    page.mouse.move(1, 1)
    assert page.locator(".jh-tip").is_hidden()
    cell(page, 0, 0).focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".jh-tip") == told
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert title(page) == "Layer 1 head 1"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.head") == "1"


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen_and_it_is_seen_within_a_second(
    file: Path, width: int, opened: Callable[..., Any]
):
    page = opened(file, viewport={"width": width, "height": 800}, color_scheme="dark" if width == 390 else "light")
    cell(page, 1, 0).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".jh-page").get_attribute("data-theme") == ("dark" if width == 390 else "light")
    paint = page.evaluate("performance.getEntriesByType('paint').map(entry => entry.startTime)")
    assert not paint or min(paint) < 5000, "a second on an idle machine; this one may be busy"


def test_the_open_card_is_printed_on_white(file: Path, opened: Callable[..., Any]):
    page = opened(file, color_scheme="dark")
    cell(page, 1, 0).click()
    page.emulate_media(media="print")
    assert page.locator(".jh-tools").is_hidden()
    assert page.locator(".jh-page-card h2").is_visible()
    assert page.locator(".jh-page").get_attribute("data-theme") == "light"
    assert page.pdf()[:5] == b"%PDF-"


def test_a_link_opens_its_head(file: Path, opened: Callable[..., Any]):
    page = opened(file)
    page.goto(f"{file.resolve().as_uri()}#1.1")
    assert title(page) == "Layer 1 head 1"


def test_two_models_stand_side_by_side(drawn: Portrait, tmp_path: Path, opened: Callable[..., Any]):
    other = replace(drawn, model="other", title="the other one")
    page = opened(save_page([drawn, other], tmp_path / "two.html"), viewport={"width": 1280, "height": 800})
    panels = page.locator(".jh-panel")
    assert panels.count() == 2
    boxes = [panel.bounding_box() for panel in panels.all()]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    for number, panel in enumerate(panels.all()):
        panel.locator(".jh-cell[data-layer='1'][data-head='0']").click()
        assert panel.locator(".jh-page-card h2").inner_text() == "Layer 1 head 0"
        assert page.evaluate("location.hash") == ("#1.0", "#1/1.0")[number]


def test_no_text_becomes_script(drawn: Portrait, tmp_path: Path, opened: Callable[..., Any]):
    evil = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
    texts = {number: [evil, *words[1:]] for number, words in drawn.texts.items()}
    shown = [replace(exhibit, title=evil, queries=[evil, *exhibit.queries[1:]]) for exhibit in drawn.exhibits]
    odd = replace(drawn, model=evil, title=evil, texts=texts, exhibits=shown)
    assert "<script>document" not in heads_page([odd], evil)
    page = opened(save_page([odd], tmp_path / "odd.html", evil))
    for head in HEADS:
        cell(page, *head).click()
    assert page.title() != "broken"
    assert evil in page.inner_text("h1")
    with pytest.raises(ValueError, match="expected at least one"):
        heads_page([])


def test_the_command_makes_what_is_missing(
    small: jh.Model, small_atlas: Atlas, prose_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    monkeypatch.setattr("jaxheads.commands.pages.load", lambda source: small)
    monkeypatch.setattr("jaxheads.compile_cache.keep_compilations", lambda folder: None)
    monkeypatch.setattr(cli, "_atlas", lambda options: small_atlas.save(options.out))
    monkeypatch.chdir(tmp_path)
    command = ["page", "small", "--text", str(prose_file)]
    assert cli.main([*command, "--headvis", "headvis"]) == 0
    assert capsys.readouterr().out.splitlines() == ["8 files in headvis", "open atlas-small/heads.html"]
    monkeypatch.setattr(cli, "_atlas", lambda options: pytest.fail("made twice"))
    assert cli.main([*command, "--beside", "small", "--out", "two.html"]) == 0
    assert (tmp_path / "two.html").stat().st_size > (tmp_path / "atlas-small" / "heads.html").stat().st_size
    assert cli.main([*command, "--checkpoints", "nowhere"]) == 1
    assert "--checkpoints must be a folder" in capsys.readouterr().err
    assert np.isfinite(small_atlas.table.grid("entropy")).all()
