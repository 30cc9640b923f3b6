"""The card of an exported model, README.md, with the front matter that the Hugging Face hub
reads."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from diptych.models.model import Model, TextModel

LIBRARIES = {
    "hf": "transformers",
    "openclip": "open_clip",
    "sentence-transformers": "sentence-transformers",
    "onnx": "onnx",
}
"""The hub's names of libraries, by target."""


def card(
    model: TextModel,
    target: str,
    name: str,
    differences: Mapping[str, float],
    notes: Sequence[str],
) -> str:
    """The text of a card: use, data, recipe, scores with their protocol, and licence where the
    model's record has them.

    `differences` are the largest ones of an entry of the unit vectors, of images and texts.
    """
    lines = ["---", yaml.safe_dump(_front(model, target, name), sort_keys=False).strip(), "---"]
    lines += ["", f"# {name}", "", _what(model)]
    if target in _USE:
        lines += ["", "## Use", "", "```python", _USE[target].format(name=name), "```"]
    if training := _training(model.record):
        lines += ["", "## Training", "", *training]
    if validation := model.record.get("validation"):
        lines += ["", "## Scores", "", *_scores(validation)]
    lines += ["", "## Licence", "", _licence(model.record)]
    largest = ", ".join(f"{side} {value:.1e}" for side, value in differences.items())
    lines += ["", "## Export", ""]
    lines += [f"Largest difference of an entry of the unit vectors from diptych's own: {largest}."]
    lines += [f"\nNote: {note}." for note in notes]
    return "\n".join(lines) + "\n"


_USE = {
    "hf": 'from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("{name}")',
    "openclip": "import open_clip\n\nmodel, _, preprocess = open_clip.create_model_and_transforms("
    '"local-dir:{name}")',
    "sentence-transformers": "from sentence_transformers import SentenceTransformer\n\n"
    'model = SentenceTransformer("{name}")',
    "onnx": 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{name}/text.onnx")',
}


def _front(model: TextModel, target: str, name: str) -> dict[str, Any]:
    """The front matter. Values that are not known are left out."""
    pairs = isinstance(model, Model)
    record = model.record
    base = _base(model)
    return {
        "library_name": LIBRARIES.get(target, target),
        "pipeline_tag": "zero-shot-image-classification" if pairs else "sentence-similarity",
        "tags": ["diptych", *([record["method"]] if record.get("method") else [])],
        **({"license": record["licence"]} if record.get("licence") else {}),
        **({"base_model": base} if base else {}),
        **({"model-index": [_index(name, found)]} if (found := record.get("validation")) else {}),
    }


def _base(model: TextModel) -> str | None:
    """The repository of the hub that the model is or starts from, or None."""
    prefix, _, base = str(model.record.get("init") or model.name).partition(":")
    on_hub = prefix == "hf" and base.count("/") == 1 and not base.startswith((".", "/", "~"))
    return base if on_hub else None


def _index(name: str, validation: Mapping[str, Any]) -> dict[str, Any]:
    """The hub's form of scores."""
    source = validation["source"]
    return {
        "name": name,
        "results": [
            {
                "task": {"type": validation["suite"] or "validation"},
                "dataset": {"name": source, "type": source},
                "metrics": [
                    {"type": key, "value": value} for key, value in validation["scores"].items()
                ],
            }
        ],
    }


def _what(model: TextModel) -> str:
    sides = "images and texts" if isinstance(model, Model) else "texts"
    count = sum(parameter.numel() for parameter in model.encoder.parameters())
    return (
        f"A model of {count:,} parameters that embeds {sides} as unit vectors of "
        f"{model.encoder.embed_dim} numbers. It was exported by diptych."
    )


def _training(record: Mapping[str, Any]) -> list[str]:
    """The training as a list; nothing for a model that this package did not train."""
    if "data" not in record:
        return []
    recipe = record.get("recipe", {})
    values = ", ".join(f"{key} {value}" for key, value in recipe.items() if value is not None)
    rows = {
        "method": ", ".join([record["method"], *record.get("added", ())]),
        "start": record.get("init"),
        **{f"data ({stream})": f"`{source}`" for stream, source in record["data"].items()},
        "steps": record.get("steps"),
        "seed": record.get("seed"),
        "recipe": values,
        "damaged samples": json.dumps(record["damaged"]) if record.get("damaged") else None,
    }
    return [f"- {key}: {value}" for key, value in rows.items() if value not in (None, "")]


def _scores(validation: Mapping[str, Any]) -> list[str]:
    """A table of the validation, with its protocol."""
    suite = validation["suite"] or "validation"
    rows = [f"| {key} | {value:.4f} |" for key, value in validation["scores"].items()]
    return [
        f"Suite `{suite}` of diptych on `{validation['source']}`, at step {validation['step']:,}.",
        "",
        "| score | value |",
        "|---|---|",
        *rows,
    ]


def _licence(record: Mapping[str, Any]) -> str:
    if record.get("licence"):
        return f"{record['licence']}, as the card of the model that was loaded says."
    return "Not known. Add that of the data and of the model that training started from."
