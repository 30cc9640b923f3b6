"""Show facts about a model or run: method, size, data, tokenizer, preprocessing, checksum."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diptych.cli._model import MODELS, add_method_file, add_weights, load_model
from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import show_json, show_table
from diptych.errors import InputError

GROUP = "Look up"
USAGE = "MODEL [--json] | RUN --report"
EXAMPLES = (
    "diptych info runs/first",
    "diptych info openclip:ViT-B-32 --json",
    "diptych info runs/first --report",
)


def add(parser: Parser) -> None:
    parser.option("What", "model", help=MODELS)
    parser.option("More", "--json", type=bool, help="print JSON instead of a table")
    parser.option("More", "--report", type=bool, help="write RUN/report.html again")
    add_weights(parser)
    add_method_file(parser)


def run(args: Namespace) -> None:
    if not args.model:
        raise InputError(f"diptych info has no model; name {MODELS}")
    folder = Path(args.model).expanduser()
    if (folder / "config.yaml").is_file() and not (folder / "model.json").is_file():
        from diptych.training.config import read, resume_command

        command = resume_command(read(folder / "config.yaml"), folder)
        raise InputError(
            f"{folder} holds a run that is not finished{_where(folder)}; go on with: {command}"
        )
    if args.get("report"):
        from diptych.lab.run_report import write
        from diptych.methods.registry import method_class

        if "method" in args:
            method_class(args.method)  # runs the file
        print(f"{write(folder)} shows the run")
        return
    facts = describe(load_model(args.model, args, device="cpu"), folder)
    if args.get("json"):
        show_json(facts)
        return
    kept = facts.pop("kept") or {}
    exports = facts.pop("exports")
    relations = facts.pop("class_relations", None)
    fits = ", ".join(target for target, why in exports.items() if why is None)
    rest = [("exports to", fits or None)] if exports else []
    rest += [(f"not to {target}", why) for target, why in exports.items() if why is not None]
    rows = [
        (name, _cell(value))
        for name, value in [*facts.items(), *rest, *_each(kept)]
        if value is not None
    ]
    show_table(str(args.model), ("what", "value"), rows)
    if relations:
        show_table(
            "classes by their gates",
            ("class", "open dimensions", "nearest classes (cosine, dimensions open for both)"),
            [_related(row) for row in relations],
        )


def _related(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return the cells of a class."""
    near = [f"{each['class']} ({each['cosine']:.2f}, {each['open']})" for each in row["nearest"]]
    return row["class"], f"{row['open']} of {row['of']}", ", ".join(near)


def _each(kept: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return what a model stores, one row each; for values by class, one row per class."""
    for name, value in kept.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        yield from ((f"{name} {part}".strip(), each) for part, each in parts if each)


def _where(folder: Path) -> str:
    steps = sorted(
        int(path.name.removeprefix("step-")) for path in (folder / "state").glob("step-*")
    )
    return f" (checkpoint at step {steps[-1]})" if steps else ""


def _provenance(method: str | None) -> str | None:
    """Return from what a method was written, where it is but an abstract."""
    from diptych.methods.registry import cards

    known = cards().get(method or "")
    if known is None or known.provenance != "abstract":
        return None
    return "abstract: the method is a reconstruction"


def describe(model: Any, folder: Path) -> dict[str, Any]:
    """Return facts of a loaded model, and of its training if `folder` holds a run."""
    from diptych.methods.abilities import relates_classes

    stored: dict[str, Any] = {}
    if (folder / "model.json").is_file():
        from diptych.methods.store import read_description

        stored = read_description(folder)
    training = stored.get("training", {})
    tokenizer = getattr(model, "tokenizer", None)
    weights = folder / "model.safetensors"
    return {
        "method": stored.get("method"),
        "provenance": _provenance(stored.get("method")),
        "options": stored.get("config") or None,
        **parts(model),
        "tokenizer": tokenizer
        and f"{tokenizer.kind}, {tokenizer.vocab_size:,} words, at most {tokenizer.context} a text",
        "preprocess": model.preprocess.to_dict() if hasattr(model, "preprocess") else None,
        "data": training.get("data"),
        "steps": training.get("steps"),
        "seed": training.get("seed"),
        "skipped": training.get("skipped"),
        "damaged": training.get("damaged") or None,
        "checksum": stored.get("weights"),
        "identity": getattr(model, "identity", None),
        "megabytes": round(weights.stat().st_size / 1e6, 2) if weights.is_file() else None,
        "diptych": stored.get("diptych"),
        "exports": exports(model),
        "kept": stored.get("kept") or None,  # beside weights: classes, prompts
        **({"class_relations": model.class_relations()} if relates_classes(model) else {}),
    }


def exports(model: Any) -> dict[str, str | None]:
    """Return what keeps a model from each target of `diptych export`, None where nothing does; no
    target for a model that embeds nothing."""
    from diptych.models.export import lacking, reason, targets
    from diptych.models.model import TextModel

    if not isinstance(model, TextModel):
        return {}
    return {target: lacking(target) or reason(model, target) for target in targets()}


def parts(model: Any) -> dict[str, Any]:
    """Return the parts of a model: the towers that it has, a language model, both, or only the size
    of a module with parts of its own."""
    if not hasattr(model, "encoder") and not hasattr(model, "lm"):
        return {"parameters": count(model.delivered)}
    if not hasattr(model, "encoder"):
        spec = model.lm.config()["text"]
        if "config" in spec:  # of transformers, where each kind names depth and heads its own way
            kind = spec["config"]["model_type"]
            shape = {
                "kind": kind,
                "width": model.lm.table.embedding_dim,
                "context": model.lm.context,
            }
        else:
            shape = {name: spec[name] for name in ("width", "depth", "heads", "context")}
        return {"parameters": count(model.lm), "language_model": shape}
    encoder = model.encoder
    writes = (
        {} if not hasattr(model, "lm") else {"language_model": f"{count(model.lm):,} parameters"}
    )
    return {
        "parameters": count(encoder),
        "image_tower": _tower(encoder.image) if "image" in encoder.sides else None,
        "text_tower": _tower(encoder.text),
        "embed_dim": encoder.embed_dim,
        "spaces": list(getattr(model, "spaces", ())) or None,
        **writes,
    }


def _tower(tower: Any) -> str | None:
    return None if tower is None else f"{tower.spec['name']}, {count(tower):,} parameters"


def count(module: Any) -> int:
    """Return the number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _cell(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:,}" if isinstance(value, int) else str(value)
