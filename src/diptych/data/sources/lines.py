"""A text file whose lines are captions: `sentences.txt`, UTF-8, without images."""

from dataclasses import dataclass
from pathlib import Path

from diptych.data.compact import is_folder
from diptych.data.sources.rows import TextRows
from diptych.data.sources.table import Table
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "lines"
ANY = True


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its suffix."""
    return spec.name.lower().endswith(".txt") and not is_folder(spec)


def open(spec: Spec) -> Table:
    """Open `sentences.txt`: a sample for each line that is not blank, numbered from 0 by its key.

    Lines that are not UTF-8 are counted in `damage`. Only their offsets are held in memory. Raises
    InputError for a file without a readable line.
    """
    configure(_Options, spec.options, f"source {spec.name!r}")
    if not Path(spec.name).is_file():
        raise InputError(f"{spec.name}: no such file; check the path")
    return Table(spec.name, TextRows(spec.name))


@dataclass(frozen=True)
class _Options:
    """Text files have no options."""
