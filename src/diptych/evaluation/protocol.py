"""The protocol of a result: everything that must be equal before two results can be compared."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diptych.data.sample import Source
from diptych.spec import split_options, split_specs


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What was measured, on which data, and how. The model is not part of it: a protocol serves to
    compare models."""

    task: str
    data: str  # the source's name, without the folders that differ from machine to machine
    split: str  # number of samples and a hash of their keys
    field: str  # what was matched: role of the texts, or the label
    prompts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    rule: str = ""  # how several correct answers, equal texts and ties are counted
    decoding: str = "full"  # "scaled": large JPEGs decoded at a part of their size
    precision: str = "float32"
    options: tuple[
        str, ...
    ] = ()  # "key=value" of anything else that affects the result: training data of a probe, seed

    def id(self) -> str:
        """Return 12 hexadecimal digits that change whenever any part changes.

        >>> a = Protocol(task="retrieval", data="glyphs", split="192:0f", field="caption")
        >>> b = Protocol(task="retrieval", data="glyphs", split="192:0f", field="caption", precision="bfloat16")
        >>> len(a.id()), a.id() == b.id()
        (12, False)
        """
        parts = asdict(self)
        if not self.options:
            del parts["options"]  # keeps the ids that protocols had before there were options
        text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def split_of(keys: Sequence[str]) -> str:
    """Return a string that identifies the samples of a source: their number, and a hash of their
    keys in order.

    >>> split_of(["a", "b"]) == split_of(["a", "b"]) != split_of(["b", "a"])
    True
    """
    digest = hashlib.sha256()
    for key in keys:
        digest.update(json.dumps(key).encode() + b"\n")
    return f"{len(keys)}:{digest.hexdigest()[:12]}"


def protocol_of(
    task: str, source: Source, model: object, *, exact: bool = True, **parts: Any
) -> Protocol:
    """Return the protocol of a task on a source, with the model's precision.

    `exact` is how images were decoded. `parts` are the other fields: field, prompts, classes, rule,
    options.
    """
    return Protocol(
        task=task,
        data=data_of(source),
        split=split_of(source.keys()),
        decoding="full" if exact else "scaled",
        precision=precision_of(model),
        **parts,
    )


def describe(protocol: Protocol, model: object) -> dict[str, object]:
    """Return what every result stores beside its numbers: the protocol, its id, and the identity of
    the model."""
    return {
        "protocol": protocol.id(),
        "task": protocol.task,
        "data": protocol.data,
        "split": protocol.split,
        "field": protocol.field,
        "prompts": list(protocol.prompts),
        "rule": protocol.rule,
        "options": list(protocol.options),
        "decoding": protocol.decoding,
        "precision": protocol.precision,
        "model": getattr(model, "identity", ""),
        **({"space": space} if (space := getattr(model, "chosen_space", None)) else {}),
    }


def precision_of(model: object) -> str:
    """Return the precision that a model computes in, and by what if not by torch; float32 unless it
    has another."""
    own = str(getattr(model, "precision", "float32")).removeprefix("torch.")
    return str(getattr(model, "computed_by", own))


def data_of(source: Source) -> str:
    """Return the name of a source without its folders but with its options: data in another folder
    is the same data."""
    parts = (split_options(part) for part in split_specs(source.name))
    return ",".join(re.split(r"[/\\]", name.rstrip("/\\"))[-1] + options for name, options in parts)
