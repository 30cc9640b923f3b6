"""Parts of a report: one self-contained HTML file, readable in dark mode, on a phone and on paper.

Each function returns a piece of HTML; `page` puts pieces together. Text that is not HTML is escaped
here.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from PIL import Image

from diptych.data.images import on_ground


def page(title: str, lead: str, *parts: str) -> str:
    """Return the whole file: a title, a paragraph under it, and the parts (HTML)."""
    style = files("diptych.lab").joinpath("report.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1><p>{escape(lead)}</p>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def section(title: str, note: str, *parts: str) -> str:
    """Return a section: a heading, a sentence or two on what it shows, then the parts (HTML), each
    in a card."""
    cards = "\n".join(f'<div class="card">{part}</div>' for part in parts)
    return f'<section><h2>{escape(title)}</h2><p class="note">{escape(note)}</p>\n{cards}</section>'


def figures(*pairs: tuple[str, str]) -> str:
    """Return the most important numbers, given as (number, what it is)."""
    cards = "".join(
        f'<div class="card"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in pairs
    )
    return f'<div class="figures">{cards}</div>'


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One measured share in [0, 1], beside the chance value, a look-up by pixels (or None) and the
    target (or None)."""

    label: str
    value: float
    chance: float
    lookup: float | None = None
    target: float | None = None


