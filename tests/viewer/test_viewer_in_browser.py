"""The viewer in a real browser without a network: what it shows at a moment, and what keys, buttons and links do."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import BROWSER, Browser, Page
from viewed import DRIFT, NUM_CONTEXT, NUM_FRAMES, columns_of, viewed
from waiting import wait_until

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS
from wm.report.page import write_page
from wm.viewer.page import render_viewer

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the PATH")
PHONE = (390, 844)
NUM_DREAMS = 3
WORDS = {"title": "Dreams", "subtitle": "a test", "about": "about"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def path(index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three dreams."""
    dreams = [viewed(index, game, 400 + 100 * game, f"hit, {game}") for game in range(NUM_DREAMS)]
    page = render_viewer(dreams, **WORDS)
    return write_page(tmp_path_factory.mktemp("viewer") / "dreams.html", page)


def state(page: Page) -> dict[str, Any]:
    """What the page says that it shows."""
    return page.evaluate("({...document.documentElement.dataset, hash: location.hash})")


def text(page: Page, selector: str) -> str:
    return page.evaluate(f"document.querySelector({selector!r}).textContent")


def test_a_page_without_a_moment_plays_and_says_nothing(browser, path):
    page = browser.open(path)
    assert state(page)["playing"] == "true"
    first = state(page)["frame"]
    wait_until(lambda: state(page)["frame"] != first, "another frame")
    assert page.messages == []


@pytest.mark.parametrize("frame", [-60, 0, 1, 59, NUM_FRAMES - 1])
def test_a_link_opens_its_moment_paused(browser, path, frame):
    page = browser.open(path, f"#dream=2&frame={frame}&speed=0.25&mode=ghost&view=stage")
    found = state(page)
    assert found["playing"] == "false"
    assert (found["dream"], found["frame"], found["speed"]) == ("2", str(frame), "0.25")
    assert (found["mode"], found["view"]) == ("ghost", "stage")
    assert found["hash"] == f"#dream=2&frame={frame}&speed=0.25&mode=ghost&view=stage"
    if frame < 0:
        assert text(page, "#error") == "\u2013"
    else:
        assert float(text(page, "#error")) == pytest.approx(DRIFT / 2 * (frame + 1), abs=0.01)
    assert page.messages == []


@pytest.mark.parametrize("link", ["#dream=99&frame=1e9", "#frame=x&speed=7&mode=no", "#%E0%A4%A", "#dream=-1"])
def test_a_broken_link_opens_the_page(browser, path, link):
    page = browser.open(path, link)
    assert state(page)["dream"] == "1"
    assert page.messages == []


def test_numbers_beside_the_figures_are_those_of_the_frame(browser, path, index):
    dream = viewed(index, 0, 400)
    for frame in (5, 100):
        page = browser.open(path, f"#dream=1&frame={frame}&mode=both")
        for player in (0, 1):
            row = f"#card-{player} tr[data-row=truth]"
            percent = float(dream.truth.float_column("percent")[0, NUM_CONTEXT + frame, player])
            assert float(text(page, f"{row} [data-cell=percent]").rstrip("%")) == pytest.approx(percent, abs=0.06)
            stocks = int(dream.truth.code_column("stocks")[0, NUM_CONTEXT + frame, player])
            assert text(page, f"{row} [data-cell=stocks]") == str(stocks)
            action = int(dream.truth.code_column("action")[0, NUM_CONTEXT + frame, player])
            cell = f"#card-{player} tr[data-row=dream] [data-cell=action]"
            if frame >= NUM_FRAMES // 2:
                assert text(page, cell) == "Wait"
                differs = page.evaluate(f"document.querySelector('{cell}').classList.contains('differs')")
                assert differs == (action != 14)


def test_what_a_game_does_not_record_is_not_drawn_as_zero(browser, index, tmp_path):
    whole = viewed(index, 0, 400)
    facts = whole.truth.game.clone()
    facts[:, [GAME_COLUMNS.index("has_velocity"), GAME_COLUMNS.index("has_state_flags")]] = 0
    without = replace(whole, truth=replace(whole.truth, game=facts), label="without")
    silent = replace(whole, imagines_hitstun=False, label="silent")
    page = browser.open(
        write_page(tmp_path / "page.html", render_viewer([whole, without, silent], **WORDS)), "#frame=9"
    )

    def fighter(number: int, which: str, frame: int) -> dict[str, Any]:
        page.evaluate(f"viewer.show({number})")
        drawn = f"viewer.dream.fighter('{which}', {NUM_CONTEXT + frame}, 0)"
        return page.evaluate(f"({{...{drawn}, isKnown: !Number.isNaN({drawn}.hitstun)}})")

    assert [fighter(number, "truth", 9)["isKnown"] for number in range(3)] == [True, False, True]
    assert [fighter(number, "dream", 9)["isKnown"] for number in range(3)] == [True, False, False]
    assert fighter(2, "dream", -1)["isKnown"]
    x, y = (columns_of(whole.truth, name)[NUM_CONTEXT + 8 : NUM_CONTEXT + 10, 0] for name in ("x", "y"))
    found = fighter(1, "truth", 9)
    assert (found["velocityX"], found["velocityY"]) == pytest.approx((x[1] - x[0], y[1] - y[0]), abs=1e-4)
    assert fighter(1, "dream", 9)["velocityX"] == pytest.approx(x[1] - x[0] + DRIFT, abs=1e-4)
    assert page.messages == []


