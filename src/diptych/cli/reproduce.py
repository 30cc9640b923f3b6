"""Try a paper's claim on this machine: train its arms with several seeds, and judge by a fixed rule.

The verdict is stored in results/claims/NAME.json. A claim is judged after numbers of seeds that were
declared before (looks); the same command runs the next look that is due, and continues a run that was
stopped. --seeds and --quick store nothing. If DIPTYCH_DATA is set, a claim's part on real data runs too.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import say, show_json, show_table
from diptych.errors import InputError

if TYPE_CHECKING:
    from diptych.lab.plan import Plan
    from diptych.lab.stored import Record

GROUP = "Train"
USAGE = "NAME|FILE.py|--all [options]"
EXAMPLES = ("diptych reproduce lion", "diptych reproduce lion --quick", "diptych reproduce --all")


def add(parser: Parser) -> None:
    parser.option(
        "What",
        "name",
        metavar="NAME",
        help="claim, named as its method; or the FILE.py of your own",
    )
    parser.option(
        "What",
        "--all",
        type=bool,
        help="run all claims that have no result, or have changed since theirs",
    )
    parser.option(
        "How",
        "--seeds",
        metavar="N,N,…",
        help="run with these seeds, such as 100,101, and store nothing",
    )
    parser.option(
        "How",
        "--power",
        type=bool,
        help="show the statistical power and the cost of the claim; run nothing",
    )
    parser.option(
        "How",
        "--quick",
        type=bool,
        help="run one seed, for three minutes at most, without a verdict",
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
        help="folder for verdicts (default: results/claims of the repository)",
    )
    parser.option("More", "--json", type=bool, help="print JSON instead of tables")


def run(args: Namespace) -> int:
    from diptych.lab.claim import find, names
    from diptych.lab.stored import blocks, is_stale

    every = bool(args.get("all"))
    out = Path(args.out).expanduser() if "out" in args else None
    if bool(args.name) == every:
        have = ", ".join(names())
        raise InputError(
            f"diptych reproduce takes the name of a claim, or --all; there are: {have or 'none'}"
        )
    paths = [find(name) for name in (names() if every else [args.name])]
    wanted = [(path, block) for path in paths for block in blocks(path)]
    found: dict[str, Any] = {}
    refused: list[str] = []
    for path, block in wanted:
        title = path.stem if block == "claim" else f"{path.stem}.{block}"
        if every and not is_stale(path, block, out):
            say(f"{title}: its result is of the claim and its method as they are")
            continue
        try:
            found[title] = (_power if args.get("power") else _one)(args, path, block, out)
        except InputError as error:
            refused.append(f"{title}: {error}" if len(wanted) > 1 else str(error))
        except KeyboardInterrupt:
            say("stopped; what is finished is kept, and the same command goes on")
            return 130
    if args.get("json"):
        show_json(found)
    if refused:
        raise InputError("; ".join(refused))
    return 0


def _one(args: Namespace, path: Path, block: str, out: Path | None) -> "Record":
    from diptych.lab.plan import plan
    from diptych.lab.reproduce import board, reproduce

    seeds = _seeds(args.seeds) if "seeds" in args else None
    todo = plan(str(path), block=block, seeds=seeds, quick=bool(args.get("quick")), out=out)
    table, hear = board(todo)
    with table:
        if todo.earlier is not None and not todo.new:
            say(f"{todo.name}: its result is of the claim and its method as they are")
        elif table.full:
            say(f"{todo.name}: all of it was done before; to run it again, remove {todo.shelf}")
        record = reproduce(todo, at_once=args.get("jobs"), hear=hear)
    if not args.get("json"):
        _show(todo, record)
    return record


def _power(args: Namespace, path: Path, block: str, out: Path | None) -> dict[str, Any]:
    from diptych.lab import statistics
    from diptych.lab.claim import LOOKS
    from diptych.lab.claim import block as block_of

    claim = block_of(path, block)
    tuned = claim.tuned
    if tuned is None:
        raise InputError(
            f"{path}: `tuned` is missing; --seeds 100,101,102,103 shows the numbers that belong there"
        )
    by_look = statistics.power(claim)
    seeds = statistics.expected_seeds(claim)
    found = {
        "headline": [str(expect) for expect in claim.headline],
        "delta": claim.delta_of(claim.headline[0].metric),
        "effect": tuned.effect,
        "sd": tuned.sd,
        "looks": [
            {
                "seeds": look,
                "power": chance,
                "smallest_effect": statistics.smallest_effect(
                    tuned.sd / look**0.5, look, LOOKS[claim.looks]
                ),
                "cpu_minutes": look * tuned.seconds / 60,
            }
            for look, chance in by_look
        ],
        "expected_seeds": seeds,
    }
    if not args.get("json"):
        rows = [
            (
                str(look["seeds"]),
                f"{look['power']:.0%}",
                f"{look['smallest_effect']:.3g}",
                f"{look['cpu_minutes']:,.0f}",
            )
            for look in found["looks"]
        ]
        show_table(
            f"{path.stem}: {claim.question}",
            ("seeds", "holds by then", "effect seen with 80 % power", "CPU minutes"),
            rows,
            note=f"were {tuned.effect:+.3g} ± {tuned.sd:.2g} of the tuning seeds the truth; {seeds:.1f} seeds expected",
        )
    return found


def _show(todo: "Plan", record: "Record") -> None:
    from diptych.lab import tables

    seeds = ", ".join(map(str, record["seeds"]))
    show_table(
        record["question"],
        *tables.arms(record),
        note=f"seeds {seeds}; {record['cpu_seconds']:,.0f} CPU s",
    )
    if record["verdict"] is not None:
        print()
        show_table("Expected", *tables.expectations(record))
    kept = "nothing is stored" if todo.out is None else f"stored in {todo.out}"
    print(f"\n{tables.sentence(record)}; {kept}")


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"--seeds {text!r}: it takes whole numbers, such as 1,2,3") from None
