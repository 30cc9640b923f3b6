"""Fit scaling laws, of error over compute, to training runs, and find where two laws cross.

A row of a table is a run: its compute, the samples it saw, and what it reached. Folders of `diptych
compare` are such tables too, with a law for each method and folder, and so are folders of runs: at a
constant learning rate each validation after the warm-up counts as a run that ended there. The runs
that are best for their compute are fitted by A (C + B)^a + E; laws are tested on the largest runs,
which are held out of the fit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import progress, show_json, show_table
from diptych.errors import InputError
from diptych.files import check_file

if TYPE_CHECKING:
    from diptych.lab.scaling import Report

GROUP = "Train"
USAGE = "RUNS.csv|COMPARE_DIR…|RUN… [--metric NAME,…] [--by COLUMN,…] [options]"
EXAMPLES = (
    "diptych scaling runs.csv --metric acc1 --by model --out laws.html",
    "diptych scaling runs.csv --metric acc1,miou --by namespace --min-compute 1e6 --fit-up-to 2.5e11",
    "diptych scaling runs.csv --metric acc1 --frontier hull --alpha 0.1 --hold-out 2.5e11 --out laws.html",
    "diptych scaling runs.csv --loss val_loss --form no_floor --predict 1e12",
    "diptych scaling runs/two --metric t2i_r1 --frontier all --form power",
    "diptych scaling runs/clean runs/filtered runs/raw --frontier all --form power --out sources.html",
    "diptych scaling runs/clip-small runs/clip-large runs/mammut-small --metric i2t_r1 --frontier all",
)


def add(parser: Parser) -> None:
    parser.option(
        "What",
        "runs",
        metavar="RUNS",
        nargs="*",
        help="a .csv of runs, folders of `diptych compare`, or folders of runs with validations",
    )
    parser.option(
        "What",
        "--metric",
        metavar="NAME,…",
        help="columns of scores from 0 to 1, higher is better; the error is 1 - score",
    )
    parser.option(
        "What", "--loss", metavar="NAME,…", help="columns of errors or losses, lower is better"
    )
    parser.option(
        "What",
        "--by",
        metavar="NAME,…",
        help="columns whose values have a law each (default: one law; of comparisons one per method and "
        "folder)",
    )
    parser.option(
        "What",
        "--compute",
        metavar="NAME",
        help="column of GFLOPs (default: gflops_total, gflops or compute)",
    )
    parser.option(
        "What",
        "--samples",
        metavar="NAME",
        help="column of samples seen (default: total_samples_seen, samples_seen or samples)",
    )
    use = "Which runs are used"
    parser.option(
        use, "--min-compute", type=float, metavar="C", help="leave out runs of less than C GFLOPs"
    )
    parser.option(
        use,
        "--max-samples",
        type=float,
        metavar="N",
        help="leave out runs that saw more than N samples",
    )
    parser.option(
        use,
        "--failed",
        metavar="ERROR:C",
        help="leave out runs above C GFLOPs whose error is at least ERROR, as in 0.7:1e11",
    )
    parser.option(
        "Law",
        "--frontier",
        type=Literal["bins", "all", "hull"],
        metavar="bins|all|hull",
        help="runs to fit: the best of each bin of compute, all that are best, or their convex hull "
        "(default: bins)",
    )
    parser.option(
        "Law",
        "--edges",
        type=int,
        least=2,
        metavar="N",
        help="with bins: number of bin edges (default: log2 of the largest compute / 1500, rounded down)",
    )
    parser.option(
        "Law",
        "--alpha",
        type=float,
        metavar="A",
        help="with hull: alpha of the alpha shape (default: 0, the convex hull; published: 0.1)",
    )
    parser.option(
        "Law",
        "--form",
        type=Literal["saturating", "no_floor", "power"],
        metavar="saturating|no_floor|power",
        help="A (C + B)^a + E; without E; or without B and E (default: saturating)",
    )
    parser.option(
        "Law",
        "--residuals",
        type=Literal["error", "log"],
        metavar="error|log",
        help="least squares of the error, or of its logarithm (default: error)",
    )
    parser.option(
        "Law",
        "--hold-out",
        dest="c_max",
        type=float,
        metavar="C",
        help="fit the runs of at most C GFLOPs, and test the law on the others",
    )
    parser.option(
        "Law",
        "--bootstraps",
        type=int,
        least=0,
        metavar="N",
        help="number of resamplings of the runs, for intervals (default: 200)",
    )
    parser.option(
        "Law", "--seed", type=int, metavar="N", help="random seed of the resampling (default: 0)"
    )
    parser.option(
        "Ask",
        "--fit-up-to",
        metavar="C,…",
        help="test laws that are fitted up to C GFLOPs (default: up to .5, .7 and .85 of the points)",
    )
    parser.option("Ask", "--predict", metavar="C,…", help="predict the error at C GFLOPs")
    parser.option("More", "--out", metavar="PAGE", help="write an .html page with plots")
    parser.option("More", "--json", type=bool, help="print JSON instead of tables")


def run(args: Namespace) -> None:
    if not args.runs:
        raise InputError(
            "diptych scaling has no runs; name a .csv of runs, or a folder of diptych compare"
        )
    page = Path(args.out).expanduser() if "out" in args else None
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {page}: the page is an .html file; name it so")
    if page is not None:
        check_file(page)
    above = _numbers(args, "fit_up_to")
    predicted = _numbers(args, "predict")
    used: dict[str, Any] = {
        name: args[name] for name in ("min_compute", "max_samples") if name in args
    }
    if "failed" in args:
        used["failed"] = _failed(args.failed)
    from diptych.lab import statistics
    from diptych.lab.scaling import Fit, Limits, analyse, read_runs, write_page

    statistics.ready()
    fit = Fit(
        **{
            name: args[name]
            for name in ("frontier", "edges", "alpha", "form", "residuals", "c_max")
            if name in args
        }
    )
    found = read_runs(
        args.runs,
        **{
            to: _words(args[name])
            for to, name in (("metrics", "metric"), ("losses", "loss"), ("by", "by"))
            if name in args
        },
        compute=args.get("compute"),
        samples=args.get("samples"),
    )
    with progress("resampling") as report:
        reports = analyse(
            found,
            fit,
            limits=Limits(**used),
            held_out_above=above,
            predicted=predicted,
            bootstraps=args.get("bootstraps", 200),
            seed=args.get("seed", 0),
            progress=report,
        )
    if page is not None:
        write_page(page, reports, ", ".join(args.runs))
    if args.get("json"):
        show_json([each.to_dict() for each in reports])
        return
    for number, each in enumerate(reports):
        _show(each, first=number == 0)
    if page is not None:
        print(f"\n{page} is the page")


def _show(found: "Report", first: bool) -> None:
    from diptych.lab.scaling.report import (
        LAWS,
        PREDICTIONS,
        TESTS,
        crossing_lines,
        held_out_rows,
        law_rows,
        prediction_rows,
    )

    if not first:
        print()
    note = "\n".join([*crossing_lines(found), *found.notes()])
    show_table(f"{found.title}, with 95 % intervals", LAWS, law_rows(found), note)
    for title, head, rows in (
        (
            "Tested on the runs above the compute that they are fitted up to",
            TESTS,
            held_out_rows(found),
        ),
        ("Predicted", PREDICTIONS, prediction_rows(found)),
    ):
        if rows:
            print()
            show_table(title, head, rows)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(args: Namespace, name: str) -> Sequence[float]:
    """The positive numbers of an option; none if it is not given."""
    if name not in args:
        return ()
    option = f"--{name.replace('_', '-')}"
    try:
        found = [float(word) for word in _words(args[name])]
    except ValueError:
        raise InputError(f"{option} {args[name]!r}: it takes numbers, such as 1e11,5e11") from None
    if any(not 0 < value < float("inf") for value in found):
        raise InputError(f"{option} {args[name]!r}: compute is above 0")
    return found


def _failed(text: str) -> tuple[float, float]:
    try:
        error, compute = map(float, text.split(":"))
    except ValueError:
        raise InputError(f"--failed {text!r}: it takes ERROR:C, such as 0.7:1e11") from None
    return error, compute