def test_of_a_player_who_died_long_before_neither_the_death_nor_its_frames_are_shown(browser, index, tmp_path):
    whole = viewed(index, 0, 400)
    codes, floats = whole.truth.codes.clone(), whole.truth.floats.clone()
    codes[:, :, 0, CODE_COLUMNS.index("action")] = 0
    floats[:, :, 0, FLOAT_COLUMNS.index("state_age")] = -1.0
    dead = replace(whole, truth=replace(whole.truth, codes=codes, floats=floats))
    page = browser.open(write_page(tmp_path / "page.html", render_viewer([dead], **WORDS)), "#frame=-60&mode=truth")
    assert text(page, "#card-0 tr[data-row=truth] [data-cell=action]") == "DeadDown"
    assert text(page, "#card-0 tr[data-row=truth] [data-cell=age]") == "\u2013"
    assert text(page, "#card-1 tr[data-row=truth] [data-cell=age]").isdecimal()
    assert page.messages == []


def test_keys_step_change_the_speed_and_the_mode(browser, path):
    page = browser.open(path, "#dream=1&frame=10&mode=both")
    for key, shift, frame in (
        ("ArrowRight", False, 11), ("ArrowRight", True, 21), ("ArrowLeft", False, 20), ("Home", False, 0),
        ("ArrowLeft", True, -10), ("End", False, NUM_FRAMES - 1), ("ArrowRight", False, NUM_FRAMES - 1),
    ):  # fmt: skip
        if key in ("Home", "End"):
            page.evaluate("document.getElementById('slider').focus()")
        page.key(key, shift=shift)
        assert state(page)["frame"] == str(frame)
        assert f"frame={frame}&" in state(page)["hash"]
    for key, speed in (("-", "0.5"), ("-", "0.25"), ("-", "0.125"), ("-", "0.125"), ("+", "0.25"), ("=", "0.5")):
        page.key(key)
        assert state(page)["speed"] == speed
    for mode in ("ghost", "truth", "dream", "both"):
        page.key("m")
        assert state(page)["mode"] == mode
    page.key("n")
    assert state(page)["dream"] == "2"
    page.key("c")
    assert state(page)["view"] == "stage"
    page.key("t")
    assert state(page)["theme"] == "light"
    page.key(" ")
    assert state(page)["playing"] == "true"
    page.key(" ")
    assert state(page)["playing"] == "false"
    assert page.messages == []


def test_the_keys_that_scroll_a_page_move_the_time_line_only_where_it_has_the_focus(browser, path):
    page = browser.open(path, "#dream=1&frame=10&mode=both", size=(1280, 500))
    for key in ("ArrowDown", "End", "ArrowUp", "Home"):
        page.key(key)
        assert state(page)["frame"] == "10"
    page.evaluate("document.getElementById('slider').focus()")
    for key, frame in (("ArrowUp", 11), ("ArrowDown", 10), ("End", NUM_FRAMES - 1), ("Home", 0)):
        page.key(key)
        assert state(page)["frame"] == str(frame)
    slider = "document.getElementById('slider').getAttribute"
    values = [page.evaluate(f"{slider}('aria-value{name}')") for name in ("min", "now", "max")]
    assert values == [str(-NUM_CONTEXT), "0", str(NUM_FRAMES - 1)]


def test_the_space_bar_plays_after_a_click_on_a_button(browser, path):
    page = browser.open(path, "#dream=1&frame=10&mode=both")
    box = page.evaluate("document.querySelector('[data-mode-button=ghost]').getBoundingClientRect().toJSON()")
    page.click(box["left"] + 10, box["top"] + 10)
    assert (state(page)["mode"], state(page)["playing"]) == ("ghost", "false")
    page.key(" ")
    assert (state(page)["mode"], state(page)["playing"]) == ("ghost", "true")


