"""Embed the images and captions of a source, its regions, or its texts, into a folder to search.

The folder has clip-retrieval's layout (npy and parquet), so that its tools read it too. On several
GPUs: torchrun -m diptych embed. On several machines: --engine ray, or --part 1/N to --part N/N, then
--merge; parts that are done are not embedded again. The result has the same bytes in all cases.
"""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.cli._model import (
    EMBEDDERS,
    add_batch_size,
    add_device,
    add_engine,
    add_exact,
    add_precision,
    add_share,
    add_space,
    add_weights,
    load_model,
)
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import first_rank, progress, say
from diptych.errors import InputError
from diptych.spec import Share

if TYPE_CHECKING:
    from diptych.embeddings.layout import Manifest
    from diptych.embeddings.parts import Part

GROUP = "Use a model"
USAGE = (
    "MODEL SOURCE --out EMB [--regions] [--part K/N | --engine ray] [options] | --merge --out EMB"
)
EXAMPLES = (
    "diptych embed runs/first photos/ --out emb",
    "diptych embed openclip:ViT-B-32/laion2b_s34b_b79k 'shards/{0000..0009}.tar' --out emb",
    "diptych embed tiny products.csv --columns price,brand --out emb",
    "diptych embed runs/clim coco/:split=val2017 --regions --out emb-regions",
    "diptych embed runs/clim photos/ --regions --boxes found.json --out emb-regions",
    "diptych embed tiny 'shards/*.tar' --out emb --part 3/100",
    "diptych embed --merge --out emb",
    "diptych embed tiny 's3://bucket/shards/{0000..0099}.tar' --out /shared/emb --engine ray:auto",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=EMBEDDERS)
    parser.option(
        "What", "source", help="data to embed: a folder, 'shards/*.tar', a table, glyphs, …"
    )
    parser.option("What", "--out", metavar="EMB", help="new folder for the embeddings")
    parser.option(
        "What",
        "--columns",
        metavar="A,B,…",
        help="labels or text roles to store, for `diptych search --where`",
    )
    parser.option(
        "What",
        "--regions",
        type=bool,
        help="embed regions instead of whole images: each box of each image is a row",
    )
    parser.option(
        "What",
        "--boxes",
        metavar="FILE",
        help="with --regions: boxes to use instead of the source's, JSON as printed by `diptych detect "
        "--json`",
    )
    parser.option(
        "What", "--part", metavar="K/N", help="embed only the K-th of N parts, for job arrays"
    )
    parser.option("What", "--merge", type=bool, help="merge the parts that --part made")
    add_engine(parser)
    add_batch_size(parser)
    parser.option(
        "How",
        "--max-bad",
        type=float,
        within=Share,
        metavar="SHARE",
        help="largest accepted share of damaged samples (default: 0.01)",
    )
    parser.option(
        "How",
        "--size",
        type=int,
        least=1,
        metavar="PIXELS",
        help="with --regions: side in pixels to which whole images are resized (default: the model's)",
    )
    add_exact(parser)
    add_precision(parser)
    add_device(parser)
    add_share(parser)
    add_space(parser)
    add_weights(parser)


def run(args: Namespace) -> int:
    try:
        _run(args)
    except KeyboardInterrupt:
        if "out" not in args or not _is_begun(Path(args.out).expanduser()):
            raise
        say("stopped; what is embedded is kept, and the same command goes on")
        return 130
    return 0


def _is_begun(out: Path) -> bool:
    from diptych.embeddings.parts import folder_of
    from diptych.embeddings.writer import unfinished_folder

    return unfinished_folder(out).is_dir() or folder_of(out).is_dir()