def bars(groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Return a table of bars in named groups, with a legend of the marks.

    A target that is not reached is marked as missed, and a look-up that is better than the model as
    better.
    """
    rows = []
    for name, members in groups:
        rows.append(f'<tr class="group"><td colspan="6">{escape(name)}</td></tr>')
        rows += map(_bar_row, members)
    head = '<tr><th></th><th></th><th class="n">model</th><th class="n">chance</th><th class="n">pixel look-up</th>'
    key = (
        '<div class="key"><span><i class="track"><i style="width:100%"></i></i>model</span>'
        '<span><i class="track"><u style="left:50%"></u></i>chance</span>'
        '<span><i class="track"><u class="lookup" style="left:50%"></u></i>pixel look-up</span>'
        '<span><i class="track"><u class="target" style="left:50%"></u></i>aim</span></div>'
    )
    return f'<table><thead>{head}<th class="n">aim</th></tr></thead><tbody>{"".join(rows)}</tbody></table>{key}'


def _bar_row(bar: Bar) -> str:
    def at(share: float) -> str:
        return f"{100 * min(max(share, 0.0), 1.0):.2f}%"

    marks = [f'<i style="width:{at(bar.value)}"></i>', f'<u style="left:{at(bar.chance)}"></u>']
    lookup = '<td class="n soft">–</td>'
    aim = '<td class="n soft">–</td>'
    if bar.lookup is not None:
        marks.append(f'<u class="lookup" style="left:{at(bar.lookup)}"></u>')
        better = " — better" if bar.lookup > bar.value else ""
        lookup = f'<td class="n{" bad" if better else ""}">{share(bar.lookup)}{better}</td>'
    if bar.target is not None:
        marks.append(f'<u class="target" style="left:{at(bar.target)}"></u>')
        kind, word = ("good", "met") if bar.value >= bar.target else ("bad", "missed")
        aim = f'<td class="n {kind}">{share(bar.target)} {word}</td>'
    return (
        f'<tr><td>{escape(bar.label)}</td><td class="bar"><div class="track">{"".join(marks)}</div></td>'
        f'<td class="n"><b>{share(bar.value)}</b></td><td class="n soft">{share(bar.chance)}</td>{lookup}{aim}</tr>'
    )


def share(value: float) -> str:
    """Return a share as a percentage, with more digits if it is small.

    >>> share(0.4375), share(0.00069)
    ('43.8 %', '0.07 %')
    """
    return f"{100 * value:.2f} %" if 0 < value < 0.01 else f"{100 * value:.1f} %"


def curve(points: Sequence[tuple[float, float]], *, x: str, y: str) -> str:
    """Return a line through points (x ascending), with axes named `x` and `y`, as inline SVG.

    A faint line shows every point; the strong one is their running mean (over a 25th of the
    points).
    """
    points = [point for point in points if all(map(math.isfinite, point))]
    if len(points) < 2:
        return '<p class="note">There are too few points for a curve.</p>'
    ys = [py for _, py in points]
    frame = _Frame(points[0][0], points[-1][0], min(0.0, *ys), max(ys))
    parts = [frame.axes(x, y)]
    parts.append(frame.line(points, 'stroke="var(--bar)" stroke-opacity=".3"'))
    parts.append(
        frame.line(
            _smooth(points), 'stroke="var(--bar)" stroke-width="2.5" stroke-linejoin="round"'
        )
    )
    name = escape(f"{y} by {x}", quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


@dataclass(frozen=True, kw_only=True)
class Line:
    """A named line: points (x, y, low, high) with x ascending; low and high are the ends of y's
    interval, or y without one."""

    name: str
    points: Sequence[tuple[float, float, float, float]]


def lines(shown: Sequence[Line], *, x: str, y: str, logarithmic: bool = True) -> str:
    """Return lines with intervals over x, distinguished by colour and mark, with a legend."""
    scaled = math.log10 if logarithmic else float
    points = [point for line in shown for point in line.points]
    if not points:
        return '<p class="note">There is nothing to draw yet.</p>'
    low = min(point[2] for point in points)
    high = max(point[3] for point in points)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    left = scaled(min(point[0] for point in points))
    right = scaled(max(point[0] for point in points))
    around = 0.04 * (right - left) or 0.1
    frame = _Frame(left - around, right + around, low - room, high + room)
    marked: list[float] = []
    for value in sorted({point[0] for point in points}):
        # enough space for its number
        if not marked or scaled(value) - scaled(marked[-1]) > 0.06 * (right - left):
            marked.append(value)
    parts = [frame.axes(x, y, [(scaled(value), _short(value)) for value in marked])]
    for number, line in enumerate(shown):
        placed = [(scaled(point[0]), *point[1:]) for point in line.points]
        parts.append(_line(frame, placed, number, 7 * (number - (len(shown) - 1) / 2)))
    return _drawing(parts, [line.name for line in shown], f"{y} by {x}")


def _drawing(parts: Sequence[str], names: Sequence[str], title: str) -> str:
    """Return parts of lines as one image, with a legend of their names."""
    key = "".join(
        f'<span><svg viewBox="-16 -8 32 16" aria-hidden="true"><path d="M-16 0H16" {_stroke(number)}/>'
        f"{_mark(number, 0, 0)}</svg>{escape(name)}</span>"
        for number, name in enumerate(names)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f'{"".join(parts)}</svg><div class="key">{key}</div>'
    )


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A named law and what it was fitted to: all `runs` and the `points` that count (x, y), and the
    `curve` (x, y, low, high), x ascending, which is dashed beyond `known`. All are above 0."""

    name: str
    runs: Sequence[tuple[float, float]]
    points: Sequence[tuple[float, float]]
    curve: Sequence[tuple[float, float, float, float]]
    known: float


def fits(shown: Sequence[Fitted], *, x: str, y: str) -> str:
    """Return laws with their intervals, over the runs, on logarithmic axes, with a legend."""
    seen = [point for each in shown for point in each.runs]
    xs = [px for each in shown for px, *_ in each.curve]
    ys = [py for _, py in seen] + [py for each in shown for _, py, _, _ in each.curve]
    left = math.log10(min(xs))
    right = math.log10(max(xs))
    low = math.log10(min(ys))
    high = math.log10(max(ys))
    frame = _Frame(left, right, low - 0.03 * (high - low), high + 0.03 * (high - low))
    parts = [frame.axes(x, y, _decades(left, right), _decades(low, high))]
    parts += [_fitted(frame, each, number) for number, each in enumerate(shown)]
    return _drawing(parts, [each.name for each in shown], f"{y} by {x}")


def _fitted(frame: "_Frame", each: Fitted, number: int) -> str:
    def at(x: float, y: float) -> tuple[float, float]:
        return frame.at(math.log10(x), math.log10(max(y, 10**frame.y0)))

    colour = f"var(--line-{number % _COLOURS})"
    band = [at(x, high) for x, _, _, high in each.curve]
    band += [at(x, low) for x, _, low, _ in reversed(each.curve)]
    outline = " ".join(f"{px:.1f},{py:.1f}" for px, py in band if math.isfinite(py))
    parts = [f'<polygon points="{outline}" fill="{colour}" fill-opacity=".14"/>']
    dots = "".join(f"M{px:.1f} {py:.1f}h.01" for px, py in (at(px, py) for px, py in each.runs))
    parts.append(
        f'<path d="{dots}" stroke="{colour}" stroke-width="3" stroke-linecap="round" stroke-opacity=".3"/>'
    )
    for beyond, dash in ((False, ""), (True, ' stroke-dasharray="5 4"')):
        line = [at(x, y) for x, y, _, _ in each.curve if (x >= each.known) == beyond]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in line)
        parts.append(f'<polyline points="{path}" fill="none" {_stroke(number)}{dash}/>')
    parts += [_mark(number, *at(px, py)) for px, py in each.points]
    return "".join(parts)


