"""`diptych.check`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from diptych.data.check import Classes, Report, Spread
from diptych.data.check import check as check_source
from diptych.data.sample import Source
from diptych.data.sources import DataLike, open_source
from diptych.data.tokenizers import build
from diptych.engines import Ray
from diptych.errors import InputError
from diptych.results import Tabular
from diptych.training.config import resolve
from diptych.training.estimate import Estimate, TooFew, estimate
from diptych.training.run import texts_of


@dataclass(frozen=True)
class Checked(Tabular):
    """What is in a source (`report`), and what training on it costs (`training`; None if no method
    is given, and clip cannot train on it)."""

    report: Report
    training: Estimate | None

    @property
    def title(self) -> str:  # type: ignore[override]
        """The source and the number of its samples."""
        return f"{self.report.source}: {self.report.samples:,} samples"

    def rows(self) -> list[tuple[str, str, str]]:
        """What was looked for, what was found, and examples."""
        return [*_rows(self.report), *(_cost_rows(self.training) if self.training else [])]

    def records(self) -> list[dict[str, str]]:
        """The rows by column."""
        return [dict(zip(("what", "found", "such as"), row, strict=True)) for row in self.rows()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        cost = asdict(self.training) if self.training else None
        return {**self.report.to_dict(), "training": cost}


def check(
    data: DataLike,
    *,
    val: DataLike | None = None,
    method: str | None = None,
    preset: str = "small",
    batch_size: int | None = None,
    chunk: int | None = None,
    size: int = 224,
    tokenizer: str = "bpe",
    workers: int = 0,
    engine: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Read every sample of data once: damage, duplicates, captions, leakage from `val`, and what
    training costs here.

    - `method`, `preset`, `batch_size` and `chunk` are what memory and time are estimated for; the
      default is clip where the data suit it.
    - `batch_size` is also that of false negatives, by default 256.
    - `size` is the side in pixels of training images.
    - `workers` is the number of processes that read; in their place `engine`, such as "ray" or
      "ray:HOST:PORT", names a cluster.
    """
    if engine is not None and workers:
        raise InputError("a cluster has workers of its own; leave out workers, or engine")
    source = open_source(data)
    texts = texts_of({"train": source})
    first = next(texts, None)  # images alone need no tokenizer
    found = check_source(
        source,
        val=None if val is None else open_source(val),
        tokenizer=None if first is None else build(tokenizer, [first, *texts]),
        batch_size=batch_size or 256,
        size=size,
        workers=workers if engine is None else Ray.parse(engine),
        progress=progress,
    )
    cost = None
    if first is not None and len(found.damaged) < found.samples:
        recipe = {"batch_size": batch_size, "chunk": chunk}
        given = {name: value for name, value in recipe.items() if value is not None}
        cost = _estimate(source, method, preset, given)
    return Checked(found, cost)


def _estimate(
    source: Source, method: str | None, preset: str, recipe: dict[str, Any]
) -> Estimate | None:
    """Estimate memory and time of training; None where no method was asked for and the source lacks
    what clip reads, or samples for a batch."""
    if method is None and not {"images.main", "texts.caption"} <= source.schema().keys():
        return None  # clip is only the default
    config = resolve(method or "clip", {"train": source.name}, preset=preset, recipe=recipe)
    try:
        return estimate(config, {"train": source})
    except TooFew:
        if method is not None:
            raise
        return None


