"""Blind ratings: a page of pairs of texts without the names of who wrote them, and what people's
votes say.

`write` makes PAGE.html, which people rate in a browser, and PAGE.key.json, which says what stands
on which side. The page hands out its votes as CSV, a line for each item with its choice: left,
right or equal. `count` reads such files and tests by the sign of each item whether one of the two
is preferred:

    p = P(|X - n/2| >= |wins - n/2|),      X binomial with n items and probability 1/2

An item is won by the side that most of its raters chose, so that n counts texts and not people;
items without a majority are left out.
"""

import csv
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from diptych.errors import InputError
from diptych.files import read_json, write_atomic
from diptych.lab import report
from diptych.rng import generator

CHOICES = ("left", "equal", "right")
_COLUMNS = ("page", "item", "vote", "rater")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two texts that continue a prompt."""

    key: str
    prompt: str
    texts: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Count:
    """What votes say of two names: items that each won, items without a majority, the number of
    votes and raters, the share of the first with its exact 95 % interval, the sign test's p, and the
    share of votes that agree with the majority of their item (None with one rater)."""

    names: tuple[str, str]
    wins: tuple[int, int]
    undecided: int
    votes: int
    raters: int
    share: float
    interval: tuple[float, float]
    p: float
    agreement: float | None


def write(path: Path, pairs: Sequence[Pair], names: tuple[str, str], *, seed: int = 0) -> Path:
    """Write the page of pairs, in which each pair's sides are in random order, and return the path
    of its key.

    Raises InputError if there is no pair, the names are equal, or the page exists, whose votes
    would lose their key.
    """
    if names[0] == names[1]:
        raise InputError(f"both texts are by {names[0]!r}; compare two different ones")
    if not pairs:
        raise InputError("there is no pair to rate; give prompts")
    key = key_of(path)
    for each in (path, key):
        if each.exists():
            raise InputError(
                f"{each} exists, and votes on it would lose their meaning; choose another name"
            )
    flipped = generator(seed, "blind").random(len(pairs)) < 0.5
    sides = [
        pair.texts[::-1] if flip else pair.texts for pair, flip in zip(pairs, flipped, strict=True)
    ]
    shown = [[pair.prompt, *side] for pair, side in zip(pairs, sides, strict=True)]
    number = hashlib.sha256(json.dumps([shown, seed]).encode()).hexdigest()[:12]
    html = report.page(
        "Which text is better?",
        f"{len(pairs)} beginnings, each with two texts that continue it. Choose the one that is more "
        "fluent, more coherent and says more. Your choices stay in this browser until you save them.",
        _STYLE,
        *(_item(at, *texts) for at, texts in enumerate(shown)),
        _script(number, len(pairs)),
    )
    items = [
        {"key": pair.key, "left": names[int(flip)]}
        for pair, flip in zip(pairs, flipped.tolist(), strict=True)
    ]
    record = {"page": number, "names": list(names), "items": items}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(key, lambda to: to.write_text(json.dumps(record, indent=1), "utf-8"))
    write_atomic(path, lambda to: to.write_text(html, "utf-8"))
    return key


def key_of(path: Path) -> Path:
    """The path of the key of a page.

    >>> key_of(Path("rate.html")).name
    'rate.key.json'
    """
    return path.with_suffix(".key.json")


def count(page: Path, files: Sequence[Path]) -> Count:
    """Return what the votes in files say of a page. Two votes of a rater on an item: the last.

    Raises InputError for a page without its key, votes of another page, and lines that are no
    votes.
    """
    remedy = "it is written beside the page, by diptych generate --blind"
    key = key_of(page)
    if not key.is_file():
        raise InputError(f"there is no {key}; {remedy}")
    record = read_json(key, remedy)
    if not isinstance(record, dict) or not {"page", "names", "items"} <= record.keys():
        raise InputError(f"{key} is no key of a page; {remedy}")
    given: dict[tuple[int, str], str] = {}
    for number, file in enumerate(files):
        for line, row in enumerate(_rows(file), 2):
            at = _checked(row, record, f"{file}, line {line}")
            given[at, row["rater"] or f"file {number + 1}"] = row["vote"]
    if not given:
        raise InputError("the files hold no votes; rate the page, and save your votes")
    return _counted(record, given)


def _counted(record: Any, given: dict[tuple[int, str], str]) -> Count:
    first, second = record["names"]
    by_item: dict[int, Counter[str]] = defaultdict(Counter)
    for (at, _), vote in given.items():
        left = record["items"][at]["left"]
        other = second if left == first else first
        by_item[at][{"left": left, "right": other, "equal": ""}[vote]] += 1
    winners: Counter[str] = Counter()
    for votes in by_item.values():
        best = votes.most_common(2)
        alone = len(best) == 1 or best[0][1] > best[1][1]
        winners[best[0][0] if alone else ""] += 1
    a = winners[first]
    b = winners[second]
    raters = {rater for _, rater in given}
    agreeing = sum(max(votes.values()) for votes in by_item.values())
    share, interval, p = sign_test(a, b)
    return Count(
        names=(first, second),
        wins=(a, b),
        undecided=winners[""],
        votes=len(given),
        raters=len(raters),
        share=share,
        interval=interval,
        p=p,
        agreement=agreeing / len(given) if len(raters) > 1 else None,
    )


def sign_test(a: int, b: int) -> tuple[float, tuple[float, float], float]:
    """The share of the first of two in a + b items, its exact 95 % interval (Clopper and Pearson),
    and the two-sided p of the sign test. Raises InputError without an item, or without scipy.

    >>> share, interval, p = sign_test(9, 1)
    >>> share, round(p, 4)
    (0.9, 0.0215)
    """
    try:
        from scipy.stats import binomtest
    except ImportError:
        raise InputError("the sign test needs scipy; pip install 'diptych[lab]'") from None
    if not a + b:
        raise InputError("no item has a majority for one side; the sign test needs some")
    test = binomtest(a, a + b, 0.5)
    bounds = test.proportion_ci(0.95, method="exact")
    return a / (a + b), (float(bounds.low), float(bounds.high)), float(test.pvalue)


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            if not {"page", "item", "vote"} <= set(reader.fieldnames or ()):
                raise InputError(
                    f"{file} holds no votes: its first line must be {','.join(_COLUMNS)}"
                )
            return [{name: (row.get(name) or "").strip() for name in _COLUMNS} for row in reader]
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such file of votes; check the path") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"{file} cannot be read as CSV ({error}); save the votes again") from None


def _checked(row: dict[str, str], record: Any, where: str) -> int:
    """Return the number of the item that a vote is on."""
    if row["page"] != record["page"]:
        raise InputError(
            f"{where}: the vote is on page {row['page']!r}, the key of {record['page']!r}"
        )
    if row["vote"] not in CHOICES:
        raise InputError(f"{where}: the vote is {row['vote']!r}; it must be {', '.join(CHOICES)}")
    if not row["item"].isdecimal() or not 1 <= int(row["item"]) <= len(record["items"]):
        raise InputError(
            f"{where}: there is no item {row['item']!r}; items are numbered 1 to {len(record['items'])}"
        )
    return int(row["item"]) - 1


_STYLE = (
    "<style>.two{display:grid;grid-template-columns:1fr 1fr;gap:1rem}.two p{white-space:pre-wrap;"
    "overflow-wrap:anywhere}.start{white-space:pre-wrap;font-weight:600}fieldset{border:0;padding:0}"
    "label{margin-right:1.5rem}@media(max-width:40rem){.two{grid-template-columns:1fr}}</style>"
)


def _item(at: int, prompt: str, left: str, right: str) -> str:
    labels = {"left": "the left one", "equal": "both alike", "right": "the right one"}
    choices = "".join(
        f'<label><input type="radio" name="item{at + 1}" value="{value}"> {labels[value]}</label>'
        for value in CHOICES
    )
    body = (
        f'<p class="start">{escape(prompt)}</p><div class="two"><p>{escape(left)}</p><p>{escape(right)}</p></div>'
        f'<fieldset aria-label="Choice of {at + 1}">{choices}</fieldset>'
    )
    return report.section(f"{at + 1}", "", body)


def _script(number: str, count: int) -> str:
    """The button that saves the votes, and what keeps them until then."""
    return f"""