_FINER = (tuple(range(1, 10)), tuple(half / 2 for half in range(2, 20)))
_LEAST = 3  # numbers of an axis


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    """Return round numbers of a logarithmic axis, as (their logarithm, the number): more of each
    decade, the fewer decades there are.

    >>> [word for _, word in _decades(-1, 0)], [word for _, word in _decades(6, 12)][:2]
    (['0.1', '0.2', '0.3', '0.5', '0.7', '1'], ['1e6', '1e7'])
    >>> [word for _, word in _decades(-0.28, -0.01)]
    ['0.6', '0.7', '0.8', '0.9']
    """
    room = high - low
    steps = (1, 2, 3, 5, 7) if room < 1.5 else (1, 2, 5) if room < 3 else (1,)
    every = max(1, round(room / 8))
    inside: list[float] = []
    for each in (steps, *_FINER):
        exact = [
            m * 10.0**power
            for power in range(math.floor(low), math.ceil(high) + 1, every)
            for m in each
        ]
        inside = [v for v in exact if low - 1e-9 <= math.log10(v) <= high + 1e-9]
        if len(inside) >= _LEAST:
            break
    return [(math.log10(v), f"{v:.3g}".replace("e+0", "e").replace("e+", "e")) for v in inside]


def _line(
    frame: "_Frame", points: Sequence[tuple[float, float, float, float]], number: int, aside: float
) -> str:
    """Return one line; its marks and intervals are shifted a little, so that they do not hide those
    of the others."""
    placed = [
        (
            frame.at(x, y)[0] + aside,
            *(frame.at(0, value)[1] for value in (y, low, high)),
        )
        for x, y, low, high in points
    ]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _, _ in placed)
    parts = (
        [f'<polyline points="{path}" fill="none" {_stroke(number)}/>'] if len(placed) > 1 else []
    )
    for px, py, low, high in placed:
        if low != high:
            ends = (
                f"M{px:.1f} {low:.1f}V{high:.1f}M{px - 4:.1f} {low:.1f}h8M{px - 4:.1f} {high:.1f}h8"
            )
            parts.append(f'<path d="{ends}" fill="none" {_stroke(number)} stroke-opacity=".55"/>')
        parts.append(_mark(number, px, py))
    return "".join(parts)


_COLOURS = 6
_MARKS = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z",
    "M-4 -4H4V4H-4Z",
    "M0 -5.5L5 4H-5Z",
    "M0 -6L5 0L0 6L-5 0Z",
)


def _stroke(number: int) -> str:
    return f'stroke="var(--line-{number % _COLOURS})" stroke-width="2" stroke-linejoin="round"'


def _mark(number: int, x: float, y: float) -> str:
    shape = _MARKS[number % len(_MARKS)]
    return f'<path d="{shape}" transform="translate({x:.1f} {y:.1f})" fill="var(--line-{number % _COLOURS})"/>'


def _short(value: float) -> str:
    """Return a number in few characters.

    >>> _short(20_000), _short(1_500_000), _short(0.04118)
    ('20k', '1.5M', '0.0412')
    """
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


