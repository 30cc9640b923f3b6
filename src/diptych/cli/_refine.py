"""`diptych data refine`: captions without sentences that say nothing of their image."""

from pathlib import Path
from typing import Any

from diptych.cli._documents import check_table
from diptych.cli._model import load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show_table
from diptych.errors import InputError

OPTIONS = ("by", "model", "negative", "rules", "role", "without", "whole", "device")


def add(parser: Parser) -> None:
    """Add the options of its own."""
    parser.option(
        "How",
        "--without",
        metavar="WORD,…",
        help="words that captions must not tell, besides the names of indicators",
    )


def run(args: Namespace, out: Path) -> None:
    """Write the refined captions of a source, and show how many sentences each rule dropped."""
    check_table(out, "refined captions")
    if "negative" in args and "model" not in args:
        raise InputError(
            "--negative compares sentences with images by a model; name one with --model"
        )
    from diptych.data.descriptions import read_lists
    from diptych.data.sources import open_source
    from diptych.data.sources import refined as written
    from diptych.methods.domain.urbanclip.refine import REASONS, Rules, refined
    from diptych.spec import configure, parse

    limits = parse(f"rules:{args.rules}").options if "rules" in args else {}
    rules = configure(Rules, limits, "--rules")
    source = open_source(args.world)
    role = args.get("role", "caption")
    options: dict[str, Any] = {"role": role, "whole": bool(args.get("whole"))}
    if "by" in args:
        if not args.by.endswith(".json"):
            raise InputError(
                f"--by {args.by}: captions by key are a .json file; `diptych data describe {args.world} --images` "
                "writes one"
            )
        options["given"] = read_lists(args.by, "key")
    if "without" in args:
        options["without"] = [word for word in args.without.split(",") if word.strip()]
    if "negative" in args:
        options["negative"] = args.negative
    model: Any = load_model(args.model, args) if "model" in args else None
    with progress("comparing") as report:
        found = refined(source, rules, model=model, progress=report, **options)
    written.write(out, args.world, source, role, found.captions)
    total = found.sentences
    kept = total - sum(found.dropped.values())
    counts = [(name, found.dropped[name]) for name in REASONS if found.dropped[name]]
    rows = [(name, f"{n:,}", f"{n / total:.1%}") for name, n in [*counts, ("kept", kept)]]
    show_table(f"{args.world}: {total:,} sentences", ("rule", "drops", "of all"), rows)
    if left := sum(not texts for texts in found.captions):
        say(f"{left:,} samples have no caption left and are left out")
    if found.bad:
        reasons = ", ".join(f"{n} {reason}" for reason, n in found.bad.most_common())
        say(f"samples that cannot be read: {reasons}")
    print(
        f"{out} holds the captions; train with: diptych train urbanclip --data refined:{out} --out RUN"
    )
