"""Embed the images and captions of a source, or its texts, into a folder that can be searched.

The folder has clip-retrieval's layout (npy and parquet), so that its tools read it too.
"""

import shlex

from diptych.cli._model import (
    MODELS,
    add_device,
    add_precision,
    add_share,
    add_space,
    add_weights,
    load_model,
)
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "MODEL SOURCE --out EMB [options]"
EXAMPLES = (
    "diptych embed runs/first photos/ --out emb",
    "diptych embed openclip:ViT-B-32/laion2b_s34b_b79k 'shards/{0000..0009}.tar' --out emb",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=MODELS)
    parser.option(
        "What", "source", help="what to embed: a folder, 'shards/*.tar', a table, glyphs, …"
    )
    parser.option("What", "--out", metavar="EMB", help="the folder to make")
    parser.option(
        "How", "--batch-size", type=int, least=1, metavar="N", help="images at once (default: 64)"
    )
    parser.option(
        "How",
        "--max-bad",
        type=float,
        metavar="SHARE",
        help="damaged samples allowed (default: 0.01)",
    )
    parser.option("How", "--exact", type=bool, help="decode every JPEG in full, however large")
    add_precision(parser)
    add_device(parser)
    add_share(parser)
    add_space(parser)
    add_weights(parser)


def run(args: Namespace) -> None:
    if not args.model or not args.source:
        raise InputError(
            "diptych embed has no model or no source; write diptych embed MODEL SOURCE --out EMB"
        )
    if "out" not in args:
        raise InputError("diptych embed has no place to write to; name a new folder with --out EMB")
    from diptych.embeddings.embed import embed_source

    settings = {name: args[name] for name in ("batch_size", "max_bad", "exact") if name in args}
    model = load_model(args.model, args)
    with progress("embedding") as report:
        manifest = embed_source(model, args.source, args.out, progress=report, **settings)
    damaged = sum(map(len, manifest.damaged.values()))
    say(
        f"{manifest.count:,} {manifest.rows} embedded"
        + (f", {damaged:,} damaged ones left out" if damaged else "")
    )
    print(
        f"{args.out} holds the embeddings; search it in the browser with: diptych serve {shlex.quote(args.out)}, or "
        f"search it with: diptych search {shlex.quote(args.out)} 'some words'"
    )
