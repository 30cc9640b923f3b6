"""The pieces of a report."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.lab.helpers import check

from diptych.lab.report import (
    Bar,
    Line,
    Shown,
    bars,
    curve,
    figures,
    finds,
    lines,
    page,
    section,
    strip,
    table,
    ticks,
)

NASTY = "<script>alert('&\"')</script>"


def test_a_page_of_every_piece_is_well_formed_and_fetches_nothing():
    red = Image.new("RGBA", (300, 200), (255, 0, 0, 128))
    html = page(
        NASTY,
        NASTY,
        figures(("12", NASTY)),
        section(
            NASTY,
            NASTY,
            bars([(NASTY, [Bar(label=NASTY, value=0.5, chance=0.1, lookup=0.6, target=0.4)])]),
            curve([(0, 3), (1, 2), (2, 1)], x=NASTY, y=NASTY),
            lines(
                [Line(name=NASTY, points=[(1, 0.5, 0.4, 0.6), (10, 0.6, 0.6, 0.6)])],
                x=NASTY,
                y=NASTY,
            ),
            finds(
                [
                    (NASTY, [Shown(image=red, caption=NASTY, hit=True)]),
                    (Shown(image=red, caption=NASTY), []),
                ]
            ),
            strip([Shown(image=red)]),
            table([NASTY], [[NASTY]]),
        ),
    )
    checker = check(html)
    assert "<script>" not in html
    assert checker.text.count(NASTY) >= 11
    assert checker.addresses
    assert all(address.startswith("data:image/webp;base64,") for address in checker.addresses)
    assert "url(" not in html
    assert "@import" not in html


@pytest.mark.parametrize(
    ("value", "lookup", "target", "words"),
    [(0.5, 0.4, 0.45, ["met"]), (0.5, 0.6, 0.55, ["missed", "— better"]), (0.5, None, None, ["–"])],
)
def test_bars_say_missed_and_where_the_look_up_is_better(value, lookup, target, words):
    text = check(
        bars([("g", [Bar(label="a", value=value, chance=0.01, lookup=lookup, target=target)])])
    ).text
    for word in words:
        assert word in text
    assert ("met" in text) == ("met" in words)


def test_a_curve_skips_what_is_not_finite_and_needs_two_points():
    assert "polyline" in curve([(0, 1), (1, float("nan")), (2, 0.5)], x="x", y="y")
    assert "nan" not in curve([(0, 1), (1, float("nan")), (2, 0.5)], x="x", y="y")
    assert "too few" in curve([(0, 1)], x="x", y="y")
    assert "polyline" in curve([(0, 1), (1, 1)], x="x", y="y")


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_are_few_evenly_spaced_and_inside(low, span):
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 8
    assert all(low - span / 100 <= tick <= low + span * 1.01 for tick in found)


def test_thumbnails_are_small_and_leave_the_image_alone():
    big = Image.effect_noise((1000, 800), 50)
    assert len(strip([Shown(image=big)])) < 20_000
    assert big.size == (1000, 800)


def test_lines_show_every_point_and_the_intervals_that_there_are():
    many = [
        Line(name=f"m{i}", points=[(10**x, i + x, i + x - 1, i + x + 1) for x in range(4)])
        for i in range(8)
    ]
    html = lines(many, x="samples", y="recall")
    assert html.count("<polyline") == 8 + len(ticks(-1.84, 11.84))  # and a line for each tick of y
    assert html.count("stroke-opacity") == 8 * 4
    assert (
        html.count("translate(") == 8 * 4 + 8 + 1
    )  # a mark for each point, one in the key, the turned name of y
    text = check(html).text
    assert all(f"m{i}" in text for i in range(8))
    assert "1k" in text
    single = lines([Line(name="one", points=[(5, 0.5, 0.5, 0.5)])], x="x", y="y")
    assert single.count("stroke-opacity") == 0
    assert "nan" not in single
    assert "nothing to draw" in lines([], x="x", y="y")


def test_near_values_of_x_share_a_number_and_their_marks_stay_inside():
    near = [
        Line(name=n, points=[(x, 0.1, 0.1, 0.1), (10 * x, 0.2, 0.2, 0.2)])
        for n, x in (("a", 1000), ("b", 1010))
    ]
    html = lines(near, x="samples", y="recall")
    assert check(html).text.count("k") == 2  # 1k and 10k
    places = [
        tuple(map(float, place)) for place in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", html)
    ]
    assert all(0 <= x <= 960 and 0 <= y <= 300 for x, y in places)
