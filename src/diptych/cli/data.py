"""Make, filter and annotate data: worlds, filters, wrong captions, descriptions, labels of pages.

A world is drawn by a program, and named with its options, as in `scenes:size=96:number=2`.
"""

from pathlib import Path
from typing import Any

from diptych.cli import (
    _contrast,
    _curate,
    _describe,
    _documents,
    _interleave,
    _negatives,
    _refine,
    _rewrite,
    _vary,
)
from diptych.cli._data_help import WORDS, list_words, narrow
from diptych.cli._model import EMBEDDERS, add_device, add_engine, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_table
from diptych.cli._world import COUNT, open_world
from diptych.errors import InputError, unknown

GROUP = "Look up"
USAGE = "COMMAND SOURCE --out PATH [options]"
EXAMPLES = (
    "diptych data make scenes:size=96 --count 5000 --out shards/",
    "diptych data make reports:split=test --count 500 --form ms-cxr --out phrases/",
    "diptych data show scenes:edits=all:styles=seen --out page.html",
    "diptych data filter 'shards/*.tar' --rules shorter_side=None:vocabulary=50000 --out kept.npz",
    "diptych data curate 'pool/*.tar' --queries pets/ --k 8 --drop-near test/ --model tiny --out kept.npz",
    "diptych data vary scenes:number=2 --count 500 --model tiny --out varied/",
    "diptych data vary coco.json --by sd2-inpainting/ --portrayals words.json --model hf:clip/ --out varied/",
    "diptych data negatives diagrams:edits=all --kinds edits+rule+retrieval --count 1000 --out lists/",
    "diptych data pages reports/ --out pages.jsonl",
    "diptych data label pages.jsonl --model openclip:ViT-B-32/openai --positive 0.35 --negative 0.18 --out auto.jsonl",
    "diptych data ratings ratings.csv --out human.jsonl",
    "diptych data describe pets/ --by templates --prompt 'a photo of a {} | one {}' --out bank.json",
    "diptych data describe pets/ --by hf-lm:llm/ --prompt ask.txt --each 10 --out bank.json",
    "diptych data interleave films/ --captions runs/captions --by hf-lm:llm/ --out documents.tsv",
    "diptych data rewrite 'cc3m/*.tar' --model openclip:ViT-B-16/openai --gallery names.txt --out rewritten.jsonl",
    "diptych data contrast 'edited/*.tar' --model openclip:ViT-B-32/openai --differs runs/shapes --out pairs/",
    "diptych data contrast photos.csv --role caption --flips 500 --by hf-lm:llm/ --out pairs/",
    "diptych data refine tiles/ --by captions.json --model openclip:ViT-B-32/openai --negative 5% --out refined.jsonl",
)
_OPTIONS = {  # the options that each word accepts
    "make": ("count", "seed", "start", "shard", "form"),
    "show": ("count", "seed", "start"),
    "filter": ("rules", "role", "test", "engine"),
    "curate": _curate.OPTIONS,
    "vary": _vary.OPTIONS,
    "negatives": _negatives.OPTIONS,
    "pages": (),
    "label": ("model", "positive", "negative", "page", "role", "device"),
    "ratings": ("votes",),
    "describe": _describe.OPTIONS,
    "interleave": _interleave.OPTIONS,
    "rewrite": _rewrite.OPTIONS,
    "contrast": _contrast.OPTIONS,
    "refine": _refine.OPTIONS,
}
_NAMED = {  # what is named behind a word, where it is no source, and an example
    "make": ("world", "scenes"),
    "show": ("world", "scenes"),
    "pages": ("document", "report.pdf"),
    "ratings": ("table", "ratings.csv"),
}
_FORMS = ("shards", "ms-cxr")
_OF_SOURCES = (
    "filter",
    "curate",
    "vary",
    "negatives",
    "pages",
    "label",
    "ratings",
    "describe",
    "interleave",
    "rewrite",
    "contrast",
    "refine",
)  # not only on worlds


