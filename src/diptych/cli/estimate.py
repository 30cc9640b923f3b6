"""Estimate the time, memory and cost of training a method, and how to distribute it over devices.

Operations and memory are counted on tensors without data, so neither the data nor the hardware is
needed. The rate is a share of the hardware's peak (--mfu), which is an assumption; reading data is not
counted. `diptych check` measures a step on this machine before it starts.
"""

import math
from typing import TYPE_CHECKING, Any

from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import duration, progress, show_json, show_table, waiting
from diptych.errors import InputError

if TYPE_CHECKING:
    from diptych.testing.costs import Counted

GROUP = "Train"
USAGE = "METHOD --hardware 8xH100 [options]   or   --all --hardware 8xH100"
EXAMPLES = (
    "diptych estimate clip --preset paper --samples 400M --hardware 8xH100",
    "diptych estimate clip --image-tower vit:image_size=224:patch=14:width=1024:depth=24:heads=16 --hardware 8xA100",
    "diptych estimate siglip --samples 1B --hardware 64x989TFLOPS:80GB --mfu 0.5 --price 2.5",
    "diptych estimate --all --hardware 8xH100",
)
_CHANGED = ("image_tower", "text_tower", "batch_size", "precision", "optimizer")
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


def add(parser: Parser) -> None:
    parser.option("What", "method", help="method of `diptych list`, or a FILE.py")
    parser.option(
        "What", "--all", type=bool, help="estimate every method that has the preset, one line each"
    )
    parser.option("What", "--preset", metavar="NAME", help="preset to estimate (default: paper)")
    parser.option(
        "What",
        "--samples",
        metavar="N",
        help="number of samples that training reads, repetitions counted, such as 400M or 1.2B (default: "
        "steps x batch size of the recipe)",
    )
    parser.option(
        "What",
        "--hardware",
        metavar="NxNAME",
        help="number and type of devices, such as 8xH100, H200, 2xA100-40GB, 4xL40S, or peak and memory: "
        "8x989TFLOPS:80GB",
    )
    changed = "Changes to the preset"
    parser.option(
        changed,
        "--image-tower",
        metavar="SPEC",
        help="image tower, such as vit:width=1024:depth=24",
    )
    parser.option(
        changed, "--text-tower", metavar="SPEC", help="text tower, such as text:width=768:depth=12"
    )
    parser.option(
        changed,
        "--batch-size",
        type=int,
        least=1,
        metavar="N",
        help="global batch size, over all devices",
    )
    parser.option(
        changed, "--precision", metavar="NAME", help="precision of training: float32 or bfloat16"
    )
    parser.option(
        changed,
        "--optimizer",
        metavar="NAME",
        help="optimizer of `diptych list optimizers`, or the FILE.py of an update rule",
    )
    parser.option(
        "Assumptions",
        "--mfu",
        type=float,
        metavar="X",
        help="model FLOPs utilization: share of the hardware's peak that training reaches (default: 0.4)",
    )
    parser.option(
        "Assumptions",
        "--price",
        type=float,
        metavar="X",
        help="price of a device per hour (default: none, no cost is shown)",
    )
    parser.option("More", "--json", type=bool, help="print JSON instead of a table")


def run(args: Namespace) -> None:
    from diptych.training.hardware import hardware
    from diptych.training.layout import MFU

    if "hardware" not in args:
        raise InputError("diptych estimate needs the hardware; give --hardware, such as 8xH100")
    if bool(args.method) == bool(args.get("all")):
        raise InputError("diptych estimate takes a METHOD, or --all for all of them; give one")
    hardware(args.hardware)
    mfu = args.get("mfu", MFU)
    if not 0 < mfu <= 1:
        raise InputError(f"--mfu is {mfu:g}; it is a share of the peak, above 0 and at most 1")
    if args.get("price", 0) < 0:
        raise InputError(f"--price is {args.price:g}; give that of a device for an hour")
    if "samples" in args:
        _number(args.samples)
    if args.get("all"):
        _all(args, mfu)
        return
    with waiting(f"counting the operations of {args.method}"):
        row = _row(args, args.method, mfu)
    if args.get("json"):
        show_json(row)
    else:
        show_table(*_table(args, row))


