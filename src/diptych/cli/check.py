"""Check a source before training on it: damage, duplicates, captions, leakage, cost.

Every sample is read once; nothing is changed.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_json, show_table
from diptych.errors import InputError

if TYPE_CHECKING:
    from diptych.data.check import Classes, Report
    from diptych.training.estimate import Estimate

GROUP = "Begin here"
USAGE = "SOURCE [--val SOURCE] [options]"
EXAMPLES = (
    "diptych check 'shards/{0000..0099}.tar' --val val.tar",
    "diptych check pairs.csv --batch-size 1024 --json",
)


def add(parser: Parser) -> None:
    parser.option("What", "source", help="a folder, 'shards/*.tar', a table, glyphs, …")
    parser.option(
        "What", "--val", metavar="SOURCE", help="validation data: what of it is in SOURCE too?"
    )
    parser.option(
        "How", "--method", metavar="NAME", help="whose memory and time to estimate (default: clip)"
    )
    parser.option("How", "--preset", metavar="small|paper", help="at which size (default: small)")
    parser.option(
        "How",
        "--batch-size",
        type=int,
        least=1,
        metavar="N",
        help="for false negatives and memory (default: 256)",
    )
    parser.option(
        "How",
        "--chunk",
        type=int,
        least=1,
        metavar="N",
        help="estimate with gradient caching by so many tokens",
    )
    parser.option(
        "How",
        "--size",
        type=int,
        least=1,
        metavar="N",
        help="pixels a side in training (default: 224)",
    )
    parser.option(
        "How",
        "--tokenizer",
        metavar="SPEC",
        help="for token counts (default: bpe, learnt from the texts)",
    )
    parser.option(
        "How", "--workers", type=int, least=0, metavar="N", help="processes that read (default: 0)"
    )
    parser.option("More", "--json", type=bool, help="JSON in place of a table")


def run(args: Namespace) -> None:
    if not args.source:
        raise InputError(
            "diptych check has no data; name a source, such as photos/, pairs.csv or 'shards/*.tar'"
        )
    from diptych.data.check import check
    from diptych.data.sources import open_source
    from diptych.data.tokenizers import build
    from diptych.training.run import texts_of

    settings = {name: args[name] for name in ("batch_size", "size", "workers") if name in args}
    source = open_source(args.source)
    val = open_source(args.val) if "val" in args else None
    texts = texts_of({"train": source})
    first = next(texts, None)  # images alone need no tokenizer
    tokenizer = build(args.get("tokenizer", "bpe"), [first, *texts]) if first is not None else None
    with progress("checking") as report:
        found = check(source, val=val, tokenizer=tokenizer, progress=report, **settings)
    cost = (
        _estimate(args, source)
        if first is not None and len(found.damaged) < found.samples
        else None
    )
    if args.get("json"):
        show_json({**found.to_dict(), "training": asdict(cost) if cost else None})
    else:
        rows = [*_rows(found), *(_cost_rows(cost) if cost else [])]
        show_table(f"{found.source}: {found.samples:,} samples", ("what", "found", "such as"), rows)


def _estimate(args: Namespace, source: Any) -> "Estimate | None":
    """Estimate memory and time of training, if the source has what the method reads."""
    from diptych.training.config import resolve
    from diptych.training.estimate import estimate

    name = args.get("method", "clip")
    schema = source.schema()
    if "method" not in args and not {"images.main", "texts.caption"} <= schema.keys():
        return None  # clip is only the default
    recipe = {option: args[option] for option in ("batch_size", "chunk") if option in args}
    config = resolve(
        name, {"train": args.source}, preset=args.get("preset", "small"), recipe=recipe
    )
    return estimate(config, {"train": source})


def _rows(found: "Report") -> list[tuple[str, str, str]]:
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
    has_images = found.widths.most > 0
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


def _label_rows(classes: "Classes") -> list[tuple[str, str, str]]:
    from diptych.data.check import Spread

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


def _cost_rows(cost: "Estimate") -> list[tuple[str, str, str]]:
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
    if spread.least == spread.most:
        return f"{spread.most:g}"
    return f"{spread.least:g} to {spread.most:g} (half up to {spread.median:g})"


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
