"""What laws say of runs, as tables and as one page."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.lab import report
from diptych.lab.scaling.analysis import (
    Bootstrap,
    Crossing,
    Fit,
    HeldOut,
    best_samples,
    bootstrap,
    crossing_interval,
    crossings,
    held_out,
    thresholds,
)
from diptych.lab.scaling.laws import NAMES, Law
from diptych.lab.scaling.runs import Limits, Runs, read_runs
from diptych.results import Tabular

PLAIN = Fit()
ALL = Limits()
HELD_OUT = (0.5, 0.7, 0.85)
"""Shares of the frontier, from the cheapest point, that are fitted where no compute is named."""
_DRAWN = 160  # points of a curve
_BEYOND = 10.0  # a curve is drawn up to this many times the largest compute


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """The law of some runs, with what is known of it. `on` are the indices of the frontier;
    `samples` is the power law of samples over compute, None where its frontier has too few
    points."""

    runs: Runs
    on: np.ndarray
    law: Law
    held_out: tuple[HeldOut, ...]
    bootstrap: Bootstrap | None
    samples: Law | None

    def ends(self, name: str) -> tuple[float, float]:
        """The 95 % interval of a parameter: of the resampled runs, or without them by the delta
        method."""
        return self.law.ends(name) if self.bootstrap is None else self.bootstrap.ends(name)

    def interval(self, compute: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The 95 % interval of the error."""
        if self.bootstrap is None:
            return self.law.interval(compute)
        return self.bootstrap.interval(compute)

    @property
    def bends(self) -> bool:
        """Whether the runs show a floor: E has an interval, and it is above 0."""
        low = self.ends("E")[0]
        return self.law.parameters["E"] > 0 and low > 0


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """Where the laws of two groups cross, the percentiles of resampled runs for the place (the first
    that is certain, else the first), and the share of resamples that cross at all (NaN without
    resamples)."""

    first: str
    second: str
    found: tuple[Crossing, ...]
    low: float
    high: float
    share: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Report(Tabular):
    """The laws of one metric, by group, and where they cross."""

    metric: str
    fit: Fit
    groups: tuple[Fitted, ...]
    crossed: tuple[Crossed, ...]
    predicted: tuple[float, ...]

    @property
    def title(self) -> str:  # type: ignore[override]
        """What was fitted."""
        return f"{self.metric}: error over compute"

    def records(self) -> list[dict[str, Any]]:
        """A row for each group: the law with its 95 % intervals, and its predictions."""
        found = []
        for group in self.groups:
            row: dict[str, Any] = {
                "runs of": group.runs.name,
                "runs": len(group.runs),
                "frontier": len(group.on),
            }
            for name in NAMES:
                low, high = group.ends(name)
                row |= {
                    name: group.law.parameters[name],
                    f"{name} low": low,
                    f"{name} high": high,
                }
            row["mse"] = group.law.mse
            if group.samples is not None:
                row["samples exponent"] = group.samples.parameters["a"]
            for compute in self.predicted:
                low, high = (float(end[0]) for end in group.interval(np.array([compute])))
                name = f"error at {compute:g}"
                row |= {name: float(group.law(compute)), f"{name} low": low, f"{name} high": high}
            found.append(row)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "metric": self.metric,
            "fit": asdict(self.fit),
            "laws": [
                {
                    **row,
                    "held_out": [asdict(each) for each in group.held_out],
                    "failed_resamples": None if group.bootstrap is None else group.bootstrap.failed,
                }
                for row, group in zip(self.records(), self.groups, strict=True)
            ],
            "crossings": [asdict(each) for each in self.crossed],
        }

    def notes(self) -> list[str]:
        """What the numbers do not say by themselves."""
        found = [
            f"{group.runs.name}: the runs show no floor (E may be 0), so a law without one fits as well"
            for group in self.groups
            if self.fit.form == "saturating" and not group.bends
        ]
        return found + [
            f"{group.runs.name}: {group.bootstrap.failed} resamples had too few points and are left out"
            for group in self.groups
            if group.bootstrap is not None and group.bootstrap.failed
        ]


def analyse(
    runs: Sequence[Runs],
    fit: Fit = PLAIN,
    *,
    limits: Limits = ALL,
    held_out_above: Sequence[float] = (),
    predicted: Sequence[float] = (),
    bootstraps: int = 200,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Report]:
    """Fit a law to each group of runs and compare them, a report for each metric.

    `held_out_above` are compute values up to which laws are fitted and above which they are tested,
    by default the fit's `c_max`, or those that end half, 70 % and 85 % of the frontier; `predicted` are compute values
    whose error is to be told. `bootstraps` resamples of the runs give the intervals; with 0 they
    come from the fit alone, which knows neither the choice of the frontier nor the spread between
    runs. `progress(done, total)` counts resamples.

    Raises InputError if a group has too few runs.
    """
    used = [limits.of(each) for each in runs]
    if fit.c_max is not None and not held_out_above:
        held_out_above = (fit.c_max,)
    done = 0

    def count(*_: int) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, bootstraps * len(used))

    by_metric: dict[str, list[Fitted]] = {}
    for group in used:
        fitted = _fitted(group, fit, held_out_above, bootstraps, seed, count)
        by_metric.setdefault(group.metric, []).append(fitted)
    return [
        Report(
            metric=metric,
            fit=fit,
            groups=tuple(groups),
            crossed=tuple(_crossed(*pair) for pair in combinations(groups, 2)),
            predicted=tuple(predicted),
        )
        for metric, groups in by_metric.items()
    ]