_WIDTH = 960
_HEIGHT = 300
# Margins.
_LEFT = 68
_RIGHT = 16
_TOP = 14
_BOTTOM = 40


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps values of x0 … x1 and y0 … y1 to positions in the drawing."""

    x0: float
    x1: float
    y0: float
    y1: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - self.x0) / ((self.x1 - self.x0) or 1) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT
            - _BOTTOM
            - (y - self.y0) / ((self.y1 - self.y0) or 1) * (_HEIGHT - _TOP - _BOTTOM),
        )

    def line(self, values: Sequence[tuple[float, float]], style: str) -> str:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (self.at(*value) for value in values))
        return f'<polyline points="{path}" fill="none" {style}/>'

    def axes(
        self,
        x: str,
        y: str,
        marked: Sequence[tuple[float, str]] | None = None,
        marked_y: Sequence[tuple[float, str]] | None = None,
    ) -> str:
        """Return both axes; `marked` and `marked_y` are the ticks of x and y, if they are not round
        numbers."""
        parts = []
        for tick, word in marked_y or [(tick, f"{tick:g}") for tick in ticks(self.y0, self.y1)]:
            _, py = self.at(self.x0, tick)
            parts.append(self.line([(self.x0, tick), (self.x1, tick)], 'stroke="var(--line)"'))
            parts.append(f'<text x="{_LEFT - 8}" y="{py + 4:.1f}" text-anchor="end">{word}</text>')
        for tick, word in marked or [(tick, f"{tick:,g}") for tick in ticks(self.x0, self.x1)]:
            px, _ = self.at(tick, self.y0)
            parts.append(
                f'<text x="{px:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{word}</text>'
            )
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(
            f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x)}</text>'
        )
        turned = f'transform="translate(13 {(_HEIGHT - _BOTTOM) / 2}) rotate(-90)"'
        parts.append(f'<text {turned} text-anchor="middle">{escape(y)}</text>')
        return "".join(parts)


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    half = max(1, len(points) // 50)
    windows = [points[max(0, i - half) : i + half + 1] for i in range(len(points))]
    return [
        (point[0], sum(y for _, y in window) / len(window))
        for point, window in zip(points, windows, strict=True)
    ]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return about `about` round numbers from `low` to `high`.

    >>> ticks(0, 5.2)
    [0, 1, 2, 3, 4, 5]
    """
    step = 10 ** math.floor(math.log10(((high - low) or 1) / about))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= about + 1)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image with a caption; `hit` rings it as a correct answer."""

    image: Image.Image
    caption: str = ""
    hit: bool = False


def thumbnail(image: Image.Image, alt: str = "") -> str:
    """Return an `img` with the image inside, at most 128 px; transparent parts are white.

    >>> thumbnail(Image.new("RGB", (4, 4)), "a <b>")[-18:]
    'alt="a &lt;b&gt;">'
    """
    image = on_ground(image)
    image.thumbnail((128, 128))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=82, method=6)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/webp;base64,{data}" alt="{escape(alt, quote=True)}">'


def finds(rows: Sequence[tuple[str | Shown, Sequence[Shown]]]) -> str:
    """Return queries on the left, a text or an image each, and their results on the right."""
    parts = []
    for query, hits in rows:
        asked = (
            escape(f"“{query}”")
            if isinstance(query, str)
            else f"{thumbnail(query.image, query.caption)}<figcaption>{escape(query.caption)}</figcaption>"
        )
        parts.append(f'<div class="query">{asked}</div>{strip(hits)}')
    return f'<div class="finds">{"".join(parts)}</div>'


def compared(query: str, rows: Sequence[tuple[str, Sequence[Shown]]]) -> str:
    """Return a text and the results of several searches for it, a named row each."""
    parts = [f'<div class="query">{escape(name)}</div>{strip(hits)}' for name, hits in rows]
    return f'<p><b>{escape(f"“{query}”")}</b></p><div class="finds">{"".join(parts)}</div>'


def strip(shown: Sequence[Shown]) -> str:
    """Return images side by side, with their captions under them."""
    found = "".join(
        f"<figure{' class=hit' if item.hit else ''}>{thumbnail(item.image, item.caption)}"
        f"<figcaption>{escape(item.caption)}</figcaption></figure>"
        for item in shown
    )
    return f'<div class="row">{found}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain table of text."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
