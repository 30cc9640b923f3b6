"""Blind ratings: the page shows no names, votes are read back, and the sign test is exact."""

import csv
import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.lab.blind import Pair, count, key_of, sign_test, write

NAMES = ("contrastive:k=5", "sample")
PAIRS = [
    Pair(key=f"k{at}", prompt=f"Prompt {at} <b>", texts=(f"first {at} & co", f"second {at}"))
    for at in range(20)
]


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "rate.html"
    write(path, PAIRS, NAMES, seed=3)
    return path


def record(page):
    return json.loads(key_of(page).read_text())


def votes(page, name, choices, rater="ann"):
    path = page.with_name(name)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["page", "item", "vote", "rater"])
        writer.writerows([record(page)["page"], item, vote, rater] for item, vote in choices)
    return path


def side(page, item, name):
    """The side on which a name's text stands."""
    return "left" if record(page)["items"][item - 1]["left"] == name else "right"


def test_the_page_has_all_texts_escaped_and_no_names(page):
    html = page.read_text()
    assert not any(name in html for name in (*NAMES, "contrastive", "k0"))
    for at in range(20):
        assert f"Prompt {at} &lt;b&gt;" in html
        assert f"first {at} &amp; co" in html
        assert html.count(f'name="item{at + 1}"') == 3


def test_sides_are_in_random_order_as_the_key_says(page, tmp_path):
    html = page.read_text()
    shown = re.findall(r'<div class="two"><p>(\w+) ', html)
    lefts = [item["left"] for item in record(page)["items"]]
    assert shown == ["first" if left == NAMES[0] else "second" for left in lefts]
    assert 4 < lefts.count(NAMES[0]) < 16
    write(tmp_path / "other.html", PAIRS, NAMES, seed=4)
    others = json.loads((tmp_path / "other.key.json").read_text())
    assert [item["left"] for item in others["items"]] != lefts
    assert others["page"] != record(page)["page"]


def test_items_are_won_by_the_majority_of_their_raters(page):
    first, second = NAMES
    ann = votes(page, "a.csv", [(at, side(page, at, first)) for at in range(1, 13)])
    ben = votes(
        page,
        "b.csv",
        [(1, side(page, 1, first)), (2, side(page, 2, second)), (3, "equal"), (13, "equal"),
         (14, side(page, 14, second))],
        "ben",
    )  # fmt: skip
    eve = votes(page, "e.csv", [(2, side(page, 2, second))], "eve")
    found = count(page, [ann, ben, eve])
    # 1 and 4 to 12 by ann; 2 by ben and eve; 3 is split; 13 is equal; 14 by ben
    assert found.wins == (10, 2)
    assert (found.undecided, found.votes, found.raters) == (2, 18, 3)
    assert found.share == 10 / 12
    expected = 2 * sum(math.comb(12, k) for k in range(3)) / 2**12
    assert found.p == pytest.approx(expected)
    assert found.agreement == pytest.approx(16 / 18)
    assert count(page, [ann]).agreement is None


def test_the_last_vote_of_a_rater_on_an_item_counts(page):
    path = votes(page, "a.csv", [(1, "equal"), (1, side(page, 1, NAMES[1]))])
    assert count(page, [path]).wins == (0, 1)


@settings(max_examples=30, deadline=None)
@given(a=st.integers(0, 15), b=st.integers(0, 15))
def test_the_sign_test_is_that_of_the_binomial(a, b):
    if not a + b:
        with pytest.raises(InputError, match="majority"):
            sign_test(a, b)
        return
    share, (low, high), p = sign_test(a, b)
    n = a + b
    far = abs(a - n / 2)
    expected = sum(math.comb(n, k) for k in range(n + 1) if abs(k - n / 2) >= far) / 2**n
    assert p == pytest.approx(expected)
    assert 0 <= low <= share <= high <= 1

    def tail(q):
        """P(X >= a) at probability q."""
        return sum(math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(a, n + 1))

    if a:
        assert tail(low) == pytest.approx(0.025, abs=1e-6)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a,b\n1,2\n", "first line must be page,item,vote,rater"),
        ("page,item,vote,rater\nother,1,left,a\n", "line 2: the vote is on page 'other'"),
        ("page,item,vote,rater\n{page},1,lift,a\n", "the vote is 'lift'"),
        ("page,item,vote,rater\n{page},99,left,a\n", "no item '99'; items are numbered 1 to 20"),
        ("page,item,vote,rater\n{page},one,left,a\n", "no item 'one'"),
        ("page,item,vote,rater\n", "hold no votes"),
    ],
)
def test_lines_that_are_no_votes_are_refused(page, lines, message):
    path = page.with_name("v.csv")
    path.write_text(lines.replace("{page}", record(page)["page"]))
    with pytest.raises(InputError, match=message):
        count(page, [path])


def test_pages_without_sense_are_refused(page, tmp_path):
    with pytest.raises(InputError, match="choose another name"):
        write(page, PAIRS, NAMES)
    with pytest.raises(InputError, match="two different ones"):
        write(tmp_path / "x.html", PAIRS, ("greedy", "greedy"))
    with pytest.raises(InputError, match="no pair"):
        write(tmp_path / "x.html", [], NAMES)
    with pytest.raises(InputError, match=r"no .*x\.key\.json"):
        count(tmp_path / "x.html", [])
    with pytest.raises(InputError, match="no such file of votes"):
        count(page, [tmp_path / "nothing.csv"])
    key_of(page).write_text("[]")
    with pytest.raises(InputError, match="no key of a page"):
        count(page, [])
