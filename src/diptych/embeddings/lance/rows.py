"""The rows of folders of embeddings in the columns of a Lance dataset."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.embeddings.build import part_of
from diptych.embeddings.columns import ALWAYS, Kind
from diptych.embeddings.conditions import compute
from diptych.embeddings.index import Index, read_schema
from diptych.embeddings.ivf import State
from diptych.embeddings.lance.table import MANIFEST, ORIGIN, VECTOR, reason, refuse_columns, written
from diptych.embeddings.layout import Manifest
from diptych.errors import InputError

_ARROW = {"text": "string", "int": "int64", "float": "double"}


def schema_of(parts: Sequence[Index]) -> Any:
    """Return the schema of a dataset of folders. Raises InputError if they do not fit together."""
    import pyarrow

    first = parts[0]
    columns = first.kinds
    refuse_columns(columns, first.folder)
    types = {name: _ARROW[kind] for name, kind in columns.items()}
    for part in parts:
        refuse_other(first.name, first.manifest, columns, part)
        for path in part.metadata:
            found = read_schema(path)
            for name in columns:  # whole numbers of one file may be decimals in another
                if name in found.names and str(found.field(name).type) == "double":
                    types[name] = "double"
    fields = {
        VECTOR: pyarrow.list_(pyarrow.float32(), first.manifest.dimension),
        **{name: pyarrow.type_for_alias(kind) for name, kind in types.items()},
        ORIGIN: pyarrow.string(),
    }
    # The damaged samples are of the folder, and every version would repeat their keys.
    kept = {name: kind for name, kind in columns.items() if name not in ALWAYS}
    manifest = replace(first.manifest, damaged={}, columns=kept)
    return pyarrow.schema(fields, metadata={MANIFEST: written(manifest)})


def refuse_other(name: str, manifest: Manifest, columns: Mapping[str, Kind], part: Index) -> None:
    """Raise InputError for a folder of another model, kind of rows or columns. Folders that were added
    to its index may lack some of its columns, where their rows have null."""
    manifest.refuse_other(name, part.name, part.manifest)
    if part.kinds != columns:
        raise InputError(
            f"{part.name} keeps other columns ({_kept(part.kinds)}) than {name} ({_kept(columns)}); embed it with "
            "the same --columns"
        )
    for path, own in zip(part.metadata, part.columns, strict=True):
        for column, kind in own.items():
            if (kind == "text") != (columns[column] == "text"):
                raise InputError(
                    f"{path.parent.parent} keeps the column {column!r} as {kind} and {name} as {columns[column]}; "
                    "embed it with a column of the same kind"
                )


def _kept(columns: Mapping[str, Kind]) -> str:
    return ", ".join(name for name in columns if name not in ALWAYS) or "none"


def fingerprints(index: Index) -> list[str]:
    """Return what distinguishes the folders of an index."""
    state = State.read(index.folder)
    parts = state.parts if state else [part_of(index.folder, index.folder)]
    return [part.fingerprint for part in parts]


def batches(schema: Any, parts: Sequence[Index]) -> Iterator[Any]:
    """Yield the rows of folders that a search finds. Raises InputError for values that do not fit."""
    for part in parts:
        for source, vectors, table in part.blocks():
            yield _batch(schema, vectors, table, source, part.name)


def _batch(schema: Any, vectors: np.ndarray, table: Any, source: str, name: str) -> Any:
    """Return rows in the columns of the dataset. Raises InputError for numbers that do not fit."""
    import pyarrow

    arrays = []
    for field in schema:
        if field.name == VECTOR:
            flat = pyarrow.array(np.ascontiguousarray(vectors).ravel())
            arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
        elif field.name == ORIGIN:
            arrays.append(pyarrow.array([source] * len(vectors)))
        else:
            arrays.append(_values(field, table[field.name].combine_chunks(), name))
    return pyarrow.record_batch(arrays, schema=schema)


def _values(field: Any, values: Any, name: str) -> Any:
    import pyarrow

    try:
        values = values.cast(field.type)
    except pyarrow.ArrowInvalid as error:
        raise InputError(
            f"{name}: column {field.name!r} does not fit {field.type}, in which the store has it ({reason(error)}); "
            "write the store anew from all folders"
        ) from None
    if pyarrow.types.is_floating(field.type):
        if compute().any(compute().is_nan(values)).as_py():
            raise InputError(f"{name}: column {field.name!r} holds NaN; run `diptych embed` again")
        values = compute().add(values, 0.0)  # engines differ on whether -0.0 equals 0.0
    return values