def add(parser: Parser) -> None:
    parser.option("What", "what", help="command")
    parser.option("What", "world", help="source")
    parser.option("How", "--out", metavar="PATH", help="file or folder to write")
    parser.option(
        "How",
        "--count",
        type=int,
        least=1,
        metavar="N",
        help=f"number of samples (default: {COUNT})",
    )
    parser.option("How", "--seed", type=int, metavar="N", help="random seed (default: 0)")
    parser.option(
        "How",
        "--start",
        type=int,
        least=0,
        metavar="N",
        help="number of the first sample of the world (default: 0)",
    )
    parser.option(
        "How", "--shard", type=int, least=1, metavar="N", help="samples per shard (default: 1000)"
    )
    parser.option(
        "How",
        "--form",
        metavar="NAME",
        help="shards (default), or ms-cxr: images and a table of phrases with boxes",
    )
    parser.option("How", "--rules", metavar="KEY=VALUE:…", help="limits of the rules")
    parser.option(
        "How",
        "--test",
        metavar="SOURCE",
        action="append",
        help="test data, whose images and those that look alike are dropped; may be repeated",
    )
    parser.option("How", "--role", metavar="ROLE", help="role of the texts")
    parser.option("How", "--each", type=int, least=1, metavar="N", help="number of texts")
    parser.option("How", "--model", metavar="MODEL", help=EMBEDDERS)
    parser.option("How", "--by", metavar="WRITER", help="writer")
    parser.option(
        "How",
        "--positive",
        metavar="X|N%",
        help="cosine above which a sentence is visual, or the highest N%% (default: 1%%)",
    )
    parser.option(
        "How",
        "--negative",
        metavar="X|N%",
        help="cosine below which a sentence is not visual, or the lowest N%% (default: 5%%)",
    )
    parser.option(
        "How",
        "--page",
        metavar="FIELD",
        help="label or text role that names the page of a sample (default: page_id)",
    )
    parser.option(
        "How",
        "--votes",
        type=int,
        least=1,
        metavar="N",
        help="votes of one kind that a label needs (default: more than half, such as 5 of 9)",
    )
    for part in (_curate, _vary, _negatives, _describe, _interleave, _rewrite, _contrast, _refine):
        part.add(parser)
    add_engine(parser)
    add_device(parser)


def extend(parser: Parser, words: list[str]) -> list[str]:
    """Make the help that of the command in the words, or the list of all commands."""
    if parser.wants_help(words):
        name = next(iter(parser.positionals(words)), "")
        if name in WORDS:
            narrow(parser, name, _OPTIONS[name], EXAMPLES)
        else:
            list_words(parser, tuple(EXAMPLES[at] for at in (0, 2, 3, 11)))
    return words


def run(args: Namespace) -> None:
    if args.what not in _OPTIONS:
        raise unknown("word behind `diptych data`", args.what or "", _OPTIONS)
    if not args.world:
        what, such = _NAMED.get(args.what, ("source", "scenes"))
        raise InputError(f"diptych data {args.what} has no {what}; name one, such as {such}")
    if "out" not in args:
        raise InputError(f"diptych data {args.what} has nowhere to write; give --out")
    for name in dict.fromkeys(name for options in _OPTIONS.values() for name in options):
        if name in args and name not in _OPTIONS[args.what]:
            others = [what for what, options in _OPTIONS.items() if name in options]
            *before, last = [f"`data {word}`" for word in others]
            where = f"{', '.join(before)} and {last}" if before else last
            raise InputError(f"--{name} goes with {where}, not with `data {args.what}`")
    out = Path(args.out)
    if args.what in _OF_SOURCES:
        works = {
            "filter": _filter,
            "curate": _curate.run,
            "vary": _vary.run,
            "negatives": _negatives.run,
            "pages": _documents.pages,
            "label": _label,
            "ratings": _documents.ratings,
            "describe": _describe.run,
            "interleave": _interleave.run,
            "rewrite": _rewrite.run,
            "contrast": _contrast.run,
            "refine": _refine.run,
        }
        works[args.what](args, out)
        return
    source = open_world(args)
    if args.what == "make":
        _make(source, out, args)
        return
    _show(source, out)


def _show(source: Any, out: Path) -> None:
    """Write the page of a world's samples."""
    from diptych.viewer.checked import of_world
    from diptych.viewer.file import page, refuse_folder, write

    refuse_folder(out)
    with progress("drawing") as report:
        html = page(of_world(source), count=len(source), progress=report)
    write(html, out)
    print(f"{out} shows {len(source)} samples of {source.name}")


