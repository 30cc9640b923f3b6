"""`diptych data pages`: the texts and images of HTML and PDF files as a table of pages."""

from pathlib import Path

from diptych.cli._parser import Namespace
from diptych.cli._screen import progress, show, show_table
from diptych.errors import InputError, some


def pages(args: Namespace, out: Path) -> None:
    """Write the table of pages, and show what documents had and what was left out."""
    from diptych.methods.adapt.visualness.documents import write

    check_table(out, "the pages")
    with progress("reading") as report:
        found = write(Path(args.world).expanduser(), out, report)
    rows = [("pages", found.pages), ("texts", found.texts), ("images", found.images)]
    left_out = [(f"left out: {reason}", count) for reason, count in found.left_out.items()]
    show_table(args.world, ("of documents", "count"), [*rows, *left_out])
    if found.damaged:
        names = some(f"{name} ({reason})" for name, reason in found.damaged.items())
        show(f"{len(found.damaged):,} documents cannot be read and are left out: {names}")
    show(f"{out} holds them; label with: diptych data label {out} --model MODEL --out LABELS.jsonl")


def check_table(out: Path, what: str) -> None:
    """Raise InputError for a path that is no .jsonl file."""
    if out.suffix != ".jsonl":
        raise InputError(f"{out}: {what} are a .jsonl file; give --out {out.with_suffix('.jsonl')}")
