"""How the board looks: light and dark, small and large, on a wall; and pictures of it all in tests/browser/shots."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Opener

NANJING = "nanjing/cells/32140-1"

# What lies outside of its card when all figures are as wide as they get.
CLIPPED = """() => [...document.querySelectorAll('article.line')].flatMap((card) => {
    const widest = {
        good: '108,888', target: '100,000', attainment: '108.88 %', pace: '88,888 behind pace', projected: '108,888',
        projected_gap: '88,888 short',
        scrap: '18,888', wip: '188,888', fresh: '08:08:08, 88 min ago', completeness: '98.88 %',
    };
    card.classList.add('wide');
    for (const [name, text] of Object.entries(widest)) card.querySelector(`[data-field=${name}]`).textContent = text;
    const edge = card.getBoundingClientRect();
    const outside = (box) => box.left < edge.left || box.right > edge.right || box.top < edge.top || box.bottom > edge.bottom;
    const parts = '.head > *, .big, .of > *, .bar, .course > *, .tiles > *, .chart, .bottleneck > *, .route li, .defects li';
    const texts = '.big, .of strong, .course strong, .course small, .tiles dd, .fresh span';  // what nowhere ends in dots
    const words = document.createRange();
    return [
        ...[...card.querySelectorAll(parts)].filter((e) => e.getClientRects().length && outside(e.getBoundingClientRect())),
        ...[...card.querySelectorAll(texts)].filter((e) => {
            words.selectNodeContents(e);
            return e.getClientRects().length && outside(words.getBoundingClientRect());
        }),
    ].map((e) => e.className || e.tagName);
})"""
# Sizes of type, the smallest first.
SIZES = """(what) => [...document.querySelectorAll(what)].map((e) => parseFloat(getComputedStyle(e).fontSize)).sort((a, b) => a - b)"""

PAIRS = [
    ("ink", "card", 7.0), ("ink", "paper", 7.0), ("muted", "card", 4.5), ("muted", "paper", 4.5), ("warn-ink", "warn-paper", 4.5),
    ("aim", "card", 4.5), ("well", "card", 4.5), ("made", "card", 3.0), ("made", "faint", 3.0), ("ink", "well-paper", 7.0),
    ("warn-ink", "card", 4.5), ("ink", "open-paper", 7.0),
    ("ink", "miss-paper", 7.0), ("aim", "miss-paper", 3.0), ("muted", "miss-paper", 4.5),
    ("focus", "card", 3.0), ("focus", "paper", 3.0), ("aim", "warn-paper", 3.0),
]  # fmt: skip


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(open_page: Opener, scheme: str) -> None:
    """WCAG: 4.5 for text, 3 for what is large or no text."""
    page = open_page(scheme=scheme)
    names = sorted({name for pair in PAIRS for name in pair[:2]})
    found = page.evaluate("names => names.map((n) => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())", names)
    colours = dict(zip(names, found, strict=True))
    for one, other, least in PAIRS:
        light, dark = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least, f"{one} on {other}"


def test_dark_is_dark_and_changes_while_one_looks(open_page: Opener) -> None:
    page = open_page(scheme="light")
    page.locator(".hours canvas").first.wait_for()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.evaluate("document.querySelectorAll('.hours canvas').forEach((e) => e.classList.add('before'))")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) != light
    expect(page.locator(".hours canvas.before")).to_have_count(0)  # drawn anew, not only over
    expect(page.locator(".hours canvas")).to_have_count(2)


def test_nothing_moves_for_who_does_not_want_it(open_page: Opener) -> None:
    page = open_page(reduced_motion="reduce")
    page.locator(".done").first.wait_for()
    assert page.evaluate("[...document.querySelectorAll('*')].every((e) => getComputedStyle(e).transitionDuration === '0s')")


@pytest.mark.parametrize("address", ["/", f"/line/{NANJING}", f"/line/{NANJING}/station/wnd", "/nothing"])
def test_no_page_is_wider_than_its_window(open_page: Opener, address: str) -> None:
    found = address != "/nothing"
    page = open_page(address, live=found, unchecked=not found)
    page.locator("article, h1").first.wait_for()
    for width in (320, 390, 768, 1024, 1440, 2560):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.querySelectorAll('dialog')].every((e) => e.scrollWidth <= e.clientWidth)"), width


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1280, 720), (3840, 2160)])
def test_the_wall_shows_both_lines_without_scrolling(open_page: Opener, width: int, height: int) -> None:
    page = open_page("/?wall", width, height)
    page.locator(".route li").first.wait_for()
    assert page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [width, height]
    assert page.evaluate(CLIPPED) == []
    assert page.evaluate(SIZES, ".big")[0] >= height * 0.13, "a figure that is read from five metres"
    assert len(page.evaluate(SIZES, ".big")) == 2
    assert page.evaluate(SIZES, ".tiles dd, .pace strong, .end strong")[0] >= height * 0.03


def test_the_wall_keeps_to_the_wall(open_page: Opener) -> None:
    page = open_page("/?wall", 1920, 1080)
    page.get_by_role("link", name="32140 tab-less LFP line").click()
    expect(page.locator("article.line")).to_have_count(1)
    assert page.evaluate("location.search") == "?wall"
    page.go_back()
    page.locator("#wall").focus()
    page.keyboard.press("Enter")
    expect(page.locator("html[data-wall]")).to_have_count(0)
    assert page.evaluate("location.pathname + location.search") == "/"