def test_the_time_line_names_the_action_that_the_pointer_is_on(browser, path, index):
    page = browser.open(path, f"#dream=1&frame={NUM_FRAMES - 1}&mode=both")
    box = page.evaluate("document.getElementById('slider').getBoundingClientRect().toJSON()")
    assert box["height"] == page.evaluate("document.getElementById('timeline').height / devicePixelRatio")
    words = []
    for y in range(int(box["height"])):
        event = f"new PointerEvent('pointermove', {{clientX: {box['right'] - 12}, clientY: {box['top'] + y}}})"
        page.evaluate(f"void document.getElementById('slider').dispatchEvent({event})")
        words.append(text(page, "#tip"))
    rows = [said.split("(")[1].rstrip(")") for said in words if "(" in said]
    assert list(dict.fromkeys(rows)) == ["P1, truth", "P1, dream", "P2, truth", "P2, dream"]
    assert all(rows.count(row) >= 10 for row in set(rows))
    assert all("Wait" in said for said in words if "dream" in said)


def test_buttons_do_what_keys_do(browser, path):
    page = browser.open(path, "#dream=1&frame=10&mode=both")

    def press(selector: str) -> dict[str, Any]:
        page.evaluate(f"document.querySelector({selector!r}).click()")
        return state(page)

    assert press("#forward")["frame"] == "11"
    assert press("#back")["frame"] == "10"
    assert press("#first")["frame"] == "0"
    assert press("[data-mode-button=ghost]")["mode"] == "ghost"
    assert press('[data-speed="2"]')["speed"] == "2"
    assert press("#view")["view"] == "stage"
    assert press("#dreams button:nth-child(3)")["dream"] == "3"
    assert press("#play")["playing"] == "true"
    assert page.messages == []


@pytest.mark.parametrize(("speed", "frames"), [("0.125", 3.75), ("0.5", 15), ("1", 30), ("2", 60)])
def test_half_a_second_is_as_many_frames_as_the_speed_says(browser, path, speed, frames):
    page = browser.open(path, f"#dream=1&frame=0&speed={speed}&mode=truth")
    moved = page.evaluate(
        "(() => { window.requestAnimationFrame = () => 0; const { playback } = viewer; viewer.tick(1000);"
        "playback.playing = true; const from = playback.position;"
        "for (let i = 1; i <= 30; i++) viewer.tick(1000 + i * 1000 / 60); playback.playing = false;"
        "return playback.position - from; })()"
    )
    assert moved == pytest.approx(frames)


def test_the_time_line_is_sought_with_the_pointer(browser, path):
    page = browser.open(path, "#dream=1&frame=0&mode=both")
    box = page.evaluate("document.getElementById('slider').getBoundingClientRect().toJSON()")
    page.click(box["right"] - 14, box["top"] + 40)
    assert int(state(page)["frame"]) >= NUM_FRAMES - 3
    page.click(box["left"] + 48, box["top"] + 40)
    assert int(state(page)["frame"]) <= -NUM_CONTEXT + 2


@pytest.mark.parametrize("mode", ["both", "ghost", "truth", "dream"])
def test_the_canvases_show_something_that_changes_with_the_frame(browser, path, mode):
    page = browser.open(path, f"#dream=1&frame=0&mode={mode}")
    numbers = (0, 1) if mode == "both" else (0,)

    def pixels() -> list[str]:
        return [page.evaluate(f"document.getElementById('panel-{number}').toDataURL()") for number in numbers]

    before = pixels()
    for _ in range(6):
        page.key("ArrowRight", shift=True)
    assert all(len(image) > 5_000 for image in before)
    assert all(a != b for a, b in zip(before, pixels(), strict=True))
    assert page.messages == []


@pytest.mark.parametrize("mode", ["both", "ghost"])
def test_a_phone_in_portrait_shows_everything_without_scrolling_sideways(browser, path, mode):
    page = browser.open(path, f"#dream=1&frame=10&mode={mode}", size=PHONE, scale=2, phone=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    outside = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
        " && e.id !== 'tip').map(e => e.tagName + '#' + e.id)"
    )
    assert outside == []
    assert page.evaluate("document.getElementById('panel-0').getBoundingClientRect().bottom") < PHONE[1]
    assert page.messages == []


def test_a_phone_begins_with_the_ghost(browser, path):
    assert state(browser.open(path, size=PHONE, phone=True))["mode"] == "ghost"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_colors_follow_the_system(browser, path, theme):
    page = browser.open(path, "#dream=1&frame=0", theme=theme)
    assert state(page)["theme"] == theme
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    channels = [int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (sum(channels) > 600) == (theme == "light")


def test_a_screenshot_has_the_size_of_the_window(browser, path):
    image = browser.open(path, "#dream=1&frame=10", size=(800, 600)).screenshot()
    assert struct.unpack(">II", image[16:24]) == (800, 600)
