"""Stored verdicts in the docs, as Markdown: all claims in one table, and the result of one claim."""

from collections.abc import Callable, Sequence
from pathlib import Path

from diptych.lab import tables
from diptych.lab.claim import CLAIMS
from diptych.lab.stored import EARLIER, Record, read_result, result_path, since
from diptych.methods.registry import cards

COLUMNS = ("method", "year", "claim", "verdict", "effect")
BASELINES = ("tip_adapter",)
"""Methods with a claim that only serve others as a comparison."""
WIDTH = 120
HEIGHT = 16
"""Pixels of the bar of an interval."""


def league(results: Path, link: Callable[[str], str] = str, claims: Path = CLAIMS) -> list[str]:
    """Return the methods with a claim: what it asks, which comparisons were judged, the verdict, and
    the interval of the headline's effect as a bar; then baselines, then the names of the others.

    `results` is the folder of stored verdicts; `link` returns the Markdown for a method's name.
    """
    papers: list[tuple[str, ...]] = []
    baselines: list[tuple[str, ...]] = []
    others = []
    for name, card in cards().items():
        path = claims / f"{name}.py"
        record = read_result(result_path(name, out=results))
        rows = baselines if name in BASELINES else papers
        if record is None and not path.exists():
            others.append(link(name))
        elif record is None:
            rows.append((link(name), str(card.year), "", "not tried", ""))
        else:
            verdict = _verdict(record, path, results)
            rows.append((link(name), str(card.year), _asked(record), verdict, _effect(record)))
    compared = ["Baselines:", "", *tables.markdown((COLUMNS, baselines)), ""] if baselines else []
    return [
        *tables.markdown((COLUMNS, papers)),
        "",
        *compared,
        f"Other baselines, and methods without a claim: {', '.join(others)}.",
    ]


def _asked(record: Record) -> str:
    """What the claim asks, and the comparisons that its verdict is about."""
    if record["format"] == EARLIER:
        return str(record["question"])
    judged = "; ".join(item["says"] for item in record["headline"])
    return f"{record['question']} <small>Judged: {judged}.</small>"


def _effect(record: Record) -> str:
    """The bar of the headline's first comparison."""
    if record["format"] == EARLIER:
        return ""
    compared = [item for item in record["headline"] if item["kind"] != "at_most"]
    if not compared or compared[0]["interval"] is None:
        return ""
    item = compared[0]
    low, high = item["interval"]
    return bar(low, item["mean"], high, item["says"])


def bar(low: float, mean: float, high: float, says: str) -> str:
    """Return an interval as a small inline drawing: a line over a mark at zero, with a dot at the
    mean; its numbers are its title."""
    reach = 1.1 * max(abs(low), abs(high), 1e-12)

    def place(value: float) -> float:
        return round(WIDTH / 2 * (1 + value / reach), 1)

    middle = HEIGHT / 2
    title = f"{says} {mean:+.3g} {tables.ends([low, high])}"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>'
        f'<line x1="{WIDTH / 2}" x2="{WIDTH / 2}" y1="0" y2="{HEIGHT}" stroke="currentColor" stroke-opacity=".4"/>'
        f'<line x1="{place(low)}" x2="{place(high)}" y1="{middle}" y2="{middle}" stroke="currentColor" '
        f'stroke-width="2"/><circle cx="{place(mean)}" cy="{middle}" r="3.5" fill="currentColor"/></svg>'
    )


def _verdict(record: Record, path: Path, results: Path) -> str:
    """Return the verdict, whether claim or method have changed since, and the verdict on real data
    if there is one."""
    reported = f"**{tables.short(record)}**"
    if record["format"] != EARLIER and (not path.exists() or since(record, path)[0]):
        reported += "; code changed since"
    real = read_result(result_path(path.stem, "real", results))
    return reported + (f"; on real data **{tables.short(real)}**" if real is not None else "")


def result(name: str, results: Path, claims: Path = CLAIMS) -> list[str]:
    """Return the stored result of a claim and of its block on real data: question, arms,
    expectations, verdict, conditions."""
    found = [
        (title, read_result(result_path(name, block, results)))
        for title, block in (("", "claim"), ("On real data: ", "real"))
    ]
    path = claims / f"{name}.py"
    shown = [
        line
        for title, record in found
        if record is not None
        for line in _block(title, record, path)
    ]
    if shown:
        return shown
    if not path.exists():
        return [
            "Not judged yet: its claim is not written, so nothing is said of how well it works."
        ]
    return ["No verdict is stored yet."]


def _block(title: str, record: Record, path: Path) -> list[str]:
    file = record["file"]
    seeds = _runs_of(record["seeds"])
    where = (
        f"commit `{file['commit'][:12]}` of its file"
        if file["commit"]
        else f"its file `{file['blob'][:12]}`"
    )
    conditions = (
        f"Seeds {seeds}; means ± half the 95 % t-interval. {record['cpu_seconds']:,.0f} CPU seconds on "
        f"{', '.join(record['processors'])}, torch {record['versions'].get('torch', '?')}; {where}."
    )
    reported = tables.sentence(record)
    judged = (
        [] if record["format"] == EARLIER else [*tables.markdown(tables.expectations(record)), ""]
    )
    if record["format"] != EARLIER and path.exists():
        decisive, others = since(record, path)
        if decisive:
            conditions += f" Changed since: {', '.join(f'`{each}`' for each in decisive)}."
        if others:
            conditions += f" Other files that ran and have changed: {len(others)}."
    return [
        f"{title}{record['question']}",
        "",
        *tables.markdown(tables.arms(record)),
        "",
        *judged,
        f"**{reported[0].upper()}{reported[1:]}.** {conditions}",
        "",
    ]


def _runs_of(seeds: Sequence[int]) -> str:
    """Seeds in words.

    >>> _runs_of([200, 201, 202]), _runs_of([1, 3])
    ('200 to 202', '1, 3')
    """
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