def _run(args: Namespace) -> None:
    if args.get("merge"):
        _merge(args)
        return
    if not args.model or not args.source:
        raise InputError(
            "diptych embed has no model or no source; write diptych embed MODEL SOURCE --out EMB"
        )
    if "out" not in args:
        raise InputError("diptych embed has no place to write to; name a new folder with --out EMB")
    ranks = os.environ.get("WORLD_SIZE", "1")
    if "part" in args and ranks != "1":
        raise InputError(
            f"--part {args.part} is of one process, and there are {ranks} ranks, which share the parts out; "
            "leave out --part, or start without torchrun"
        )
    if "engine" in args:
        _spread(args, ranks)
        return
    from diptych.embeddings.embed import embed_source
    from diptych.embeddings.parts import Part

    settings = _settings(args, "batch_size", "max_bad", "exact", "part")
    part = Part.parse(args.part) if "part" in args else None
    was_done = part is not None and part.folder(Path(args.out)).is_dir()
    model = load_model(args.model, args)
    with progress("embedding" if ranks == "1" else f"embedding, rank 0 of {ranks}") as report:
        manifest = embed_source(model, args.source, args.out, progress=report, **settings)
    if not first_rank():
        return
    if part is None:
        _report(args.out, manifest)
    else:
        _report_part(args.out, part, manifest, was_done)


def _settings(args: Namespace, *names: str) -> dict[str, Any]:
    from diptych.embeddings.regions import chosen_regions

    settings = {name: args[name] for name in names if name in args}
    if "columns" in args:
        settings["columns"] = [name.strip() for name in args.columns.split(",") if name.strip()]
    settings["regions"] = chosen_regions(
        bool(args.get("regions")), args.get("boxes"), args.get("size")
    )
    return settings


def _spread(args: Namespace, ranks: str) -> None:
    """Embed on the workers of a cluster, and join what they made."""
    from diptych.engines import Ray

    engine = Ray.parse(args.engine)
    if "part" in args or ranks != "1":
        other = "torchrun" if ranks != "1" else "--part"
        raise InputError(f"--engine {args.engine} shares the parts out; leave out {other}")
    for option, names in (
        ("precision", "float32, bfloat16 or int8"),
        ("backend", "torch, openvino or onnxruntime"),
    ):
        if args.get(option) == "auto":
            raise InputError(
                f"--{option} auto is measured on one machine; with --engine write {names}"
            )
    from diptych.embeddings.parts import merge
    from diptych.embeddings.spread import embed_parts, loader
    from diptych.methods.registry import find

    settings = _settings(args, "batch_size", "max_bad", "exact", "device")
    options = {
        name: args[name] for name in ("precision", "backend", "share", "space") if name in args
    }
    if "method" in args:
        options["method"] = find(args.method).name
    load = loader(args.model, args.get("weights"), **options)
    with progress("embedding") as report:
        embed_parts(engine, load, args.source, args.out, progress=report, **settings)
    with progress("joining") as report:
        bad = {name: args[name] for name in ("max_bad",) if name in args}
        manifest = merge(args.out, progress=report, **bad)
    _report(args.out, manifest)


def _merge(args: Namespace) -> None:
    if "out" not in args:
        raise InputError("--merge has no folder; write diptych embed --merge --out EMB")
    if args.model or "part" in args or "engine" in args:
        raise InputError(
            "--merge joins parts that are there already; write diptych embed --merge --out EMB"
        )
    from diptych.embeddings.parts import merge

    settings = {name: args[name] for name in ("max_bad",) if name in args}
    with progress("joining") as report:
        manifest = merge(args.out, progress=report, **settings)
    _report(args.out, manifest)


def _report(out: str, manifest: "Manifest") -> None:
    say(f"{_counted(manifest)} embedded{_damaged(manifest)}")
    served = f"search it in the browser with: diptych serve {shlex.quote(out)}, or "
    print(
        f"{out} holds the embeddings; {served if manifest.vectors == 1 else ''}"
        f"search it with: diptych search {shlex.quote(out)} 'some words'"
    )


def _report_part(out: str, part: "Part", manifest: "Manifest", was_done: bool) -> None:
    from diptych.embeddings.parts import missing

    said = "was done before" if was_done else "is done"
    say(f"part {part} {said}: {_counted(manifest)}{_damaged(manifest)}")
    left = len(missing(Path(out).expanduser()))
    join = f"diptych embed --merge --out {shlex.quote(out)}"
    if left:
        print(f"parts that are missing: {left:,} of {part.count:,}; then join them with: {join}")
    else:
        print(f"all {part.count:,} parts are there; join them with: {join}")


def _counted(manifest: "Manifest") -> str:
    return f"{manifest.count:,} {manifest.rows}"


def _damaged(manifest: "Manifest") -> str:
    damaged = sum(map(len, manifest.damaged.values()))
    return f", {damaged:,} damaged ones left out" if damaged else ""