<div class="card"><label>Your name or initials <input id="rater"></label>
<button id="save" type="button">Save votes</button> <span id="done"></span></div>
<script>
const page = "{number}", count = {count};
const box = document.getElementById("rater");
function keep(name, value) {{ try {{ localStorage.setItem(page + name, value); }} catch (e) {{}} }}
function kept(name) {{ try {{ return localStorage.getItem(page + name); }} catch (e) {{ return null; }} }}
function chosen(at) {{ return document.querySelector(`input[name=item${{at}}]:checked`); }}
function tell() {{
  let done = 0;
  for (let at = 1; at <= count; at++) done += chosen(at) ? 1 : 0;
  document.getElementById("done").textContent = `${{done}} of ${{count}} rated`;
}}
box.value = kept("rater") || "";
for (let at = 1; at <= count; at++) {{
  for (const input of document.getElementsByName("item" + at)) {{
    input.checked = kept(at) === input.value;
    input.onchange = () => {{ keep(at, input.value); tell(); }};
  }}
}}
box.oninput = () => keep("rater", box.value);
document.getElementById("save").onclick = () => {{
  const name = '"' + box.value.replaceAll('"', '""') + '"';
  const lines = ["{",".join(_COLUMNS)}"];
  for (let at = 1; at <= count; at++) if (chosen(at)) lines.push([page, at, chosen(at).value, name].join());
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\\n") + "\\n"], {{type: "text/csv"}}));
  link.download = "votes.csv";
  link.click();
}};
tell();
</script>"""
