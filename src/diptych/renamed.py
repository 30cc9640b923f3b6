"""Renamed and removed options: saved files still load, and errors give the new name.

`RENAMED` and `REMOVED` are the tables. Code that reads a saved file translates its old names, with a warning
(`current`, `translated`). An old name from a user, on the command line or in Python, raises an
error with the new name (`refuse`).
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diptych.errors import InputError

RENAMED: Mapping[str, Mapping[str, str]] = {
    "negatives of dreamlip": {"picture": "image"},
    "option of clim": {"most": "max_boxes"},
    "option of cocoop": {"length": "n_ctx", "start": "init_from_template"},
    "option of cones": {"most": "max_boxes"},
    "option of coop": {"length": "n_ctx", "start": "init_from_template", "own": "class_specific"},
    "option of cosmo": {"least_bytes": "min_bytes", "least_similarity": "min_similarity"},
    "option of debcse": {"least_positive": "min_positive", "most_negative": "max_negative"},
    "option of denseclip": {"most": "max_boxes"},
    "option of dito": {"most": "max_boxes"},
    "option of doco": {"most": "max_boxes"},
    "option of generative_negatives": {"least_itm": "min_itm", "least_iva": "min_iva"},
    "option of hydra": {"least": "min_per_class"},
    "option of ivlp": {"length": "n_ctx", "image_length": "image_n_ctx"},
    "option of lora": {"rank": "r"},
    "option of maple": {"length": "n_ctx"},
    "option of multi_view": {"pictures": "images"},
    "option of nevlp": {"least": "min_count", "most": "max_concepts"},
    "option of proapo": {"most": "max_templates"},
    "option of scenes": {"hands": "designs"},
    "option of villa": {"most": "max_boxes"},
    "option of vladva": {"most": "longest"},
    "source": {"kept": "filtered"},
    "suite": {"flags": "noisy_pairs", "likeness": "clip_i"},
}
"""Old names and their new names, by kind: "option of METHOD", "OPTION of METHOD" for values, and so
on."""

REMOVED: Mapping[str, tuple[str, ...]] = {"visualness": ("null_positives",)}
"""Options that methods no longer have: those of saved files are left out, with a warning."""


def current(kind: str, name: str, file: Path) -> str:
    """The current form of a name in a saved file; warns if the name is an old one.

    >>> current("option of coop", "template", Path("model.json"))
    'template'
    """
    new = RENAMED.get(kind, {}).get(name)
    if new is None:
        return name
    warnings.warn(
        f"{file}: {kind} {name!r} is called {new!r} now, and is read as that",
        FutureWarning,
        stacklevel=2,
    )
    return new


def translated(owner: str, saved: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The saved options of `owner`, with names and values translated and removed options left out;
    warns for each.

    Raises InputError if the file has an option under both its names.
    """
    kind = f"option of {owner}"
    for old, new in RENAMED.get(kind, {}).items():
        if old in saved and new in saved:
            raise InputError(
                f"{file} gives the {kind} {new!r} by its old name {old!r} too; leave one of them out"
            )
    removed = [name for name in REMOVED.get(owner, ()) if name in saved]
    for name in removed:
        warnings.warn(
            f"{file}: the {kind} {name!r} is gone, and is left out", FutureWarning, stacklevel=2
        )
    kept = {name: value for name, value in saved.items() if name not in removed}
    options = {current(kind, name, file): value for name, value in kept.items()}
    return {
        name: current(f"{name} of {owner}", value, file) if isinstance(value, str) else value
        for name, value in options.items()
    }


def refuse(kind: str, names: Iterable[str]) -> None:
    """Raise InputError for the first of `names` that is an old one.

    >>> refuse("option of coop", ["template", "length"])
    Traceback (most recent call last):
    diptych.errors.InputError: the option of coop 'length' is called 'n_ctx' now; write 'n_ctx'
    """
    for name in names:
        if (new := RENAMED.get(kind, {}).get(name)) is not None:
            raise InputError(f"the {kind} {name!r} is called {new!r} now; write {new!r}")
