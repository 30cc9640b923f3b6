"""Make data of any size from a world, look at samples of it on a page, filter noisy pairs of any
source, vary its images, label the sentences of documents, or describe classes, images and texts.

A world is named with its options, as `scenes:size=96:number=2`. `make` writes tar shards, which
every command reads (`--data 'DIR/*.tar'`); the world itself needs no disk (`--data
scenes:count=5000`). A run of `make` that was stopped goes on where it was. `filter` drops pairs by
ALIGN's rules of frequency, and writes a list that is read in place of the source (`--data
filtered:FILE`). `vary` puts other things in the place of each object, in the image and in its
captions, by a world or by a diffusion model, and writes what `diptych train generative_negatives`
reads. `label` finds by a model which sentences of a page speak of one of its images, and
writes a table that `diptych train visualness` reads. `describe` asks templates, a world, a language
model or any program for texts about each class, image or text; a source reads those of classes with
`:captions=FILE`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.cli import _describe
from diptych.cli._model import MODELS, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_table
from diptych.errors import InputError, unknown

GROUP = "Look up"
USAGE = (
    "make WORLD --count N --out DIR | show WORLD --out page.html | filter SOURCE --out kept.npz | "
    "vary SOURCE --model MODEL --out DIR | label SOURCE --model MODEL --out labels.jsonl | "
    "describe SOURCE --by WRITER --out texts.json"
)
EXAMPLES = (
    "diptych data make scenes:size=96 --count 5000 --out shards/",
    "diptych data show scenes:edits=all:styles=seen --out page.html",
    "diptych data filter 'shards/*.tar' --rules shorter_side=None:vocabulary=50000 --out kept.npz",
    "diptych data vary scenes:number=2 --count 500 --model tiny --out varied/",
    "diptych data vary coco.json --by sd2-inpainting/ --portrayals words.json --model hf:clip/ --out varied/",
    "diptych data label pages.jsonl --model openclip:ViT-B-32/openai --positive 0.35 --negative 0.18 --out auto.jsonl",
    "diptych data describe pets/ --by templates --prompt 'a photo of a {} | one {}' --out bank.json",
    "diptych data describe pets/ --by hf-lm:llm/ --prompt ask.txt --each 10 --out bank.json",
)
_SHOWN = 12
_COUNT = 1000
_OPTIONS = {  # the options that each word accepts
    "make": ("count", "seed", "start", "shard"),
    "show": ("count", "seed", "start"),
    "filter": ("rules", "role", "test"),
    "vary": ("model", "count", "seed", "by", "portrayals", "variations", "steps", "side"),
    "label": ("model", "positive", "negative", "page", "role"),
    "describe": _describe.OPTIONS,
}
_OF_SOURCES = ("filter", "vary", "label", "describe")  # work on any source, not only on worlds


def add(parser: Parser) -> None:
    parser.option(
        "What",
        "what",
        help="make (tar shards), show (a page of samples), filter (a list of what to keep), vary (images and a "
        "table), label (a table) or describe (texts)",
    )
    parser.option(
        "What",
        "world",
        help="a world with its options, such as scenes or scenes:size=96:seed=1; or a source",
    )
    parser.option(
        "How",
        "--out",
        metavar="PATH",
        help="the folder of the shards, the page, or the list (.npz)",
    )
    parser.option(
        "How",
        "--count",
        type=int,
        least=1,
        metavar="N",
        help=f"how many samples (default: {_COUNT}, or {_SHOWN})",
    )
    parser.option(
        "How", "--seed", type=int, metavar="N", help="which stream of the world (default: 0)"
    )
    parser.option(
        "How",
        "--start",
        type=int,
        least=0,
        metavar="N",
        help="the first sample of the stream (default: 0)",
    )
    parser.option(
        "How", "--shard", type=int, least=1, metavar="N", help="samples a shard (default: 1000)"
    )
    parser.option(
        "How", "--rules", metavar="KEY=VALUE:…", help="limits of filter, None to leave a rule out"
    )
    parser.option(
        "How",
        "--test",
        metavar="SOURCE",
        action="append",
        help="filter drops images that it shows, or that look alike; may be given again",
    )
    parser.option(
        "How",
        "--role",
        metavar="ROLE",
        help="the texts that filter or label looks at (default: caption)",
    )
    parser.option(
        "How",
        "--model",
        metavar="MODEL",
        help=f"label, and vary for the match of captions: {MODELS}",
    )
    parser.option(
        "How",
        "--by",
        metavar="WRITER",
        help="vary: the folder of an inpainting pipeline of diffusers (default: the world itself); describe: "
        "templates, world, FILE.json, cmd:PROGRAM, or a model that generates",
    )
    parser.option(
        "How",
        "--portrayals",
        metavar="FILE",
        help="vary: what an inpainting pipeline paints in the place of which item (JSON)",
    )
    parser.option(
        "How",
        "--variations",
        type=int,
        least=2,
        metavar="N",
        help="vary: variations of each item (default: 4)",
    )
    parser.option(
        "How",
        "--steps",
        type=int,
        least=1,
        metavar="N",
        help="vary: of the diffusion (default: 100)",
    )
    parser.option(
        "How",
        "--side",
        type=int,
        least=8,
        metavar="N",
        help="vary: pixels of the diffusion's crop (default: 512)",
    )
    parser.option(
        "How",
        "--positive",
        metavar="X|N%",
        help="label: visual above this cosine, or the top share (1%%)",
    )
    parser.option(
        "How",
        "--negative",
        metavar="X|N%",
        help="label: not visual below it, or the bottom share (5%%)",
    )
    parser.option(
        "How",
        "--page",
        metavar="FIELD",
        help="label: what samples of one page share (default: page_id)",
    )
    _describe.add(parser)


def run(args: Namespace) -> None:
    if args.what not in _OPTIONS:
        raise unknown("word behind `diptych data`", args.what or "", _OPTIONS)
    if not args.world:
        what = "source" if args.what in _OF_SOURCES else "world"
        raise InputError(f"diptych data {args.what} has no {what}; name one, such as scenes")
    if "out" not in args:
        raise InputError(f"diptych data {args.what} has nowhere to write; give --out")
    for name in dict.fromkeys(name for options in _OPTIONS.values() for name in options):
        if name in args and name not in _OPTIONS[args.what]:
            others = [what for what, options in _OPTIONS.items() if name in options]
            raise InputError(f"--{name} goes with `data {others[0]}`, not with `data {args.what}`")
    out = Path(args.out)
    if args.what in _OF_SOURCES:
        does = {"filter": _filter, "vary": _vary, "label": _label, "describe": _describe.run}
        does[args.what](args, out)
        return
    source = _open(args)
    if args.what == "make":
        _make(source, out, args)
        return
    from diptych.files import write_atomic

    if out.is_dir():
        raise InputError(
            f"{out} is a folder; give a file for the page, such as {out / 'page.html'}"
        )
    with progress("drawing") as report:
        html = page(source, report)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, lambda at: at.write_text(html, "utf-8"))
    print(f"{out} shows {len(source)} samples of {source.name}")


def _filter(args: Namespace, out: Path) -> None:
    """Write the list of kept pairs, and show how many each rule dropped."""
    from diptych.data.sources import filtered as kept
    from diptych.data.sources import open_source
    from diptych.methods.pretrain.align.filter import Rules, filtered
    from diptych.spec import configure, parse

    if out.suffix != ".npz":
        raise InputError(
            f"{out}: the list of what is kept is a .npz file; give --out {out.with_suffix('.npz')}"
        )
    limits = parse(f"rules:{args.rules}").options if "rules" in args else {}
    rules = configure(Rules, limits, "--rules")
    source = open_source(args.world)
    role = args.get("role", "caption")
    tests = [open_source(spec) for spec in args.get("test", ())]
    with progress("reading") as report:
        found = filtered(source, rules, role=role, tests=tests, progress=report)
    kept.write(out, args.world, source, role, found.samples, found.texts, found.reasons)
    left = int((found.reasons < 0).sum())
    pairs = len(found.reasons)
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


def _vary(args: Namespace, out: Path) -> None:
    """Write the variations of a source, and show what was left out."""
    from diptych.data.sources import open_source
    from diptych.data.worlds import cards
    from diptych.methods.robust.generative_negatives.generators import (
        Inpainting,
        WorldVariations,
        read_portrayals,
    )
    from diptych.methods.robust.generative_negatives.vary import FILE, vary
    from diptych.spec import parse

    if out.suffix:
        raise InputError(f"{out}: variations are a folder of images and a table; give a folder")
    if "model" not in args:
        raise InputError(
            f"diptych data vary has no model to score captions by; name {MODELS} with --model"
        )
    if ("by" in args) != ("portrayals" in args):
        raise InputError("--by and --portrayals go together: a pipeline, and what it paints")
    world = parse(args.world).name in cards()
    source = _open(args) if world else open_source(args.world)
    if not world and "count" in args:
        raise InputError(f"--count goes with a world; {args.world} is varied as a whole")
    options = {name: args[name] for name in ("seed", "steps", "side") if name in args}
    generator: Any
    if "by" in args:
        portrayals = read_portrayals(Path(args.portrayals))
        generator = Inpainting(args.by, portrayals, source.schema(), **options)
    else:
        for name in ("steps", "side"):
            if name in options:
                raise InputError(f"--{name} is of a diffusion model; name one with --by")
        generator = WorldVariations(source)
    model = load_model(args.model)
    with progress("varying") as report:
        found = vary(
            source, generator, model, out, count=args.get("variations", 4), progress=report
        )
    rows = [
        ("variations", f"{found.variations:,}"),
        ("groups", f"{found.groups:,}"),
        *((f"left out: {reason}", f"{count:,}") for reason, count in sorted(found.dropped.items())),
    ]
    show_table(f"{args.world}: {len(source):,} samples", ("what", "number"), rows)
    print(
        f"{out / FILE} lists them; train with: diptych train generative_negatives "
        f"--data train={out / FILE} --data pairs=SOURCE --out RUN"
    )


def _label(args: Namespace, out: Path) -> None:
    """Write the table of labelled sentences, and show how many there are of each kind."""
    from diptych.data.sources import open_source
    from diptych.methods.adapt.visualness.pages import label, write

    if out.suffix != ".jsonl":
        raise InputError(
            f"{out}: the labelled sentences are a .jsonl file; give --out {out.with_suffix('.jsonl')}"
        )
    if "model" not in args:
        raise InputError(
            f"diptych data label has no model to compare with; name {MODELS} with --model"
        )
    source = open_source(args.world)
    settings = {
        name: args[name] for name in ("positive", "negative", "page", "role") if name in args
    }
    model = load_model(args.model)
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


def _open(args: Namespace) -> Any:
    """Return the world as a source of --count samples."""
    from diptych.data import worlds
    from diptych.data.sources import worlds as opener
    from diptych.spec import parse

    spec = parse(args.world)
    if spec.name not in worlds.cards():
        raise unknown("world", spec.name, worlds.cards())
    options = {"count": _COUNT if args.what == "make" else _SHOWN} | spec.options
    for name in ("count", "seed", "start"):
        if name in args:
            if name in spec.options:
                raise InputError(
                    f"{name} is given twice, as --{name} and in {args.world!r}; give it once"
                )
            options[name] = args[name]
    return opener.open(type(spec)(spec.name, options))


def _make(source: Any, out: Path, args: Namespace) -> None:
    from diptych.data.shards import PER_SHARD, write_shards

    with progress("writing") as report:
        paths = write_shards(source, out, per_shard=args.get("shard", PER_SHARD), progress=report)
    size = sum(path.stat().st_size for path in paths) / 1e6
    print(
        f"{out} holds {len(source):,} samples in {len(paths)} shards, {size:.1f} MB; read them as '{out}/*.tar'"
    )


_STYLE = (
    "<style>.row{grid-template-columns:repeat(auto-fill,136px)}figure img{width:128px;height:128px;"
    "image-rendering:pixelated}td:first-child{color:var(--soft);vertical-align:top}</style>"
)


def page(source: Any, tell: Any) -> str:
    """Return the page of samples: images, masks, depth, boxes, edits with instructions, and the
    texts of every role."""
    from diptych.lab import report

    parts = [_STYLE]
    for at in range(len(source)):
        sample = source[at]
        shown = _shown(sample, source.schema())
        pieces = [report.strip(shown)] if shown else []
        rows = [_row(text) for text in sample.texts]
        head = ("role", "text", "notes")
        columns = 3 if any(notes for *_, notes in rows) else 2
        pieces.append(report.table(head[:columns], [row[:columns] for row in rows]))
        parts.append(report.section(sample.key, _labels(sample, source.schema()), *pieces))
        tell(at + 1, len(source))
    title = source.world.name
    from diptych.data.worlds import cards

    return report.page(
        title.capitalize(),
        f"{cards()[title]['title']}. Made by {source.name}.",
        *parts,
        _fields(source),
    )


def _fields(source: Any) -> str:
    from diptych.lab import report

    rows = [
        (
            name,
            field.kind + (", not in all" if field.optional else ""),
            _cut(", ".join(field.classes), 160),
        )
        for name, field in source.schema().items()
    ]
    return report.section(
        "Fields", "What each sample holds.", report.table(("field", "kind", "classes"), rows)
    )


def _row(text: Any) -> tuple[str, str, str]:
    notes = [
        f"{name} {_plain(value)}" for name, value in text.attrs.items() if value not in ((), "")
    ]
    return text.role, text.text, "; ".join(notes)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        ", ".join(map(str, value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )


def _labels(sample: Any, schema: Any) -> str:
    parts = []
    for name, value in sample.labels.items():
        field = schema.get(f"labels.{name}")
        if isinstance(value, int) and value < 0:
            continue
        named = (
            field.classes[value]
            if field and field.classes and isinstance(value, int)
            else f"{value:g}"
        )
        parts.append(f"{name}: {named}")
    return ", ".join(parts)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: text.rindex(",", 0, length)] + ", …"


def _shown(sample: Any, schema: Any) -> list[Any]:
    """Return the images, with boxes, coloured masks, depth in grey, and the edits."""
    from diptych.lab.report import Shown

    shown = [
        Shown(image=_grown(image.decode()), caption=role) for role, image in sample.images.items()
    ]
    if "main" in sample.images and sample.boxes:
        image = sample.images["main"].decode()
        names = "\n".join(dict.fromkeys(box.text for box in sample.boxes if box.image == "main"))
        shown.append(Shown(image=_boxed(image, sample.boxes), caption=f"boxes\n{names}"))
    shown += [
        Shown(image=_coloured(mask.decode()), caption=f"mask: {name}")
        for name, mask in sample.masks.items()
    ]
    if "depth" in sample.arrays:
        shown.append(Shown(image=_grey(sample.arrays["depth"]), caption="depth\nnear is light"))
    for edit in sample.edits:
        said = " ".join(edit.captions("instruction"))
        shown.append(
            Shown(
                image=_grown(edit.images["main"].decode()), caption=f"{edit.kind}: {said}", hit=True
            )
        )
    return shown


def _grown(image: Any) -> Any:
    """Double a small image in size, by nearest neighbour."""
    from PIL import Image

    return (
        image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)
        if image.width <= 64
        else image
    )


def _boxed(image: Any, boxes: Any) -> Any:
    from PIL import ImageDraw

    scale = 2 if image.width <= 64 else 1
    image = _grown(image).convert("RGB")
    draw = ImageDraw.Draw(image)
    for box in boxes:
        if box.image == "main":
            x0, y0, x1, y1 = (scale * value for value in box.xyxy)
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline="white", width=3)
            draw.rectangle((x0 + 1, y0 + 1, x1 - 2, y1 - 2), outline="black")
    return image


def _coloured(mask: Any) -> Any:
    """Return numbers as distinct colours; 0 is dark."""
    import colorsys

    palette = [30, 32, 38]
    for number in range(1, 256):
        palette += [
            round(255 * value) for value in colorsys.hsv_to_rgb(number * 0.381966 % 1, 0.55, 0.95)
        ]
    image = mask.copy()
    image.putpalette(palette)
    return _grown(image.convert("RGB"))


def _grey(depth: Any) -> Any:
    import numpy as np
    from PIL import Image

    return _grown(Image.fromarray(np.rint(255 * (1 - depth)).astype(np.uint8)).convert("RGB"))
