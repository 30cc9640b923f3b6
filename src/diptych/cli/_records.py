"""What the verbs on records share: options, the linker, and tables that are written."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.cli._model import (
    EMBEDDERS,
    add_batch_size,
    add_device,
    add_exact,
    add_weights,
    load_model,
)
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_json, show_table
from diptych.errors import InputError
from diptych.files import check_file, write_atomic

_SHOWN = 40  # rows in the table


def add_options(parser: Parser) -> None:
    """Add the options of all verbs on records."""
    parser.option(
        "What",
        "--val",
        metavar="SOURCE",
        help="records with known entities, on which thresholds are chosen",
    )
    parser.option(
        "What",
        "--label",
        metavar="LABEL",
        help="with --val: label of the entity (default: entity, or the first)",
    )
    parser.option(
        "What", "--role", metavar="ROLE", help="role of the texts (default: caption, or the first)"
    )
    parser.option("What", "--out", metavar="FILE.csv", help="write the table to this file")
    parser.option(
        "How",
        "--weight",
        type=float,
        metavar="W",
        help="weight of the image in the embedding of a record, from 0 to 1 (default: the model's)",
    )
    add_batch_size(parser, "records")
    add_exact(parser)
    parser.option(
        "More", "--json", type=bool, help="print JSON, of all records, instead of a table"
    )
    add_weights(parser)
    add_device(parser)


def check(verb: str, args: Namespace, *sources: str) -> None:
    """Raise InputError if the model or one of the sources is missing, or --out cannot be written."""
    for name in ("model", *sources):
        if not args[name]:
            raise InputError(
                f"diptych {verb} has no {name}; name {EMBEDDERS if name == 'model' else 'a source of images and texts'}"
            )
    if "label" in args and "val" not in args:
        raise InputError("--label is of --val, which is not given; leave it out")
    if "out" in args:
        out = Path(args.out).expanduser()
        if out.suffix.lower() != ".csv":
            raise InputError(f"--out {args.out} does not end in .csv; name a CSV file")
        if not out.parent.is_dir():
            raise InputError(f"--out {args.out}: there is no folder {out.parent}; make it first")
        check_file(out)


def linker(args: Namespace, **settings: Any) -> Any:
    """Return the linker of the model, with thresholds chosen on --val if it is given."""
    from diptych.data.sources import open_source
    from diptych.inference.link import Linker

    names = ("role", "weight", "batch_size", "exact")
    settings |= {name: args[name] for name in names if name in args}
    val = open_source(args.val) if "val" in args else None
    made = Linker(load_model(args.model, args), **settings)
    if val is not None:
        with progress("choosing thresholds") as report:
            made.progress = report
            made.tune(val, label=args.get("label"))
    return made


def report(
    args: Namespace, title: str, rows: Sequence[Mapping[str, Any]], values: Mapping[str, Any]
) -> None:
    """Write the rows to --out, and show them, or with --json all of them beside the values."""
    columns = list(rows[0])
    if "out" in args:
        write_atomic(Path(args.out).expanduser(), lambda path: _write(path, columns, rows))
    if args.get("json"):
        show_json({**values, "rows": list(rows)})
        return
    shown = [["" if row[name] is None else row[name] for name in columns] for row in rows[:_SHOWN]]
    more = f"; {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
    show_table(f"{title}{more}", columns, shown)
    if "out" in args:
        say(f"{args.out} holds all {len(rows):,} rows")


def left_out(bad: Mapping[str, int]) -> str:
    """Return the end of a title that tells what was left out."""
    return "".join(f"; left out: {count} {reason}" for reason, count in bad.items())


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
