"""Search folders and stores of embeddings in the browser, and over HTTP.

The models are loaded once. The page is at /, the API under /api/v1, its description in
/api/v1/openapi.json. Only this machine reaches the server, unless --host says otherwise; then set a
token.
"""

import os
from pathlib import Path
from typing import Any

from diptych.cli._model import add_device, add_precision, add_weights, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import say
from diptych.errors import InputError

GROUP = "Use a model"
USAGE = "EMB [EMB …] [options]"
EXAMPLES = (
    "diptych serve emb",
    "diptych serve emb_of_may emb_of_june --port 9000",
    "DIPTYCH_TOKEN=… diptych serve emb --host 0.0.0.0",
)
_PORT = 8420


def add(parser: Parser) -> None:
    parser.option("What", "emb", nargs="*", help="folders made by `diptych embed`, or lancedb:PATH")
    parser.option(
        "What",
        "--source",
        metavar="SOURCE",
        help="current path of the data of one EMB, if they moved",
    )
    parser.option("How", "--model", metavar="MODEL", help="current path of the model, if it moved")
    parser.option(
        "Where",
        "--host",
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1, this machine only)",
    )
    parser.option(
        "Where",
        "--port",
        type=int,
        least=0,
        metavar="N",
        help=f"port to listen on, 0 for any free one (default: {_PORT})",
    )
    parser.option(
        "Where",
        "--token",
        metavar="TEXT",
        help="token that requests must send (default: $DIPTYCH_TOKEN, else none)",
    )
    parser.option(
        "Limits",
        "--max-body",
        type=float,
        metavar="MB",
        help="largest size of a request in MB (default: 10)",
    )
    parser.option(
        "Limits",
        "--max-pixels",
        type=float,
        metavar="M",
        help="largest size of an uploaded image in millions of pixels (default: 50)",
    )
    parser.option(
        "Limits",
        "--concurrent",
        type=int,
        least=1,
        metavar="N",
        help="largest number of requests in progress; more get status 503 (default: 32)",
    )
    parser.option(
        "Limits",
        "--seconds",
        type=float,
        metavar="S",
        help="timeout of a request in seconds (default: 30)",
    )
    parser.option(
        "More", "--exact", type=bool, help="compare with every embedding, even if there is an index"
    )
    add_precision(parser)
    add_device(parser)
    add_weights(parser)


def run(args: Namespace) -> None:
    folders = args.emb if isinstance(args.emb, list) else [args.emb] if args.emb else []
    if not folders:
        raise InputError(
            "diptych serve has no folder; name one that `diptych embed RUN SOURCE --out EMB` made"
        )
    from diptych.serve import need

    need()
    from diptych.embeddings.addresses import is_store
    from diptych.embeddings.layout import Manifest
    from diptych.embeddings.query import made_by
    from diptych.serve.collection import open_collections
    from diptych.serve.run import listen, local, serve
    from diptych.serve.service import Service

    limits = _limits(args)
    host = args.get("host", "127.0.0.1")
    token = args.get("token") or os.environ.get("DIPTYCH_TOKEN") or None
    for folder in folders:
        if not is_store(folder):
            Manifest.read(Path(folder).expanduser())

    def load(index: Any) -> Any:
        manifest = index.manifest
        spec, weights = made_by(index.name, manifest, args.get("model"), args.get("weights"))
        return load_model(spec, args, weights=weights, share=manifest.share, space=manifest.space)

    # What is cheap to find out comes before a model is loaded.
    with listen(host, args.get("port", _PORT)) as listening:
        collections = open_collections(
            folders, load, limits, exact=bool(args.get("exact")), source=args.get("source")
        )
        for collection in collections:
            problem = collection.images_problem
            if problem is not None and collection.manifest.rows != "texts":
                say(f"{collection.name}: no images to show: {problem}; name them with --source")
            if collection.map_problem is not None:
                say(f"{collection.name}: no map to show: {collection.map_problem}")
        if not local(host) and token is None:
            say(f"anyone who reaches {host} may search; set a token with --token")
        port = listening.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        rows = sum(len(collection.index) for collection in collections)
        serve(
            Service(collections, limits, token=token),
            listening,
            host,
            started=lambda: print(
                f"{rows:,} rows to search at {address} (Ctrl+C ends)", flush=True
            ),
        )


def _limits(args: Namespace) -> Any:
    from diptych.serve.limits import Limits

    million = 1_000_000
    given: dict[str, Any] = {name: args[name] for name in ("concurrent", "seconds") if name in args}
    if "max_body" in args:
        given["body"] = round(args.max_body * million)
    if "max_pixels" in args:
        given["pixels"] = round(args.max_pixels * million)
    return Limits(**given)
