"""Rank prompts by how well the next-token state summarizes the image or text, before any training.

A vision-language model, such as a run of cg_vlm, reads each prompt after the same images and short
texts. Prompts come first whose next token has a high entropy, and whose embeddings have a high
effective rank.
"""

from typing import Any

from diptych.cli._model import add_batch_size, add_device, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say, show, show_json, show_table
from diptych.errors import InputError, unknown

GROUP = "Use a model"
USAGE = "MODEL SOURCE [options]"
EXAMPLES = (
    "diptych prompts runs/aligned photos.csv",
    "diptych prompts runs/aligned 'shards/*.tar' --candidates prompts.txt --side image --count 64 --json",
)
_SHOWN = 10  # prompts in a table
_SIDES = ("image", "text", "both")


def add(parser: Parser) -> None:
    parser.option(
        "What", "model", help="a RUN that reads images with a language model, or tiny-vlm"
    )
    parser.option("What", "source", help="images with captions: a table, shards, a folder, …")
    parser.option(
        "What",
        "--candidates",
        metavar="FILE.txt",
        help="prompts, one per line, with {} for the word image or text (default: 50 built-in ones)",
    )
    parser.option(
        "What", "--side", metavar="NAME", help="prompts for image, text or both (default: both)"
    )
    parser.option(
        "What", "--role", metavar="ROLE", help="role of the texts (default: caption, or the first)"
    )
    parser.option(
        "How",
        "--count",
        type=int,
        least=2,
        metavar="N",
        help="number of samples to read (default: 256)",
    )
    add_batch_size(parser, "samples")
    parser.option("More", "--json", type=bool, help="print JSON, of all prompts, instead of tables")
    add_device(parser)


def run(args: Namespace) -> None:
    for name, wanted in (("model", "a RUN"), ("source", "images with captions")):
        if not args[name]:
            raise InputError(f"diptych prompts has no {name}; name {wanted}")
    side = args.get("side", "both")
    if side not in _SIDES:
        raise unknown("side", side, _SIDES)
    from diptych.data.sources import open_source
    from diptych.inference.prompts import SIDES, candidates, choose, read_candidates
    from diptych.methods.abilities import require

    sides = SIDES if side == "both" else (side,)
    prompts = {
        each: read_candidates(args.candidates, each) if "candidates" in args else candidates(each)
        for each in sides
    }
    source = open_source(args.source)
    model: Any = load_model(args.model, args)
    require(model, "summaries", "diptych prompts", args.model)
    settings = {name: args[name] for name in ("role", "count", "batch_size") if name in args}
    with progress("reading") as report:
        found, bad = choose(model, source, prompts, progress=report, **settings)
    if args.get("json"):
        rows = {each: [vars(row) for row in ordered] for each, ordered in found.items()}
        show_json({"model": args.model, **rows, "bad": dict(bad)})
        return
    for each, ordered in found.items():
        more = len(ordered) - _SHOWN
        show_table(
            f"prompts behind {each}s of {args.source}, by {args.model}",
            ("prompt", "entropy", "effective rank", "mean place"),
            [(row.prompt, row.entropy, row.rank, row.place) for row in ordered[:_SHOWN]],
            f"and {more} more; --json has all" if more > 0 else "",
        )
    for each, ordered in found.items():
        show(f"the first: --method.{each}_prompt '{ordered[0].prompt}'")
    if bad:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
        say(f"left out: {reasons}")