def _fitted(
    runs: Runs,
    fit: Fit,
    held_out_above: Sequence[float],
    bootstraps: int,
    seed: int,
    count: Callable[[int, int], None],
) -> Fitted:
    try:
        if not len(runs):
            raise InputError("no run is left; widen the limits")
        on = fit.points(runs.compute, runs.error)
        law = fit.law(runs.compute, runs.error)
        resampled = (
            bootstrap(runs.compute, runs.error, fit, times=bootstraps, seed=seed, report=count)
            if bootstraps
            else None
        )
    except InputError as error:
        raise InputError(f"{runs.metric} of {runs.name}: {error}") from None
    return Fitted(
        runs=runs,
        on=on,
        law=law,
        held_out=_tested(runs, on, fit, held_out_above),
        bootstrap=resampled,
        samples=_samples(runs),
    )


def _tested(runs: Runs, on: np.ndarray, fit: Fit, above: Sequence[float]) -> tuple[HeldOut, ...]:
    """The tests on larger runs; of the default shares, those that leave enough points to fit."""
    if above:
        return tuple(held_out(runs.compute, runs.error, fit, each) for each in above)
    found = []
    for compute in dict.fromkeys(thresholds(runs.compute[on], HELD_OUT)):
        try:
            found.append(held_out(runs.compute, runs.error, fit, compute))
        except InputError:
            continue  # the frontier is short
    return tuple(found)


def _samples(runs: Runs) -> Law | None:
    try:
        return best_samples(runs.compute, runs.error, runs.samples)
    except InputError:
        return None


def _crossed(first: Fitted, second: Fitted) -> Crossed:
    both = np.r_[first.runs.compute, second.runs.compute]
    low = float(both.min())
    high = float(both.max())
    ends = (math.nan, math.nan, math.nan)
    places = crossings(first.law, second.law, low, high)
    if first.bootstrap is not None and second.bootstrap is not None:
        told = [place for place in places if place.separate] or places
        near = told[0].compute if told else None
        ends = crossing_interval(first.bootstrap, second.bootstrap, low, high, near=near)
    return Crossed(
        first=first.runs.name,
        second=second.runs.name,
        found=tuple(places),
        low=ends[0],
        high=ends[1],
        share=ends[2],
    )


LAWS = ("runs of", "runs", "frontier", *NAMES, "samples ~ C^")
TESTS = ("runs of", "fitted up to", "points", "held out", "rmse", "relative", "in the interval")
PREDICTIONS = ("runs of", "compute", "error", "95 %")


def law_rows(found: Report) -> list[tuple[str, ...]]:
    """The rows of the table of laws."""
    return [
        (
            group.runs.name,
            f"{len(group.runs):,}",
            str(len(group.on)),
            *(_spread(group.law.parameters[name], group.ends(name)) for name in NAMES),
            "" if group.samples is None else f"{group.samples.parameters['a']:.2f}",
        )
        for group in found.groups
    ]


def held_out_rows(found: Report) -> list[tuple[str, ...]]:
    """The rows of the table of tests on larger runs."""
    return [
        (
            group.runs.name,
            f"{each.c_max:.3g}",
            str(each.fitted),
            str(each.held_out),
            f"{each.rmse:.4f}",
            f"{each.relative:.1%}",
            f"{each.covered:.0%}",
        )
        for group in found.groups
        for each in group.held_out
    ]


def prediction_rows(found: Report) -> list[tuple[str, ...]]:
    """The rows of the table of predictions."""
    rows = []
    for group in found.groups:
        for compute in found.predicted:
            low, high = (float(end[0]) for end in group.interval(np.array([compute])))
            rows.append(
                (
                    group.runs.name,
                    f"{compute:g}",
                    f"{float(group.law(compute)):.4f}",
                    f"[{low:.4f}, {high:.4f}]",
                )
            )
    return rows


def crossing_lines(found: Report) -> list[str]:
    """A sentence for each pair of groups."""
    return [_sentence(each, found) for each in found.crossed]