def _rows(found: Report) -> list[tuple[str, str, str]]:
    captions = found.captions
    negatives = found.false_negatives
    leakage = found.leakage
    cost = found.cost
    rows = [("damaged", f"{len(found.damaged):,} ({found.bad_share:.2%})", "")]
    for reason, count in sorted(found.damage.items()):
        rows.append(
            (
                f"  {reason}",
                f"{count:,}",
                _some(key for key, why in found.damaged.items() if why == reason),
            )
        )
    has_images = found.widths.max > 0
    if has_images:
        again = found.duplicates
        alike = found.alike
        rows += [
            ("width, height", f"{_spread(found.widths)} x {_spread(found.heights)} pixels", ""),
            ("the same image again", f"{again.images:,}", _some(map(" = ".join, again.groups))),
            ("nearly the same image", f"{alike.images:,}", _some(map(" ~ ".join, alike.groups))),
        ]
    for label in found.labels:
        rows += _label_rows(label)
    rows += [
        ("captions", f"{captions.count:,}, {_spread(captions.per_sample)} a sample", ""),
        ("length in letters", _spread(captions.characters), ""),
    ]
    if captions.tokens is not None:
        rows += [
            ("length in tokens", _spread(captions.tokens), ""),
            (
                f"cut at {captions.context} tokens",
                f"{captions.cut:,} captions lose {captions.lost:,} tokens",
                "",
            ),
        ]
    often = _some(f"{text!r} ({count} times)" for text, count in negatives.captions)
    rows.append(
        (
            "false negatives",
            f"{negatives.per_sample:.2f} a sample in a batch of {negatives.batch:,}",
            often,
        )
    )
    if leakage is not None:
        rows += [
            (
                "validation data in here",
                f"{leakage.same_image:,} of {leakage.samples:,} images",
                "",
            ),
            ("", f"{leakage.alike_image:,} that are nearly the same", _some(leakage.examples)),
            ("", f"{leakage.same_caption:,} with an equal caption", ""),
        ]
    if not has_images:
        return rows
    return [
        *rows,
        ("stored images", _bytes(cost.stored_bytes), ""),
        (
            "a batch in memory",
            f"{_bytes(cost.batch_bytes)} of pixels, {_bytes(cost.similarity_bytes)} of logits",
            "",
        ),
        (
            "reading an epoch",
            f"{cost.epoch_seconds:,.1f} s in one process, {cost.read_ms:.1f} ms an image",
            "",
        ),
    ]


def _label_rows(classes: Classes) -> list[tuple[str, str, str]]:
    counts = [count for count in classes.counts.values() if count]
    held = f", {_spread(Spread.of(counts))} samples in each" if counts else ""
    largest = sorted(classes.counts.items(), key=lambda item: -item[1])
    rows = [
        (
            f"classes of label {classes.label}",
            f"{len(classes.counts):,}{held}",
            _some(f"{name} {count:,}" for name, count in largest if count),
        )
    ]
    if classes.empty:
        rows.append(("  without a sample", f"{len(classes.empty):,}", _some(classes.empty)))
    if classes.without:
        rows.append(("  samples of no class", f"{classes.without:,}", ""))
    if classes.images:
        shown = (f"{' = '.join(keys)} ({', '.join(names)})" for keys, names in classes.twice)
        rows.append(("  images in two classes", f"{classes.images:,}", _some(shown)))
    return rows


def _cost_rows(cost: Estimate) -> list[tuple[str, str, str]]:
    pieces = f" in pieces of {cost.chunk:,} tokens" if cost.chunk else ""
    return [
        (
            f"training {cost.method} ({cost.preset})",
            f"{cost.parameters:,} parameters, batch {cost.batch_size:,}",
            "",
        ),
        (
            "memory",
            f"{_bytes(cost.state_bytes)} of state, {_bytes(cost.batch_bytes)} for a batch{pieces}",
            "",
        ),
        (
            "time here",
            f"{cost.step_seconds:,.2f} s a step, {cost.epoch_seconds:,.0f} s an epoch",
            "",
        ),
    ]


def _spread(spread: Any) -> str:
    if spread.min == spread.max:
        return f"{spread.max:g}"
    return f"{spread.min:g} to {spread.max:g} (half up to {spread.median:g})"


def _some(items: Any, most: int = 3) -> str:
    items = [*items]
    return ", ".join(items[:most]) + (", …" if len(items) > most else "")


def _bytes(count: float) -> str:
    """Format a size for people.

    >>> _bytes(1_540_000)
    '1.5 MB'
    """
    unit = "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if count < 1000:
            break
        count = count / 1000
        unit = larger
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
