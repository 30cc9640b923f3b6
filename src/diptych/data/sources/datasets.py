"""Hugging Face `datasets`: the output of `save_to_disk`, an Arrow or Parquet file, a folder of
them, or a hub name.

`datasets:FOLDER_OR_FILE_OR_NAME[:split=train][:image=COLUMN][:text=COLUMN][:label=COLUMN]`. Rows
are read from the memory-mapped Arrow file one by one; images are decoded by `diptych.data.images`,
not by the library.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diptych.data.sample import BadSample
from diptych.data.sources.table import Table, TableOptions
from diptych.errors import InputError, brief, unknown
from diptych.spec import Spec, configure

FORMAT = "datasets"
PREFIX = "datasets:"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the prefix."""
    return spec.name.startswith(PREFIX)


@dataclass(frozen=True, kw_only=True)
class DatasetsOptions(TableOptions):
    """The options of a table, and the split, if there are several."""

    split: str | None = None


def open(spec: Spec) -> Table:
    """Open the rows of one split as a table. Raises InputError if there are none or they cannot be
    read."""
    options = configure(DatasetsOptions, spec.options, f"source {spec.name!r}")
    dataset = _load(spec.name.removeprefix(PREFIX), options.split, spec.name)
    chosen = {
        name: getattr(options, name)
        for name in TableOptions.__dataclass_fields__
        if name != "split"
    }
    return table_of(spec.name, dataset, TableOptions(**chosen))


def table_of(name: str, dataset: Any, options: TableOptions) -> Table:
    """The rows of a `datasets.Dataset`, with the image and class columns that it declares."""
    rows = DatasetRows(name, dataset)
    return Table(name, rows, replace(options, **rows.columns_of_kinds(vars(options))))


class DatasetRows:
    """The rows of a `datasets.Dataset`; images are not decoded but given as bytes or path."""

    def __init__(self, path: str, dataset: Any):
        self.path = path
        if len(dataset) < 1:
            raise InputError(f"{path}: the dataset has no rows")
        features = dataset.features
        self._images = [
            name for name, feature in features.items() if type(feature).__name__ == "Image"
        ]
        self._classes = {
            name: list(f.names) for name, f in features.items() if type(f).__name__ == "ClassLabel"
        }
        # Columns that reading would decode (sound, video, images inside lists) are no part of a
        # sample.
        heavy = [
            name
            for name, feature in features.items()
            if name not in self._images and _decodes(feature)
        ]
        self._dataset = dataset.with_format(None).remove_columns(heavy)
        for name in self._images:
            self._dataset = self._dataset.cast_column(name, replace(features[name], decode=False))
        self.columns: Sequence[str] = list(self._dataset.column_names)

    def columns_of_kinds(self, chosen: Mapping[str, str | None]) -> dict[str, str]:
        """The image and class columns that the dataset declares, for those that the options do not
        name."""
        kinds = {"image": self._images, "label": list(self._classes)}
        return {
            kind: kind if kind in names else names[0]
            for kind, names in kinds.items()
            if names and not chosen[kind]
        }

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _present(self._read(range(len(self))[index]))

    def _read(self, index: int, dataset: Any = None) -> dict[str, Any]:
        try:
            return (dataset or self._dataset)[index]
        except UnicodeDecodeError as error:
            raise BadSample("utf8", f"row {index + 1}: {error}") from error
        except (
            ValueError,
            ArithmeticError,
            NotImplementedError,
        ) as error:  # an invalid time, …
            raise BadSample("columns", f"row {index + 1}: {brief(error)}") from error

    def scan(self) -> Iterator[dict[str, Any] | BadSample]:
        """Every row in order, without encoded images."""
        heavy = [name for name in self._images if name in self._with_bytes()]
        if len(heavy) == len(self.columns):
            yield from ({} for _ in range(len(self)))
            return
        light = self._dataset.remove_columns(heavy)
        for start in range(0, len(light), 1024):
            rows = range(start, min(start + 1024, len(light)))
            try:
                batch = light[rows.start : rows.stop]
            except (
                ValueError,
                ArithmeticError,
                NotImplementedError,
            ):  # one of them cannot be read: find it
                yield from (self._one(index, light) for index in rows)
            else:
                names = list(batch)
                yield from (
                    _present(dict(zip(names, row, strict=True)))
                    for row in zip(*batch.values(), strict=True)
                )

    def _one(self, index: int, dataset: Any) -> dict[str, Any] | BadSample:
        try:
            return _present(self._read(index, dataset))
        except BadSample as bad:
            return bad

    def _with_bytes(self) -> set[str]:
        """The image columns whose bytes are in the rows, judged by the first row with an image."""
        found: set[str] = set()
        images = self._dataset.select_columns(self._images)
        for index in range(min(len(images), 100)):
            row = images[index]
            found |= {name for name in self._images if (row[name] or {}).get("bytes")}
            if any((row[name] or {}).get("path") for name in self._images) or found:
                break
        return found

    def classes(self) -> Mapping[str, Sequence[str]]:
        """The class names of its ClassLabel columns."""
        return self._classes


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _decodes(feature: Any) -> bool:
    """Whether reading a value of this feature runs a decoder, at any depth."""
    if isinstance(feature, Mapping):
        return any(map(_decodes, feature.values()))
    if isinstance(feature, list | tuple):
        return any(map(_decodes, feature))
    return hasattr(feature, "decode_example") or (
        hasattr(feature, "feature") and _decodes(feature.feature)
    )


def _load(name: str, split: str | None, where: str) -> Any:
    """Load one split, memory-mapped."""
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{where} needs datasets; install it with pip install 'diptych[data]'"
        ) from None
    path = Path(name).expanduser()
    if not path.exists() and (
        not name or name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix
    ):
        raise InputError(
            f"{where}: no such file or folder; name what save_to_disk wrote, an .arrow or .parquet file, "
            "or a folder of them"
        )
    try:
        with _quiet(datasets):
            found = _read(datasets, path, name)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # the library raises many kinds, from its builders, pyarrow and the network
        if path.exists():
            raise InputError(
                f"{where}: datasets cannot read it ({brief(error)}); check where it came from"
            ) from error
        raise InputError(
            f"{where}: there is no such folder, and the hub gives no such dataset ({brief(error)}); fetch "
            "it elsewhere, save it with save_to_disk and give its folder"
        ) from error
    if isinstance(found, datasets.Dataset):
        if split is not None:
            raise InputError(f"{where}: it is one split; leave out :split={split}")
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        if split is None:
            raise InputError(
                f"{where}: it has the splits {', '.join(found)}; choose one: {where}:split={next(iter(found))}"
            )
        raise unknown(f"split of {where}", split, found)
    return found[split]


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Context without the library's progress bars and the hub's log of retries, so that our error
    is one line."""
    hidden = datasets.are_progress_bars_disabled()
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    datasets.disable_progress_bars()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if not hidden:
            datasets.enable_progress_bars()


def _read(datasets: Any, path: Path, name: str) -> Any:
    """A Dataset, or a DatasetDict of splits."""
    if path.is_file():
        if path.suffix == ".arrow":
            return datasets.Dataset.from_file(str(path))
        if path.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=str(path), split="train")
        raise InputError(
            f"{PREFIX}{name}: files are .arrow or .parquet; other tables are read without the prefix"
        )
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(path))
    return datasets.load_dataset(str(path) if path.is_dir() else name)