def _number(text: str) -> float:
    """Return the number of samples that a text such as 400M says.

    >>> _number("400M"), _number("1.5b"), _number("2_000")
    (400000000.0, 1500000000.0, 2000.0)
    """
    unit = _UNITS.get(text[-1:].upper())
    try:
        number = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        number = math.nan
    if not 1 <= number < math.inf:
        raise InputError(f"--samples {text!r} is no number of samples; write such as 400M or 1.2B")
    return number


def _count(args: Namespace, method: str) -> "Counted":
    from diptych.testing.costs import count_preset

    names = {"image_tower": "image", "text_tower": "text"}
    towers = {field: args[name] for name, field in names.items() if name in args}
    recipe = {name: args[name] for name in _CHANGED[2:] if name in args}
    return count_preset(method, args.get("preset", "paper"), towers=towers, recipe=recipe)


def _row(args: Namespace, method: str, mfu: float) -> dict[str, Any]:
    """Return the estimate of one method, as plain values."""
    from diptych.training.hardware import hardware
    from diptych.training.layout import plan

    count, device = hardware(args.hardware)
    counted = _count(args, method)
    costs = counted.costs
    layout = plan(costs, count, device)
    seconds = layout.seconds(device, costs.precision, mfu)
    steps = counted.preset.recipe.steps
    samples = costs.batch_size * steps if steps else None
    if "samples" in args:
        samples = _number(args.samples)
    hours = None if samples is None else samples / costs.batch_size * seconds / 3600
    price = args.get("price")
    return {
        "method": method,
        "preset": args.get("preset", "paper"),
        "hardware": args.hardware,
        "parameters": costs.parameters,
        "trained": costs.trained,
        "precision": costs.precision,
        "batch_size": costs.batch_size,
        "gflops_a_sample": layout.step_flops / costs.batch_size / 1e9,
        "loss_counted": costs.loss_flops is not None,
        "not_counted": _not_counted(counted),
        "devices": layout.devices,
        "samples_a_device": layout.samples,
        "chunk": layout.chunk,
        "shard": layout.shard,
        "command": f"{layout.command} train {method} {_flags(args)} {layout.flags}".strip(),
        "memory": {kind: round(value) for kind, value in layout.memory.items()},
        "memory_bytes": round(layout.bytes),
        "device_bytes": round(device.memory),
        "mfu": mfu,
        "step_seconds": seconds,
        "samples_a_second": costs.batch_size / seconds,
        "samples": samples,
        "hours": hours,
        "device_hours": None if hours is None else hours * layout.devices,
        "cost": None if hours is None or price is None else hours * layout.devices * price,
    }


def _flags(args: Namespace) -> str:
    given = [name for name in _CHANGED if name in args]
    words = [f"--{name.replace('_', '-')} {args[name]}" for name in given]
    return " ".join([f"--preset {args.get('preset', 'paper')}", *words])


def _not_counted(counted: "Counted") -> list[str]:
    missing = [f"{option} {model}" for option, model in counted.left_out.items()]
    if counted.costs.loss_flops is None:
        missing.append(counted.costs.uncounted)
    if counted.costs.before_flops is None:
        missing.append("what is computed of each sample before the steps")
    return missing


