"""Find images, regions or texts by a text, by an image, or by an image and a text that changes it.

The query is compared with every embedding, or with those that the index of `diptych index` selects. It
is embedded by the model that made the folder.
"""

from typing import Any

from diptych.cli._model import add_device, add_precision, add_weights, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import show_json, show_table
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "EMB 'some words' | EMB --image FILE ['more of this'] [--minus 'less of that'] [options]"
EXAMPLES = (
    "diptych search emb 'two dogs on a beach' -k 10",
    "diptych search emb 'two dogs on a beach' --rerank 50",
    "diptych search emb --image query.jpg --json",
    "diptych search clips --image wave.gif --frames 8",
    "diptych search emb --image red-house.jpg blue --minus red",
    "diptych search emb 'running shoes' --where \"price < 80 and brand in ('acme', 'apex')\"",
    "diptych search lancedb:shop 'running shoes'",
)


def add(parser: Parser) -> None:
    parser.option("What", "emb", help="folder made by `diptych embed`, or lancedb:PATH")
    parser.option("What", "text", help="text to search for, in quotes")
    parser.option(
        "What",
        "--image",
        metavar="FILE",
        help="image or video to search for, alone or together with a text",
    )
    parser.option(
        "What",
        "--frames",
        type=int,
        least=1,
        metavar="N",
        help="read N frames of --image: a video, a GIF, or a folder of frames",
    )
    parser.option(
        "What",
        "--minus",
        metavar="WORDS",
        help="text that results should not match; its embedding is subtracted",
    )
    parser.option(
        "What",
        "--where",
        metavar="FILTER",
        help="filter of rows, such as \"price < 20 and brand = 'acme'\" (columns of `diptych embed "
        "--columns`)",
    )
    parser.option(
        "How",
        "-k",
        type=int,
        least=1,
        dest="k",
        metavar="N",
        help="number of results (default: 10)",
    )
    parser.option(
        "How",
        "--rerank",
        type=int,
        least=1,
        metavar="N",
        help="re-rank the N nearest images by the model's matching score with the text",
    )
    parser.option("How", "--model", metavar="MODEL", help="current path of the model, if it moved")
    parser.option(
        "More", "--exact", type=bool, help="compare with every embedding, even if there is an index"
    )
    parser.option("More", "--json", type=bool, help="print JSON instead of a table")
    add_precision(parser)
    add_device(parser)
    add_weights(parser)


def run(args: Namespace) -> None:
    if not args.emb:
        raise InputError(
            "diptych search has no folder; name one that `diptych embed RUN SOURCE --out EMB` made"
        )
    if args.text is None and "image" not in args:
        raise InputError(
            "diptych search has nothing to look for; give some words in quotes, or --image FILE"
        )
    from diptych.embeddings.addresses import open_searchable
    from diptych.embeddings.columns import SIDES
    from diptych.embeddings.query import made_by, query

    if "frames" in args and "image" not in args:
        raise InputError("--frames says how a clip is read; name it with --image FILE")
    image = _clip(args.image, args.frames) if "frames" in args else args.get("image")
    index = open_searchable(args.emb, exact=bool(args.get("exact")), several=True)
    manifest = index.manifest
    if "where" in args:
        index.passing(args.where)  # raises its errors before the model is loaded
    spec, weights = made_by(args.emb, manifest, args.get("model"), args.get("weights"))
    model = load_model(spec, args, weights=weights, share=manifest.share, space=manifest.space)
    hits = query(
        model,
        index,
        text=args.text,
        image=image,
        minus=args.get("minus"),
        where=args.get("where"),
        k=args.get("k", 10),
        rerank=args.get("rerank", 0),
    )
    if args.get("json"):
        show_json(hits.records())
        return
    kept = dict.fromkeys(name for hit in hits for name in hit.columns)
    rows = [
        (
            hit.rank,
            hit.score,
            *([hit.match] if "rerank" in args else []),
            hit.key,
            hit.caption or "",
            *(map(round, hit.box) if hit.box else ()),
            *("" if hit.columns.get(name) is None else hit.columns[name] for name in kept),
            hit.image_path,
        )
        for hit in hits
    ]
    given = [args.get("image"), f"“{args.text}”" if args.text is not None else None]
    asked = " + ".join(part for part in given if part) + (
        f" - “{args.minus}”" if "minus" in args else ""
    )
    asked += f" where {args.where}" if "where" in args else ""
    matched = ("match",) if "rerank" in args else ()
    sides = SIDES if manifest.rows == "regions" else ()
    columns = ("#", "cosine", *matched, "key", "caption", *sides, *kept, "file")
    if not any(hit.image_path for hit in hits):  # images in tars are not separate files
        columns = columns[:-1]
        rows = [row[:-1] for row in rows]
    note = "" if hits else "no row passes the filter"
    if hits.rerank_seconds is not None:
        note = f"{min(args.rerank, len(index))} images matched in {hits.rerank_seconds:.1f} s"
    show_table(f"{asked} in {len(index):,} {index.manifest.rows}", columns, rows, note)


def _clip(path: str, frames: int) -> Any:
    """Return the clip that is queried."""
    from diptych.data.endings import ANIMATED, IMAGES, ending
    from diptych.data.sources import open_source

    if ending(path) in IMAGES and ending(path) not in ANIMATED:
        raise InputError(
            f"--image {path} is one image and has no frames; leave out --frames, or name a video, a GIF or a folder "
            "of frames"
        )
    found = open_source(f"{path}:frames={frames}")
    if len(found) != 1 or "images.frames" not in found.schema():
        raise InputError(f"--image {path} holds {len(found)} images or clips; name one clip")
    return found[0].images["frames"]