def _sentence(each: Crossed, found: Report) -> str:
    pair = f"{each.first} and {each.second}"
    certain = [crossing for crossing in each.found if crossing.separate]
    resampled = "" if math.isnan(each.share) else f" {each.share:.0%} of resamples cross"
    if resampled and each.share > 0:
        resampled += f", at {each.low:.2g} to {each.high:.2g} (95 %)"
    if certain:
        places = " and ".join(f"{crossing.compute:.3g}" for crossing in certain)
        return (
            f"{pair} cross at {places} GFLOPs, apart on both sides.{resampled and resampled + '.'}"
        )
    what = "are not seen to cross in the range of the runs"
    if each.found:
        places = " and ".join(f"{crossing.compute:.3g}" for crossing in each.found)
        what = f"meet at {places} GFLOPs, but their intervals are not apart on both sides"
    return f"{pair} {what}.{resampled and resampled + '.'}"


def _spread(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.3g} [{ends[0]:.3g}, {ends[1]:.3g}]" if ends[0] != ends[1] else f"{value:.3g}"


def write_page(path: Path, reports: Sequence[Report], source: str) -> None:
    """Write the page of all metrics."""
    html = _page(reports, source)
    write_atomic(path, lambda to: to.write_text(html, encoding="utf-8"))


def _page(reports: Sequence[Report], source: str) -> str:
    runs = sum(len(group.runs) for group in reports[0].groups)
    fit = reports[0].fit
    lead = (
        f"Laws of the runs in {source}: the best runs for their compute (frontier: {fit.frontier}) are fitted by "
        f"{_FORMS[fit.form]}, by least squares of the {_RESIDUALS[fit.residuals]}. C is in GFLOPs."
    )
    parts = [
        report.figures(
            (f"{runs:,}", "runs"),
            (str(len(reports[0].groups)), "laws for each metric"),
            (", ".join(each.metric for each in reports), "measured"),
        )
    ]
    parts += [report.section(found.metric, _note(found), *_cards(found)) for found in reports]
    return report.page("Scaling laws", lead, *parts)


_FORMS: Mapping[str, str] = {
    "saturating": "L(C) = A (C + B)^a + E",
    "no_floor": "L(C) = A (C + B)^a",
    "power": "L(C) = A C^a",
}
_RESIDUALS: Mapping[str, str] = {"error": "error", "log": "logarithm of the error"}


def cards_of_comparison(folder: Path, metrics: Sequence[str]) -> dict[str, list[str]]:
    """The laws A C^a of a comparison's methods, drawn and as a table, by metric: of the methods with at
    least three runs that are each better than all with less compute. Intervals are of the fit alone.

    A metric that is no share of which more is better has none, and none is given without a law.
    """
    fit = Fit(frontier="all", form="power")
    cards = {}
    for metric in metrics:
        try:
            runs = read_runs(folder, metrics=[metric])
        except InputError:
            continue
        groups: list[Fitted] = []
        for each in runs:
            with suppress(InputError):  # it has too few
                groups += analyse([each], fit, bootstraps=0)[0].groups
        if groups:
            found = Report(metric=metric, fit=fit, groups=tuple(groups), crossed=(), predicted=())
            cards[metric] = _cards(found)[:2]
    return cards


def _note(found: Report) -> str:
    how = "resampled runs" if found.groups[0].bootstrap is not None else "the fit alone"
    note = (
        "Small dots are runs, marks the frontier; a line is dashed beyond the largest run that is fitted. "
        f"Intervals are 95 %, of {how}."
    )
    return " ".join([note, *(f"{line[0].upper()}{line[1:]}." for line in found.notes())])


def _cards(found: Report) -> list[str]:
    cards = [
        report.fits(
            [_drawn(group, found.fit.c_max) for group in found.groups],
            x="compute (GFLOPs)",
            y=f"error of {found.metric}",
        ),
        report.table(LAWS, law_rows(found)),
    ]
    if rows := held_out_rows(found):
        cards.append(report.table(TESTS, rows))
    if rows := prediction_rows(found):
        cards.append(report.table(PREDICTIONS, rows))
    if found.crossed:
        cards.append(
            report.table(("where laws cross",), [(line,) for line in crossing_lines(found)])
        )
    return cards


def _drawn(group: Fitted, c_max: float | None) -> report.Fitted:
    runs = group.runs
    largest = float(runs.compute.max())
    known = largest if c_max is None else min(c_max, largest)
    grid = np.geomspace(runs.compute.min(), largest * _BEYOND, _DRAWN)
    grid = np.sort(np.r_[grid, known])
    low, high = group.interval(grid)
    points = list(zip(runs.compute.tolist(), runs.error.tolist(), strict=True))
    curve = zip(grid.tolist(), group.law(grid).tolist(), low.tolist(), high.tolist(), strict=True)
    return report.Fitted(
        name=runs.name,
        runs=[point for point in points if point[1] > 0],
        points=[points[at] for at in group.on],
        curve=list(curve),
        known=known,
    )
