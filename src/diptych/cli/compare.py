"""Compare methods on the same data, budgets and seeds; makes a table and an HTML page.

Each method uses its preset `small`. Towers, tokenizer and recipe that are given here are those of all
methods; what still differs is listed. Options of a method and of its recipe may follow its name, as
in clip:scale=20:lr=0.001. A comparison that was stopped continues with the same command, and more
methods, sizes, budgets or seeds extend its table. The folder alone shows what it holds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from diptych.cli._parser import Namespace, Parser
from diptych.cli._recipe import add_more, add_recipe
from diptych.cli._screen import say, show_json, show_table
from diptych.errors import InputError

if TYPE_CHECKING:
    from diptych.lab.compare import Table

GROUP = "Train"
USAGE = "METHOD… --data SOURCE --test SOURCE --budget N,… --out DIR [options]   or   DIR"
EXAMPLES = (
    "diptych compare clip decoupled.py --data glyphs --test glyphs:split=val --budget 20000 --out runs/mine",
    "diptych compare clip siglip --data glyphs --test glyphs:split=val --budget 20000,80000 --out runs/two",
    "diptych compare clip clip:scale=20 --data a.tar --test b.tar --budget 50000 --sizes 0.5,1 --out runs/scale",
    "diptych compare clip siglip --data a.tar --test b.tar --budget 50000 --optimizer adamw --lr 0.001 --out runs/same",
    "diptych compare clip simclr --data a.tar --test b.tar --budget 50000 --suite probe --out runs/images",
    "diptych compare runs/two --metric t2i_r1,i2t_r1",
)
T = TypeVar("T", int, float)


def add(parser: Parser) -> None:
    parser.option(
        "What",
        "methods",
        metavar="METHOD",
        nargs="*",
        help="methods of `diptych list`, or a FILE.py, with options; or the folder DIR of a comparison",
    )
    parser.option("What", "--data", metavar="SOURCE", help="training data")
    parser.option("What", "--test", metavar="SOURCE", help="test data")
    parser.option(
        "What",
        "--budget",
        metavar="N,N,…",
        help="numbers of samples that training reads, repetitions counted",
    )
    parser.option(
        "What",
        "--sizes",
        metavar="X,X,…",
        help="factors by which the widths of the towers are multiplied (default: 1)",
    )
    parser.option("What", "--seeds", metavar="N,N,…", help="random seeds (default: 0,1,2)")
    same = "For all methods (default: each preset's)"
    parser.option(
        same, "--image-tower", metavar="SPEC", help="image tower, such as vit:width=192:depth=4"
    )
    parser.option(
        same, "--text-tower", metavar="SPEC", help="text tower, such as text:width=192:depth=4"
    )
    parser.option(
        same,
        "--tokenizer",
        metavar="SPEC",
        help="tokenizer, such as bpe:vocab_size=4096, which is trained on --data",
    )
    parser.option(same, "--embed-dim", type=int, metavar="N", help="embedding dimension")
    add_recipe(parser, same)
    add_more(parser, same)
    parser.option(
        "How",
        "--suite",
        metavar="NAME,…",
        help="evaluation suites, of `diptych list suites` (default: retrieval)",
    )
    parser.option(
        "How",
        "--metric",
        metavar="NAME,…",
        help="metrics to show (default: the first of each suite)",
    )
    parser.option(
        "How",
        "--jobs",
        type=int,
        least=1,
        metavar="N",
        help="runs in parallel, one thread each (default: one per CPU core)",
    )
    parser.option(
        "How",
        "--out",
        metavar="DIR",
        help="folder of the comparison: the table, the page and the models",
    )
    parser.option("More", "--json", type=bool, help="print JSON instead of a table")


def run(args: Namespace) -> int:
    from diptych.front.trying import write_page
    from diptych.lab.compare import is_comparison, read

    methods = args.methods or []
    if len(methods) == 1 and "data" not in args and is_comparison(Path(methods[0]).expanduser()):
        table = read(Path(methods[0]).expanduser())
    else:
        try:
            table = _run(args, methods)
        except KeyboardInterrupt:
            say("stopped; what is finished is in the table, and the same command goes on")
            return 130
    metrics = _words(args.metric) if "metric" in args else None
    page = write_page(table, metrics)
    if args.get("json"):
        show_json(table.rows)
    else:
        _show(table, metrics)
        print(f"\n{page} is the page; {table.folder / 'results.jsonl'} has every run")
    return 0


def _run(args: Namespace, methods: Sequence[str]) -> "Table":
    from diptych.front.trying import compare

    if not methods:
        raise InputError(
            "diptych compare has no method; name two or more of `diptych list`, or the folder of a table"
        )
    for name, why in (
        ("data", "has no data; name a source to train on with --data"),
        ("test", "has nothing to measure on; name another source with --test"),
        ("budget", "has no budget; say how many samples training sees, such as --budget 50000"),
        ("out", "has no place to write to; name a folder with --out DIR"),
    ):
        if name not in args:
            raise InputError(f"diptych compare {why}")
    towers = ("image_tower", "text_tower", "tokenizer", "embed_dim")
    return compare(
        methods,
        data=args.data,
        test=args.test,
        budget=_numbers("--budget", args.budget, int),
        out=args.out,
        sizes=_numbers("--sizes", args.get("sizes", "1"), float),
        seeds=_numbers("--seeds", args.get("seeds", "0,1,2"), int),
        suites=_words(args.get("suite", "retrieval")),
        **{name: args[name] for name in towers if name in args},
        jobs=args.get("jobs"),
        warn=say,
        **args.get("recipe", Namespace()).as_dict(),
    )


def _show(table: "Table", metrics: Sequence[str] | None) -> None:
    from diptych.lab.compare import chosen, lines, notes
    from diptych.lab.compare.page import cells, columns, differing

    shown = chosen(table, metrics)
    rows = [cells(line, shown) for line in lines(table, shown)]
    note = "\n".join(notes(table))
    show_table(f"trained on {table.data}, measured on {table.test}", columns(shown), rows, note)
    if len(table.methods) < 2:
        return
    head, rows = differing(table)
    print()
    if rows:
        show_table("Differs between the methods, beside the method:", head, rows)
    else:
        print("Nothing but the method differs.")


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    try:
        return [kind(word) for word in _words(text)]
    except ValueError:
        raise InputError(f"{option} {text!r}: it takes numbers, such as 1,2") from None