def _table(args: Namespace, row: dict[str, Any]) -> tuple[str, list[str], list[list[str]], str]:
    gb = {kind: f"{kind} {value / 1e9:.1f}" for kind, value in row["memory"].items()}
    lines = [
        ["parameters", f"{row['parameters'] / 1e6:,.1f} M, trained {row['trained'] / 1e6:,.1f} M"],
        [
            "batch",
            f"{row['batch_size']:,} samples, {row['samples_a_device']:,} a device, {row['precision']}",
        ],
        ["operations", f"{row['gflops_a_sample']:,.1f} GFLOPs a sample, forward and backward"],
        ["layout", _layout(row)],
        [
            "memory a device",
            f"{row['memory_bytes'] / 1e9:.1f} of {row['device_bytes'] / 1e9:g} GB: {', '.join(gb.values())}",
        ],
        [
            "rate",
            f"{row['samples_a_second']:,.0f} samples/s, a step in {row['step_seconds']:.3g} s",
        ],
        ["time", _time(row)],
    ]
    if row["cost"] is not None:
        lines.append(["cost", f"{row['cost']:,.0f} at {args.price:g} a device and hour"])
    if row["not_counted"]:
        lines.append(["not counted", "; ".join(row["not_counted"])])
    lines.append(["train with", row["command"]])
    note = (
        f"assumes {row['mfu']:.0%} of the peak (--mfu), 1.5 GB for libraries and 10 % for temporaries on each "
        "device; rows that a loss selects by data count as all; reading data is not counted"
    )
    return f"{row['method']}, preset {row['preset']}, on {row['hardware']}", ["", ""], lines, note


def _layout(row: dict[str, Any]) -> str:
    ways = [f"{row['devices']} device{'s' if row['devices'] > 1 else ''}"]
    if row["devices"] > 1:
        ways.append("sharded (FSDP)" if row["shard"] else "a whole model on each (DDP)")
    if row["chunk"]:
        ways.append(f"in pieces of {row['chunk']:,} tokens (gradient caching)")
    return ", ".join(ways)


def _time(row: dict[str, Any]) -> str:
    if row["hours"] is None:
        return "the recipe counts epochs of data that it does not hold; say how many samples with --samples"
    return (
        f"{duration(row['hours'] * 3600)} for {row['samples']:,.0f} samples, "
        f"{row['device_hours']:,.1f} device hours"
    )


def _all(args: Namespace, mfu: float) -> None:
    from diptych.methods.registry import cards, method_class

    preset = args.get("preset", "paper")
    names = [
        name
        for name, card in cards().items()
        if card.kind != "analysis" and preset in getattr(method_class(name), "presets", {})
    ]
    if not names:
        raise InputError(f"no method has a preset {preset!r}; give --preset paper or small")
    rows = []
    with progress("methods") as report:
        for done, name in enumerate(names):
            try:
                rows.append(_row(args, name, mfu))
            except InputError as error:
                rows.append({"method": name, "error": str(error)})
            report(done + 1, len(names))
    if args.get("json"):
        show_json(rows)
        return
    columns = ["method", "parameters", "GFLOPs", "batch", "layout", "GB", "samples/s", "time"]
    show_table(
        f"preset {preset} on {args.hardware}",
        columns,
        [_cells(row) for row in rows],
        note=f"GFLOPs a sample; GB a device; at {mfu:.0%} of the peak",
    )


def _cells(row: dict[str, Any]) -> list[Any]:
    """Return the cells of a line of `--all`; in parentheses what is counted without its loss or its
    models."""
    if "error" in row:
        return [row["method"], "", "", "", row["error"], "", "", ""]
    time = "" if row["hours"] is None else duration(row["hours"] * 3600)
    gflops = f"{row['gflops_a_sample']:,.1f}"
    ways = [word for word, used in (("chunk", row["chunk"]), ("shard", row["shard"])) if used]
    return [
        row["method"],
        f"{row['parameters'] / 1e6:,.1f} M",
        f"> {gflops}" if row["not_counted"] else gflops,
        f"{row['batch_size']:,}",
        f"{row['devices']} x {' '.join(ways) or 'whole'}",
        f"{row['memory_bytes'] / 1e9:.1f}",
        f"{row['samples_a_second']:,.0f}",
        time,
    ]
