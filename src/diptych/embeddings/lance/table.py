"""The dataset at `lancedb:PATH`: its address, its columns, and what it says of itself.

    vector                                    float32 (E,), unit norm
    key, position, image_path, caption, …     the columns of `metadata.parquet`
    origin                                    the source that the row was embedded from

The schema's metadata hold the `Manifest` of the embeddings and the `State` of the index. Every commit
is a version. A change takes several: meanwhile the tag `diptych-unfinished` marks the version before
it, which is opened in place of the newest.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from diptych.embeddings.columns import ALWAYS, Kind
from diptych.embeddings.layout import FORMAT as EMBEDDINGS
from diptych.embeddings.layout import Manifest
from diptych.errors import InputError, brief
from diptych.spec import Count, Natural, check_record, parse, split_options

SCHEME = "lancedb:"
FORMAT = "diptych-lance/1"
VECTOR = "vector"
ORIGIN = "origin"
ADDRESS = "_rowaddr"
"""Lance's number of a row: that of its fragment in the upper 32 bits, its place in it in the lower."""

MANIFEST = "diptych.manifest"
STATE = "diptych.index"
UNFINISHED = "diptych-unfinished"

_TAKEN = {VECTOR, ORIGIN, ADDRESS, "_rowid", "_rowoffset", "_distance", "_score"}
_FULL = ("No space left", "os error 28", "Disk quota", "File too large")
_WHERE_IN_RUST = re.compile(r",? */[^ ,]*\.rs:\d+:\d+")


@dataclass(frozen=True, slots=True)
class Address:
    """A path or a URL that Lance reads, and a version; None is the newest.

    >>> Address.parse("lancedb:s3://bucket/shop:version=3")
    Address(path='s3://bucket/shop', version=3)
    """

    path: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises InputError for a text without a path, and for unknown options."""
        spec = parse(text.removeprefix(SCHEME) or ":")
        version = spec.options.pop("version", None)
        if spec.name.strip(":") == "" or spec.options:
            raise InputError(
                f"{text!r} is no address of a store; write {SCHEME}PATH or {SCHEME}PATH:version=3"
            )
        if version is not None and (not isinstance(version, int) or version < 1):
            raise InputError(f"{text!r} names no version; versions are numbers from 1")
        remote = "://" in spec.name
        return cls(spec.name if remote else str(Path(spec.name).expanduser()), version)

    def __str__(self) -> str:
        return f"{SCHEME}{self.path}" + (f":version={self.version}" if self.version else "")

    @property
    def local(self) -> Path | None:
        """The folder, if it is not a URL."""
        return None if "://" in self.path else Path(self.path)

    @property
    def place(self) -> str:
        """What Lance opens."""
        return self.path if self.local is None else str(self.local.absolute())


@dataclass(frozen=True, kw_only=True)
class State:
    """The index of a dataset, and the recall that it promises, as `embeddings.ivf.State` has it.

    `nprobe` of the `lists` lists are read, and the best `candidates` by their codes are compared
    anew. `lists` is 0 for a dataset of few rows, which is searched exactly. `fingerprints` are of
    the folders that were written (`embeddings.ivf.fingerprint`).
    """

    recall: float
    k: Count
    lists: Natural
    nprobe: Natural
    candidates: Natural
    measured: dict[str, float]
    held_out: Natural
    fingerprints: list[str]
    format: str = FORMAT


def library() -> ModuleType:
    """Return lance, which the extra `lance` installs."""
    os.environ.setdefault("LANCE_LOG", "error")  # its warnings are for those who program with it
    try:
        import lance
    except ImportError:
        raise InputError(
            f"a store {SCHEME}PATH needs pylance; install it with: pip install 'diptych[lance]'"
        ) from None
    return lance


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Context that turns what Lance raises for files that are damaged, missing or out of reach into an
    InputError."""
    with _translated(
        lambda why: (
            f"{name} cannot be read ({why}); check that it can be reached, open another version with "
            f"{_plain(name)}:version=N, or {_anew(name)}"
        )
    ):
        yield


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Context that turns what Lance raises while it writes into an InputError."""

    def message(why: str) -> str:
        if any(text in why for text in _FULL):
            return f"no space left to write {name}; what it held is unchanged, make room and go on"
        return f"{name} cannot be written ({why}); check that it can be reached and that you may write there"

    with _translated(message):
        yield


@contextmanager
def _translated(message: Callable[[str], str]) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(message(reason(error))) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a failed assertion of Rust; not an Exception
            raise
        raise InputError(message(reason(error))) from None


def reason(error: BaseException) -> str:
    """Return the message of an error of Lance in one line, without places in its code."""
    return brief(_WHERE_IN_RUST.sub("", str(error)).replace("\n", " "), 300)


def exists(address: Address) -> bool:
    """Whether there is a dataset. Raises InputError if the place cannot be reached."""
    return _found(address) is not None


def _found(address: Address) -> Any:
    lance = library()
    if address.local is not None and not address.local.is_dir():
        return None
    try:
        with reading(str(address)):
            try:
                return lance.dataset(address.place)
            except ValueError as error:
                if "was not found" not in str(error):
                    raise
                return None
    except InputError as error:
        if "No object store provider" in str(error):
            raise InputError(
                f"{address} has a scheme that Lance does not read; name a folder, or a URL such as s3://bucket/path"
            ) from None
        raise


def open_dataset(address: Address) -> Any:
    """Return the dataset of an address in its version; without one in the newest whose change was
    finished.

    Raises InputError if there is none, or none that diptych wrote.
    """
    dataset = _found(address)
    if dataset is None:
        raise InputError(
            f"{address} holds no LanceDB table; make one with `diptych index EMB --to {SCHEME}{address.path}`"
        )
    if address.version is not None:
        return _version(dataset, address)
    with reading(str(address)):
        if UNFINISHED in dataset.tags.list():
            dataset = dataset.checkout_version(UNFINISHED)
    return dataset


def _version(dataset: Any, address: Address) -> Any:
    try:
        return dataset.checkout_version(address.version)
    except (OSError, ValueError, RuntimeError) as error:
        with reading(str(address)):
            have = [each["version"] for each in dataset.versions()]
            if address.version in have:
                raise error
        raise InputError(
            f"{SCHEME}{address.path} has no version {address.version}; there are {_ranges(have)}"
        ) from None


def _ranges(numbers: list[int]) -> str:
    """
    >>> _ranges([1, 2, 3, 7])
    '1 to 3, 7'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def manifest_of(dataset: Any, name: str) -> Manifest:
    """Return the manifest of the embeddings in a dataset, after checking its columns.

    Raises InputError for a dataset that diptych did not write, or that another program changed.
    """
    values = _record(dataset, MANIFEST, name)
    if values is None:
        raise InputError(
            f"{name} is a table that diptych did not write; name another path with `diptych index EMB --to`"
        )
    manifest = Manifest(**check_record(Manifest, values, Path(name), _anew(name)))
    if manifest.format != EMBEDDINGS:
        raise InputError(
            f"{name} is of format {brief(repr(manifest.format))}, this version reads {EMBEDDINGS!r}; {_anew(name)}"
        )
    import pyarrow

    wanted = {
        VECTOR: pyarrow.list_(pyarrow.float32(), manifest.dimension),
        ORIGIN: pyarrow.string(),
    }
    for column, kind in wanted.items():
        if column not in dataset.schema.names or dataset.schema.field(column).type != kind:
            raise InputError(f"{name} has no column {column!r} of {kind}; {_anew(name)}")
    lacking = [column for column in (*ALWAYS, *manifest.columns) if not _kind(dataset, column)]
    if lacking:
        raise InputError(f"{name} has lost its column {lacking[0]!r}; {_anew(name)}")
    return manifest


