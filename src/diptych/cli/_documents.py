"""`diptych data pages`: the texts and images of HTML and PDF files as a table of pages; `diptych data
ratings`: ratings of sentences by several people as labels."""

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


def ratings(args: Namespace, out: Path) -> None:
    """Write the table of labelled sentences, and show how many there are of each kind and how far
    people agree."""
    from diptych.methods.adapt.visualness.ratings import alpha, labels, read, write

    check_table(out, "the labelled sentences")
    rated = read(args.world)
    found = labels(rated.ratings, args.get("votes"))
    count = write(rated, found, out)
    kinds = {"visual": 1, "not": 0, "ambiguous, left out": -1}
    rows = [
        (name, f"{int((found == kind).sum()):,}", f"{(found == kind).mean():.1%}")
        for name, kind in kinds.items()
    ]
    agreement = alpha(rated.ratings)
    people = f"{len(found):,} sentences rated by {len(rated.people)} people"
    note = f"agreement: Krippendorff's alpha {agreement:.3f} (ordinal)"
    show_table(f"{args.world}: {people}", ("kind", "sentences", "of all"), rows, note)
    show(f"{out} holds {count:,} sentences")
    lacking = sum(
        kind == 1 and "image" not in row for row, kind in zip(rated.rows, found, strict=True)
    )
    if lacking:
        show(f"{lacking:,} visual ones have no image: they serve to calibrate and to evaluate")


def check_list(out: Path) -> None:
    """Raise InputError for a path that is no .npz file, or that is a folder."""
    from diptych.files import check_file

    if out.suffix != ".npz":
        raise InputError(
            f"{out}: the list of what is kept is a .npz file; give --out {out.with_suffix('.npz')}"
        )
    check_file(out)


def check_table(out: Path, what: str) -> None:
    """Raise InputError for a path that is no .jsonl file, or that is a folder."""
    from diptych.files import check_file

    if out.suffix != ".jsonl":
        raise InputError(f"{out}: {what} are a .jsonl file; give --out {out.with_suffix('.jsonl')}")
    check_file(out)