def _filter(args: Namespace, out: Path) -> None:
    """Write the list of kept pairs, and show how many each rule dropped."""
    from diptych.data.sources import filtered as kept
    from diptych.data.sources import open_source
    from diptych.engines import Ray
    from diptych.methods.pretrain.align.filter import Rules, filtered
    from diptych.spec import configure, parse

    _documents.check_list(out)
    limits = parse(f"rules:{args.rules}").options if "rules" in args else {}
    rules = configure(Rules, limits, "--rules")
    workers = Ray.parse(args.engine) if "engine" in args else 0
    source = open_source(args.world)
    role = args.get("role", "caption")
    tests = [open_source(spec) for spec in args.get("test", ())]
    with progress("reading") as report:
        found = filtered(source, rules, role=role, tests=tests, workers=workers, progress=report)
    left = int((found.reasons < 0).sum())
    pairs = len(found.reasons)
    if not left:
        drops = {name: count for name, count in found.counts().items() if count}
        if found.damaged:
            drops["samples that cannot be read"] = len(found.damaged)
        listed = ", ".join(f"{name} {count:,}" for name, count in drops.items()) or "there is none"
        raise InputError(
            f"no pair of {args.world} is kept ({listed}); loosen --rules, or name another source"
        )
    kept.write(out, args.world, source, role, found.samples, found.texts, found.reasons)
    rows = [(name, f"{count:,}", f"{count / pairs:.1%}") for name, count in found.counts().items()]
    show_table(
        f"{args.world}: {pairs:,} pairs",
        ("rule", "drops", "of all"),
        [*rows, ("kept", f"{left:,}", f"{left / pairs:.1%}")],
    )
    if found.damaged:
        print(
            f"{len(found.damaged):,} samples cannot be read and are left out; `diptych check` tells which"
        )
    print(f"{out} lists what is kept; read it as filtered:{out}")


def _label(args: Namespace, out: Path) -> None:
    """Write the table of labelled sentences, and show how many there are of each kind."""
    from diptych.data.sources import open_source
    from diptych.methods.adapt.visualness.pages import label, write

    _documents.check_table(out, "the labelled sentences")
    if "model" not in args:
        raise InputError(
            f"diptych data label has no model to compare with; name {EMBEDDERS} with --model"
        )
    source = open_source(args.world)
    settings = {
        name: args[name] for name in ("positive", "negative", "page", "role") if name in args
    }
    model = load_model(args.model, args)
    with progress("comparing") as report:
        found = label(source, model, progress=report, **settings)
    count = write(found, source, out)
    total = len(found.texts)
    between = ~(found.visual | found.other)
    kinds = {
        "visual": (found.visual, f"above {found.positive:.3f}"),
        "not": (found.other, f"below {found.negative:.3f}"),
        "left out": (between, "between"),
    }
    rows = [
        (name, f"{int(which.sum()):,}", f"{which.mean():.1%}", reported)
        for name, (which, reported) in kinds.items()
    ]
    show_table(
        f"{args.world}: {total:,} sentences of {len(set(found.pages)):,} pages",
        ("kind", "sentences", "of all", "cosine"),
        rows,
    )
    if found.alone:
        print(f"{found.alone:,} pages have no image and are left out")
    if found.damaged:
        print(f"{len(found.damaged):,} samples cannot be read whole; `diptych check` tells which")
    print(
        f"{out} holds {count:,} sentences; train with: diptych train visualness --init MODEL --data {out} --out RUN"
    )


def _make(source: Any, out: Path, args: Namespace) -> None:
    form = args.get("form", "shards")
    if form not in _FORMS:
        raise unknown("form of `data make`", form, _FORMS)
    if form == "ms-cxr":
        from diptych.data.sources import ms_cxr

        if "shard" in args:
            raise InputError("--shard goes with shards; leave it out, or --form")
        with progress("writing") as report:
            phrases = ms_cxr.write(source, out, progress=report)
        print(f"{out / ms_cxr.FILE} holds {phrases:,} phrases with their boxes")
        return
    from diptych.data.shards import PER_SHARD, write_shards

    with progress("writing") as report:
        paths = write_shards(source, out, per_shard=args.get("shard", PER_SHARD), progress=report)
    size = sum(path.stat().st_size for path in paths) / 1e6
    print(
        f"{out} holds {len(source):,} samples in {len(paths)} shards, {size:.1f} MB; read them as '{out}/*.tar'"
    )
