"""Look at data, a run or embeddings: annotated samples, damage, duplicates, curves, worst mistakes.

With --out one self-contained file is written, else pages are served to this machine alone. A SOURCE
is checked as by `diptych check`, unless --quick is given.
"""

from pathlib import Path
from typing import Any

from diptych.cli._model import add_device, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, say
from diptych.errors import InputError

GROUP = "Begin here"
USAGE = "SOURCE|RUN|EMB [--out page.html] [options]"
EXAMPLES = (
    "diptych view pairs.csv --val val.csv",
    "diptych view 'shards/{0000..0099}.tar' --quick --out page.html",
    "diptych view runs/first --out mistakes.html",
    "diptych view emb",
)
_PORT = 8421
_OF = {  # the options that each kind of thing accepts
    "SOURCE": ("val", "quick", "workers"),
    "RUN": ("data", "device"),
    "EMB": ("source",),
}


def add(parser: Parser) -> None:
    parser.option("What", "what", help="data SOURCE, training RUN, or folder EMB of embeddings")
    parser.option(
        "What",
        "--val",
        metavar="SOURCE",
        help="SOURCE: validation data; also report samples that SOURCE shares with it",
    )
    parser.option(
        "What",
        "--data",
        metavar="SOURCE",
        help="RUN: data in which to look for mistakes (default: its validation data)",
    )
    parser.option(
        "What", "--source", metavar="SOURCE", help="EMB: current path of its data, if they moved"
    )
    parser.option(
        "How",
        "--out",
        metavar="FILE.html",
        help="write one self-contained file instead of starting a server",
    )
    parser.option(
        "How",
        "--count",
        type=int,
        least=1,
        metavar="N",
        help="number of samples in the file (default: 200)",
    )
    parser.option(
        "How", "--quick", type=bool, help="SOURCE: skip the check, which reads every sample"
    )
    parser.option(
        "How",
        "--workers",
        type=int,
        least=0,
        metavar="N",
        help="SOURCE: processes that check the data (default: 0, the main process)",
    )
    parser.option(
        "How",
        "--port",
        type=int,
        least=0,
        metavar="N",
        help=f"port of the server, 0 for any free one (default: {_PORT})",
    )
    add_device(parser)


def run(args: Namespace) -> None:
    if not args.what:
        raise InputError(
            "diptych view has nothing to show; name a source such as photos/ or pairs.csv, a RUN, or an EMB"
        )
    from diptych.embeddings.addresses import refuse_store

    refuse_store(args.what, "diptych view")
    kind = _kind(args.what)
    _refuse_others(args, kind)
    if "out" in args:
        _write(args, kind)
    else:
        _serve(args, kind)


def _kind(what: str) -> str:
    folder = Path(what).expanduser()
    if (folder / "config.yaml").is_file():
        return "RUN"
    if (folder / "diptych.json").is_file():
        return "EMB"
    is_trained = (folder / "state").is_dir() or (folder / "model.json").is_file()
    if is_trained and (folder / "metrics.jsonl").is_file():
        raise InputError(
            f"{what} looks like a RUN and lacks its config.yaml; copy the folder again, or train anew"
        )
    return "SOURCE"


def _refuse_others(args: Namespace, kind: str) -> None:
    for other, names in _OF.items():
        for name in names:
            if name in args and other != kind:
                raise InputError(
                    f"--{name} goes with {_a(other)}, and {args.what} is {_a(kind)}; leave it out"
                )
    if "count" in args and "out" not in args:
        raise InputError("--count is of a file; name it with --out, or leave --count out")
    if "port" in args and "out" in args:
        raise InputError("--port is of the server, and --out writes a file; leave one out")


def _a(kind: str) -> str:
    return {"SOURCE": "a source", "RUN": "a RUN", "EMB": "an EMB"}[kind]


def _subject(args: Namespace, kind: str) -> Any:
    if kind == "RUN":
        from diptych.viewer.trained import of_run

        return of_run(args.what, data=args.get("data"), load=lambda run: load_model(str(run), args))
    if kind == "EMB":
        from diptych.viewer.embedded import of_embeddings

        return of_embeddings(args.what, source=args.get("source"), warn=say)
    from diptych.viewer.checked import of_source

    settings = {name: args[name] for name in ("val", "quick", "workers") if name in args}
    return of_source(args.what, **settings)


def _write(args: Namespace, kind: str) -> None:
    from diptych.viewer.file import COUNT, page, refuse_folder, write

    out = Path(args.out).expanduser()
    refuse_folder(out)
    subject = _subject(args, kind)
    with progress("reading every sample") as report:
        subject = subject.finished(report)
    with progress("drawing") as report:
        html = page(subject, count=args.get("count", COUNT), progress=report)
    write(html, out)
    shown = html.count('<article class="sample"')
    total = len(subject.sources[0])
    print(f"{out} shows {min(shown, total):,} of {total:,} samples of {subject.title}")


def _serve(args: Namespace, kind: str) -> None:
    from diptych.serve import need

    need()
    from diptych.serve.run import listen, serve
    from diptych.viewer.app import Site

    host = "127.0.0.1"
    with listen(host, args.get("port", _PORT)) as listening:
        site = Site(_subject(args, kind))
        port = listening.getsockname()[1]
        started = f"{site.subject.title} at http://{host}:{port}/ (Ctrl+C ends)"
        with site.reading():
            serve(
                site.service,
                listening,
                host,
                make_app=site.app,
                started=lambda: print(started, flush=True),
            )