def _anew(name: str) -> str:
    return f"build it anew with `diptych index EMB --to {_plain(name)}`"


def _plain(name: str) -> str:
    """Return an address without its version."""
    return split_options(name)[0]


def kinds_of(dataset: Any, manifest: Manifest) -> dict[str, Kind]:
    """Return the columns of a dataset, but for the vectors, by what Lance stores of them."""
    return {column: _kind(dataset, column) for column in (*ALWAYS, *manifest.columns)}


def _kind(dataset: Any, column: str) -> Any:
    kinds = {"string": "text", "int64": "int", "double": "float"}
    schema = dataset.schema
    return kinds.get(str(schema.field(column).type)) if column in schema.names else None


def state_of(dataset: Any, name: str) -> State | None:
    """Return the state of the index; None if there is none yet."""
    values = _record(dataset, STATE, name)
    if values is None:
        return None
    if values.get("format") != FORMAT:
        raise InputError(
            f"{name} is of format {brief(repr(values.get('format')))}, this version reads {FORMAT!r}; {_anew(name)}"
        )
    return State(**check_record(State, values, Path(name), _anew(name)))


def _record(dataset: Any, key: str, name: str) -> Any:
    text = (dataset.schema.metadata or {}).get(key.encode())
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InputError(f"{name} is damaged (its {key} is no record); {_anew(name)}")
    return values


def written(record: Manifest | State) -> str:
    """Return what is kept of a manifest or a state."""
    return json.dumps(asdict(record), ensure_ascii=False)


def refuse_columns(columns: Mapping[str, Kind], folder: Path) -> None:
    """Raise InputError for a kept column whose name Lance or the dataset has another use for."""
    for column in columns:
        if column in _TAKEN or "." in column:
            why = "no dots in names" if "." in column else "a column of its own of that name"
            raise InputError(
                f"{folder} keeps the column {column!r}, and a LanceDB table has {why}; rename it in the data and run "
                "`diptych embed --columns` again"
            )
