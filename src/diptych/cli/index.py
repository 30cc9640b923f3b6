"""Build an index over embeddings, so that a search compares a part of the vectors, not all.

Recall is measured against exact search while building, and as many lists are read as --recall needs.
Without --add and --remove an existing index is built anew; it serves until the new one replaces it.
With --compress the index needs about a fifth of the memory of the vectors, and later builds keep this:
the best rows by the compressed codes are re-ranked with the vectors of EMB, and cosines are exact.

--map builds no index but the map of a folder, which `diptych serve` shows: a projection of the rows to
the plane, and the nearest neighbours of each, which show near-duplicates and outliers.

--to writes the embeddings, with an index, to a LanceDB table on disk or in object storage, for more
vectors than fit into memory; `diptych index lancedb:PATH` changes it, and each change is a version.
"""

import shlex
from typing import Any

from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = (
    "EMB|lancedb:PATH [--add MORE] [--remove KEY] [options] | EMB --map [--projection NAME] | "
    "EMB --to lancedb:PATH [options]"
)
EXAMPLES = (
    "diptych index emb",
    "diptych index emb --map",
    "diptych index emb --compress",
    "diptych index emb --add emb_of_may --remove photos/0017",
    "diptych index emb --to lancedb:shop",
    "diptych index lancedb:shop --add emb_of_may",
)
_OF_INDEX = ("add", "remove", "recall", "k", "compress", "lists")


def add(parser: Parser) -> None:
    parser.option("What", "emb", help="folder made by `diptych embed`, or lancedb:PATH")
    parser.option(
        "What",
        "--to",
        metavar="lancedb:PATH",
        help="write the embeddings to a LanceDB table; PATH may be s3://…",
    )
    parser.option(
        "What",
        "--add",
        action="append",
        metavar="MORE",
        help="folder of embeddings of the same model to add; may be repeated",
    )
    parser.option(
        "What",
        "--remove",
        action="append",
        metavar="KEY",
        help="key of a sample to remove from the index; may be repeated",
    )
    parser.option("What", "--map", type=bool, help="build the map, and leave the index as it is")
    parser.option(
        "How",
        "--recall",
        type=float,
        metavar="SHARE",
        help="share of the nearest neighbours to be found (default: the existing index's, else 0.99)",
    )
    parser.option(
        "How",
        "-k",
        type=int,
        least=1,
        dest="k",
        metavar="N",
        help="number of nearest neighbours for --recall (default: the existing index's, else 50)",
    )
    parser.option(
        "How",
        "--compress",
        type=bool,
        help="store 6 bits per dimension, and re-rank the best rows with the vectors of EMB",
    )
    parser.option(
        "How",
        "--projection",
        metavar="NAME",
        help="with --map: pca (default), or umap, which needs umap-learn",
    )
    parser.option(
        "More",
        "--lists",
        type=int,
        least=1,
        metavar="N",
        help="number of inverted lists (default: 4 √rows)",
    )


def run(args: Namespace) -> None:
    if not args.emb:
        raise InputError(
            "diptych index has no folder; name one that `diptych embed RUN SOURCE --out EMB` made"
        )
    from diptych.embeddings.addresses import is_store, refuse_store

    if args.get("map"):
        refuse_store(args.emb, "--map")
        _map(args)
        return
    if "projection" in args:
        raise InputError("--projection is of the map; add --map")
    if not 0 < args.get("recall", 0.99) <= 1:
        raise InputError(f"--recall is {args.recall:g}; it is a share above 0, at most 1")
    settings = {name: args[name] for name in _OF_INDEX if name in args}
    if "to" in args or is_store(args.emb):
        _store(args, settings)
        return
    from diptych.embeddings.build import build_index

    state = build_index(args.emb, **settings)
    rows = sum(part.count for part in state.parts) - len(state.removed)
    anew = f", and {state.candidates:,} vectors" if state.candidates else ""
    say(f"{rows:,} rows in {state.lists:,} lists, of which a search reads {state.nprobe:,}{anew}")
    print(
        f"{args.emb} is indexed: recall of the {state.k} nearest on held-out queries is {_reached(state)}"
    )


def _store(args: Namespace, settings: dict[str, Any]) -> None:
    if "compress" in settings:
        raise InputError("--compress is of a folder; the index of a store always holds codes")
    from diptych.embeddings.addresses import is_store, refuse_store
    from diptych.embeddings.lance.build import change_store, write_store

    if "to" in args:
        refuse_store(args.emb, "--to")
        if not is_store(args.to):
            raise InputError(f"--to is {args.to}; write lancedb:PATH, where PATH may be a URL")
        store = write_store(args.emb, args.to, stage=progress, **settings)
    else:
        store = change_store(args.emb, stage=progress, **settings)
    name = f"{store.name}, version {store.version},"
    state = store.state
    assert state is not None
    if not state.lists:
        print(f"{name} has {len(store):,} rows, few enough to compare all")
        return
    say(
        f"{len(store):,} rows in {state.lists:,} lists, of which a search reads {state.nprobe:,}, and "
        f"{state.candidates:,} vectors"
    )
    print(
        f"{name} is indexed: recall of the {state.k} nearest on held-out queries is {_reached(state)}"
    )


def _reached(state: Any) -> str:
    return ", ".join(f"{value:.4f} for {kind}" for kind, value in state.measured.items())


def _map(args: Namespace) -> None:
    for name in ("to", *_OF_INDEX):
        if name in args:
            raise InputError(
                f"--{name} is of the index, and --map makes the map alone; leave one out"
            )
    from diptych.embeddings.index import Index
    from diptych.embeddings.map import SIMILAR, Map, build_map

    settings = {"projection": args.projection} if "projection" in args else {}
    with progress("comparing") as report:
        state = build_map(args.emb, progress=report, **settings)
    index = Index.open(args.emb)
    made = Map.open(index)
    assert made is not None
    groups = made.duplicates()
    alike = sum(len(group.rows) for group in groups)
    say(f"{alike:,} of {len(index):,} rows have a cosine of {SIMILAR:g} or more with another row")
    print(
        f"{args.emb} has a map by {state.projection}; look at it with: diptych serve {shlex.quote(args.emb)}"
    )
