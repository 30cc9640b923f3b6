"""Random access to the rows of a table, by an index of the rows' offsets."""

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from diptych.data.sample import BadSample
from diptych.data.sources import cache
from diptych.data.sources.records import read_json, read_text
from diptych.errors import InputError, brief

csv.field_size_limit(1 << 24)  # Python's default of 128 KB is too small for long documents


class Rows(Protocol):
    """A table. `rows[i]` is a dict of the non-empty columns; raises BadSample if the row is
    damaged."""

    path: str

    @property
    def columns(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def scan(self) -> Iterator[dict[str, Any] | BadSample]:
        """Yield every row in order, without columns of encoded images; a damaged row as its
        error."""
        ...

    def classes(self) -> Mapping[str, Sequence[str]]:
        """Class names that the file declares."""
        ...


_RATIO = 200  # of the sizes of a text before and after gzip, at most
_UNPACKED = 1 << 26  # bytes that any file may unpack to
_DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}


def open_rows(path: str, delimiter: str | None = None) -> Rows:
    """The rows of a .csv, .tsv, .jsonl, .jsonl.gz or .parquet file. Raises InputError if it is empty or has
    another format.

    `delimiter` separates the cells of a .csv or .tsv file: a character, or tab, comma, semicolon or
    pipe. The default is tabs for .tsv, and for .csv commas if the first line has any, else tabs,
    semicolons or pipes.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".parquet", ".jsonl", ".gz"):
        if delimiter is not None:
            raise InputError(
                f"{path}: cells have delimiters in .csv and .tsv files alone; leave out :delimiter"
            )
        if suffix == ".parquet":
            return ParquetRows(path)
        return JsonRows(path, unpacked(path) if suffix == ".gz" else None)
    if delimiter is None:
        return CsvRows(path, delimiter="\t" if suffix == ".tsv" else _sniffed(path))
    delimiter = _DELIMITERS.get(delimiter, delimiter)
    if len(delimiter) != 1 or delimiter in '"\r\n' or not delimiter.isascii():
        raise InputError(
            f"{path}: delimiter {delimiter!r} is none; give {', '.join(_DELIMITERS)}, or one sign"
        )
    return CsvRows(path, delimiter=delimiter)


def _sniffed(path: str) -> str:
    """The delimiter of the first line: a comma, else the one that gives the most cells."""
    with Path(path).open("rb") as file:
        line = file.readline(1 << 20).decode("latin-1")
    line = line.partition("\r")[0]
    cells = {
        sign: len(next(csv.reader([line], delimiter=sign), [])) for sign in _DELIMITERS.values()
    }
    return "," if cells[","] > 1 else max(cells, key=lambda sign: cells[sign])


class _Lines:
    """The bytes of each row of a text file, by an array of offsets. `file` is read; errors name
    `path`."""

    path: str
    file: str
    _offsets: np.ndarray

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def _row(self, data: bytes, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def _line(self, index: int) -> bytes:
        start = int(self._offsets[index])
        stop = int(self._offsets[index + 1])
        with Path(self.file).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(stop - start)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return self._row(self._line(index), index)

    def scan(self) -> Iterator[dict[str, Any] | BadSample]:
        """Yield every row in order; a damaged one as its error."""
        with Path(self.file).open("rb") as file:
            file.seek(int(self._offsets[0]))
            for index, size in enumerate(np.diff(self._offsets).tolist()):
                try:
                    yield self._row(file.read(size), index)
                except BadSample as bad:
                    yield bad

    def classes(self) -> Mapping[str, Sequence[str]]:
        """Empty: text files declare no class names."""
        return {}


def _filled(path: str, blank: bool = False) -> np.ndarray:
    """The offset of each line that is not blank, or with `blank` of all, and the end of the file."""

    def offsets() -> Iterator[int]:
        position = 0
        with Path(path).open("rb") as lines:
            for line in lines:
                if blank or line.strip():
                    yield position
                position += len(line)
        yield position

    return np.fromiter(offsets(), np.int64)


class CsvRows(_Lines):
    """Rows of delimited text, with strings in all cells.

    The first row has the column names, unless `columns` are given; `quoted` sets whether quotes
    delimit cells.
    """

    def __init__(
        self, path: str, *, delimiter: str = ",", columns: Sequence[str] = (), quoted: bool = True
    ):
        self.path = self.file = path
        self._dialect: dict[str, Any] = {
            "delimiter": delimiter,
            "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            "skipinitialspace": delimiter == "|",
        }
        with Path(path).open("rb") as file:
            offsets = list(self._starts(file))
        if not columns and len(offsets) > 1:
            self._offsets = np.array(offsets[:2], np.int64)
            columns = self._head()
            offsets = offsets[1:]
        self.columns = list(columns)
        self._offsets = np.array(offsets, np.int64)
        if len(self) < 1:
            raise InputError(
                f"{path}: the table has no rows; it needs a line of column names and a line for each text"
            )

    def _starts(self, file: BinaryIO) -> Iterator[int]:
        """The offset of each row (a quoted cell may contain line breaks), and the end of the last
        one."""
        position = 0

        def lines() -> Iterator[str]:
            nonlocal position
            for line in file:
                position += len(line)
                yield line.decode("latin-1")  # accepts any byte; delimiters and quotes are ASCII

        start = 0
        try:
            for cells in csv.reader(lines(), **self._dialect):
                if cells:
                    yield start
                start = position
        except csv.Error as error:
            raise InputError(
                f"{self.path}: not a table of delimited text ({error}); check its quotes"
            ) from error
        yield start

    def _head(self) -> list[str]:
        try:
            columns = [name.strip() for name in self._cells(self._line(0))]
        except BadSample as bad:
            raise InputError(
                f"{self.path}: its first line is not UTF-8; save the table as UTF-8"
            ) from bad
        if len(set(columns)) < len(columns):
            raise InputError(
                f"{self.path}: its first line names a column twice; name each column once"
            )
        return columns

    def _cells(self, data: bytes) -> list[str]:
        return next(csv.reader(io.StringIO(read_text(data), newline=""), **self._dialect), [])

    def _row(self, data: bytes, index: int) -> dict[str, Any]:
        cells = self._cells(data)
        if len(cells) != len(self.columns):
            raise BadSample(
                "columns", f"row {index + 1} has {len(cells)} cells, not {len(self.columns)}"
            )
        return {
            name: cell.strip()
            for name, cell in zip(self.columns, cells, strict=True)
            if cell.strip()
        }


class TextRows(_Lines):
    """Lines of text, each the caption of a row; blank lines are left out, but for `blank`."""

    columns: Sequence[str] = ("caption",)

    def __init__(self, path: str, blank: bool = False):
        self.path = path
        self.file = path
        self._offsets = _filled(path, blank)
        if len(self) < 1:
            raise InputError(f"{path}: the file has no lines; it needs a text on each")

    def _row(self, data: bytes, index: int) -> dict[str, Any]:
        return {"caption": read_text(data).strip()}


class JsonRows(_Lines):
    """Rows of a file with one JSON object per line."""

    def __init__(self, path: str, file: str | None = None):
        self.path = path
        self.file = file or path
        self._offsets = _filled(self.file)
        if len(self) < 1:
            raise InputError(f"{path}: the file has no lines; it needs a JSON object on each")
        self.columns = list(self._first())

    def _first(self) -> dict[str, Any]:
        for row in itertools.islice(self.scan(), 100):
            if not isinstance(row, BadSample):
                return row
        raise InputError(
            f"{self.path}: no JSON objects in its first lines; it needs one on each line"
        )

    def _row(self, data: bytes, index: int) -> dict[str, Any]:
        return read_json(data)


def unpacked(path: str) -> str:
    """A copy of a gzip file in the user's cache, unpacked once, since gzip has no random access.

    Raises InputError for a damaged file, and for one that unpacks to far more than texts do.
    """
    most = max(_UNPACKED, _RATIO * Path(path).stat().st_size)

    def unpack(file: BinaryIO) -> None:
        try:
            with gzip.open(path) as packed:
                while chunk := packed.read(1 << 20):
                    file.write(chunk)
                    if file.tell() > most:
                        raise InputError(
                            f"{path}: unpacks to more than {most:,} bytes, which texts of its size do not; "
                            "check where it came from"
                        )
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(
                f"{path}: damaged, or not a gzip file ({brief(error)}); check where it came from"
            ) from error

    place = cache.place("gzip", [path], ".jsonl")
    if not place.is_file() and not cache.write(place, unpack):
        raise InputError(
            f"{place}: cannot write the unpacked copy of {path}; make room, or set XDG_CACHE_HOME elsewhere"
        )
    return str(place)


class ParquetRows:
    """Parquet rows, copied once to the user's cache as an uncompressed Arrow file with cheap random
    access.

    Parquet stores rows in compressed groups of thousands of images; a shuffled epoch would
    decompress a group per sample.
    """

    def __init__(self, path: str):
        self.path = path
        self._arrow = cache.place("parquet", [path], ".arrow")
        self._table: Any = None
        if len(self) < 1:
            raise InputError(f"{path}: the table has no rows")
        self.columns = list(self._open().column_names)

    def _copy(self, file: BinaryIO) -> None:
        pyarrow, parquet = _pyarrow(self.path)
        with self._named():
            reader = parquet.ParquetFile(self.path)
            batches = reader.iter_batches(batch_size=256)
        with pyarrow.ipc.new_file(file, reader.schema_arrow) as writer:
            while True:
                with self._named():
                    batch = next(batches, None)
                if batch is None:
                    return
                writer.write_batch(batch)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Context that turns errors of reading the file into InputErrors; pyarrow's may be
        OSErrors, like those of writing."""
        pyarrow, _ = _pyarrow(self.path)
        try:
            yield
        except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
            raise InputError(
                f"{self.path}: damaged, or not a Parquet file ({brief(error)}); check where it came from"
            ) from error

    def _map(self, arrow: Path) -> Any:
        pyarrow, _ = _pyarrow(self.path)
        return pyarrow.ipc.open_file(pyarrow.memory_map(str(arrow))).read_all()

    def _open(self) -> Any:
        if self._table is None:
            self._table = cache.read(self._arrow, self._map)
        if self._table is None:
            if not cache.write(self._arrow, self._copy):
                raise InputError(
                    f"{self._arrow}: cannot write the unpacked copy of {self.path}; make room, or set XDG_CACHE_HOME "
                    "elsewhere"
                )
            self._table = self._map(self._arrow)
        return self._table

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}  # each worker maps the file again

    def __len__(self) -> int:
        return self._open().num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return _plain_row(self._open().slice(index, 1), index)

    def scan(self) -> Iterator[dict[str, Any] | BadSample]:
        """Yield every row in order, without encoded images."""
        light = [name for name in self.columns if not _holds_bytes(self._open()[name])]
        if not light:
            yield from ({} for _ in range(len(self)))
            return
        number = 0
        for batch in self._open().select(light).to_batches(max_chunksize=1024):
            for at in range(batch.num_rows):
                try:
                    yield _plain_row(batch.slice(at, 1), number)
                except BadSample as bad:
                    yield bad
                number += 1

    def classes(self) -> Mapping[str, Sequence[str]]:
        """Class names in the file's metadata, as written by Hugging Face's `datasets`."""
        metadata = self._open().schema.metadata or {}
        try:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            return {
                name: feature["names"] for name, feature in features.items() if "names" in feature
            }
        except (KeyError, TypeError, ValueError):
            return {}


def _plain_row(row: Any, index: int) -> dict[str, Any]:
    """A slice of one row as Python values. Raises BadSample: utf8, or columns (an invalid time,
    …)."""
    try:
        [values] = row.to_pylist()
    except UnicodeDecodeError as error:
        raise BadSample("utf8", f"row {index + 1}: {error}") from error
    except (ValueError, ArithmeticError, NotImplementedError) as error:
        raise BadSample("columns", f"row {index + 1}: {brief(error)}") from error
    return {name: value for name, value in values.items() if value is not None}


def _holds_bytes(column: Any) -> bool:
    """Whether a column holds images: bytes, or `datasets`' structs with a non-empty field
    `bytes`."""
    from pyarrow import types

    if types.is_struct(column.type) and (at := column.type.get_field_index("bytes")) >= 0:
        return column.flatten()[at].null_count < len(column)
    return types.is_binary(column.type) or types.is_large_binary(column.type)


def _pyarrow(path: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"{path}: Parquet needs pyarrow; install it with pip install 'diptych[data]'"
        ) from error
    return pyarrow, pyarrow.parquet
