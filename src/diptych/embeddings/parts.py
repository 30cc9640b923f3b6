"""Parts of a folder of embeddings, made by any number of processes, and joined by `merge`.

    EMB.parts/003-of-100/               a folder of embeddings of its own (but if all its samples are damaged)
    EMB.parts/003-of-100/part.json      its manifest: what made it, and a checksum of each file
    EMB.parts/.004-of-100.unfinished/   a part under way (`diptych.embeddings.writer`)
    EMB                                 what `merge` joins, with the bytes that one process writes

Part k of n has the batches from ⌊(k − 1) b / n⌋ up to ⌊k b / n⌋ of the b batches of the source. Since
no batch is cut in two, a vector is computed in the same batch as by one process.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.embeddings import writer
from diptych.embeddings.columns import ALWAYS
from diptych.embeddings.index import mapped, read_table
from diptych.embeddings.layout import Manifest, Rows, parquet, parts_of
from diptych.embeddings.regions import most_rows
from diptych.embeddings.writer import Row, Writer, differences
from diptych.errors import InputError, brief, some
from diptych.files import followed, read_json, write_atomic
from diptych.models.model import Progress
from diptych.spec import Count, Natural, Share, check_record, check_value, fits

FORMAT = "diptych-part/1"
RECORD = "part.json"

_Kind = Literal["img_emb", "text_emb"]
_NAME = re.compile(r"\.?(\d+)-of-(\d+)(?:\.unfinished)?")


@dataclass(frozen=True, slots=True)
class Part:
    """Part `number`, from 1, of `count`."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """
        >>> Part.parse("3/100")
        Part(number=3, count=100)
        """
        found = re.fullmatch(r"([1-9]\d{0,6})/([1-9]\d{0,6})", text)
        if found is None or int(found[1]) > int(found[2]):
            raise InputError(
                f"part {brief(text, 40)!r} is none; write 1/N to N/N, such as 3/100 for the third of a hundred"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def span(self, samples: int, batch_size: int) -> range:
        """Return the positions of its samples; none if there are fewer batches than parts.

        >>> [Part(number, 3).span(50, 8) for number in (1, 2, 3)]
        [range(0, 16), range(16, 32), range(32, 50)]
        """
        batches = -(-samples // batch_size)
        start = batches * (self.number - 1) // self.count * batch_size
        stop = batches * self.number // self.count * batch_size
        return range(min(start, samples), min(stop, samples))

    def folder(self, out: Path) -> Path:
        """
        >>> Part(3, 100).folder(Path("/data/emb")).as_posix()
        '/data/emb.parts/003-of-100'
        """
        return folder_of(out) / f"{self.number:0{len(str(self.count))}d}-of-{self.count}"


def folder_of(out: Path) -> Path:
    """Return the folder of the parts of `out`."""
    whole = followed(out).absolute()
    return whole.with_name(f"{whole.name}.parts")


def count_of(out: Path) -> int | None:
    """Return into how many parts `out` was divided, as far as they were begun; None if none was.

    Raises InputError for parts of two divisions.
    """
    folder = folder_of(out)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    counts = {int(found[2]): name for name in sorted(names) if (found := _NAME.fullmatch(name))}
    if len(counts) > 1:
        raise InputError(
            f"{folder} holds parts of different divisions ({' and '.join(counts.values())}); remove those of one"
        )
    return next(iter(counts), None)


def missing(out: Path) -> list[Part]:
    """Return the parts of `out` that are not finished, of those into which it was divided."""
    parts = [
        Part(number, count) for count in [count_of(out) or 0] for number in range(1, count + 1)
    ]
    return [part for part in parts if not part.folder(out).is_dir()]


def write_record(folder: Path, progress: writer.Progress) -> None:
    """Write the manifest of a finished part."""
    text = json.dumps({"format": FORMAT, **asdict(progress)}, indent=1, ensure_ascii=False)
    write_atomic(folder / RECORD, lambda path: path.write_text(text + "\n", encoding="utf-8"))


def read_record(folder: Path) -> writer.Progress:
    """Read the manifest of a part. Raises InputError if it is missing, damaged or of another
    format."""
    path = folder / RECORD
    remedy = _remedy(folder)
    try:
        values = read_json(path, remedy)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} has no {RECORD}, so it is no part; {remedy}") from None
    found = values.get("format") if isinstance(values, dict) else type(values).__name__
    if found != FORMAT:
        raise InputError(
            f"{path} is of format {brief(repr(found))}, this version reads {FORMAT!r}; {remedy}"
        )
    record = writer.Progress(**check_record(writer.Progress, values, path, remedy))
    wanted = {"samples": Natural, "batch size": Count, "kinds": list[_Kind], "part": str}
    for name, kind in wanted.items():
        if not fits(record.settings.get(name), kind):
            raise InputError(f"{path} is damaged (it has no {name}); {remedy}")
    return record


def _remedy(folder: Path) -> str:
    found = _NAME.fullmatch(folder.name)
    again = f" with --part {int(found[1])}/{found[2]}" if found else ""
    return f"remove {folder}, and run `diptych embed`{again} again"


def refuse_others(out: Path, part: Part, settings: Mapping[str, Any]) -> None:
    """Raise InputError if `out` was begun in another number of parts, with other settings, or by
    one process as a whole."""
    count = count_of(out)
    if count not in (None, part.count):
        raise InputError(
            f"{folder_of(out)} holds parts of {count}, and part {part} is of {part.count}; go on with "
            f"--part N/{count}, or remove that folder"
        )
    whole = writer.unfinished_folder(out)
    if (whole / writer.PROGRESS).exists():
        raise InputError(
            f"{whole} holds an unfinished run of one process without parts; run that one again to go on with it, "
            f"or remove {whole}"
        )
    for number in range(1, part.count + 1):
        other = Part(number, part.count)
        if other != part and other.folder(out).is_dir():
            _compare(other.folder(out), read_record(other.folder(out)).settings, settings)
            return  # it fits all that were there before it


def _compare(
    folder: Path, begun: Mapping[str, Any], settings: Mapping[str, Any], where: str = "now"
) -> None:
    reported = differences({**begun, "part": ""}, {**settings, "part": ""}, where)
    if reported:
        raise InputError(
            f"{folder} was made with other settings ({reported}), and parts of one folder have the same; run with "
            f"these, name another --out, or {_remedy(folder)}"
        )


def finished(folder: Path, settings: Mapping[str, Any]) -> Manifest | None:
    """Return the manifest of a part that is there already, with these settings; None if it is not
    there. Its files are verified when parts are joined."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    record = read_record(folder)
    _compare(folder, record.settings, settings)
    if record.count:
        return Manifest.read(folder)
    columns = record.settings.get("columns", {})
    rows: Rows = "regions" if "regions" in record.settings else "images"
    return Manifest(
        model="",
        identity=str(record.settings.get("model")),
        dimension=0,
        count=0,
        texts=None,
        source=str(record.settings.get("source")),
        damaged=record.damaged,
        rows=rows,
        columns=columns,
    )


def merge(out: str | Path, *, max_bad: float = 0.01, progress: Progress | None = None) -> Manifest:
    """Join the parts of `out`, all in OUT.parts, to the folder that one process would have made,
    and remove them.

    Every file is compared with its checksum first. Raises InputError, and leaves the parts as they
    are, if a part is missing or damaged, if parts are of different models, sources or settings, if
    more than `max_bad` of all samples are damaged, if `out` exists, and for a full disk.
    """
    check_value("max_bad", max_bad, Share)
    out = Path(out).expanduser()
    parquet()
    writer.refuse_existing(out)
    found = _found(out)
    settings = found[0].record.settings
    samples = sum(each.record.position for each in found) + settings.get("lost", 0)
    damaged: dict[str, list[str]] = {}
    for each in found:
        for reason, keys in each.record.damaged.items():
            damaged.setdefault(reason, []).extend(keys)
    _refuse_damage(folder_of(out), damaged, samples, max_bad)
    with_rows = [each for each in found if each.record.count]
    if not with_rows:
        raise InputError(
            f"no image of {folder_of(out)} has a box; name data that have some, or give --boxes FILE"
        )
    first = Manifest.read(with_rows[0].folder)
    total = sum(each.record.count for each in found)
    with writer.unfinished(out) as hidden:
        state = writer.saved(hidden, out, {"joined": len(found)})
        state.dimension = first.dimension
        folder = hidden / followed(out).absolute().name
        kinds = settings["kinds"]
        with Writer(folder, state, most_rows(settings, samples), kinds, first.columns) as rows:
            for each in with_rows:
                for those, arrays in each.rows(first, kinds):
                    rows.add(those, arrays)
                    if progress:
                        progress(state.count, total)
            rows.close()
        manifest = replace(
            first,
            count=state.count,
            texts=state.texts if "text_emb" in kinds else None,
            damaged=damaged,
        )
        manifest.write(folder)
    with suppress(OSError):  # what was joined is whole, with or without its parts
        shutil.rmtree(folder_of(out))
    return manifest


def _refuse_damage(
    folder: Path, damaged: Mapping[str, Sequence[str]], samples: int, max_bad: float
) -> None:
    bad = sum(map(len, damaged.values()))
    reasons = ", ".join(f"{len(keys)} {reason}" for reason, keys in damaged.items())
    if bad == samples:
        raise InputError(
            f"none of the {samples} samples of {folder} can be read ({reasons}); check the data"
        )
    if bad > max_bad * samples:
        raise InputError(
            f"{folder}: {bad} of the {samples} samples are damaged ({reasons}), more than --max-bad {max_bad:g} of "
            "all; join them with a larger --max-bad, or mend the data (`diptych check` lists them)"
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """A finished part."""

    folder: Path
    record: writer.Progress

    def rows(
        self, like: Manifest, kinds: Sequence[str]
    ) -> Iterator[tuple[list[Row], list[np.ndarray]]]:
        """Yield its rows and their vectors, file by file. Raises InputError if they do not fit the
        manifest of the first part, or each other."""
        own = Manifest.read(self.folder)
        names = list(like.columns)
        if (own.dimension, own.rows, dict(own.columns)) != (
            like.dimension,
            like.rows,
            dict(like.columns),
        ):
            raise InputError(
                f"{self.folder} does not have the rows of the other parts; {_remedy(self.folder)}"
            )
        counted = 0
        files = [parts_of(self.folder, kind) for kind in ("metadata", *kinds)]
        if len({len(paths) for paths in files}) > 1:
            raise InputError(
                f"{self.folder} has different numbers of files of vectors and of metadata; {_remedy(self.folder)}"
            )
        for path, *vectors in zip(*files, strict=True):
            table = read_table(path, (*ALWAYS, *names))
            rows = [_row(values, names) for values in table.to_pylist()]
            arrays = [mapped(file, like.dimension, like.vectors) for file in vectors]
            counted += len(rows)
            if any(len(array) != len(rows) for array in arrays):
                break
            yield rows, arrays
        else:
            if counted == self.record.count:
                return
        raise InputError(
            f"{self.folder} has files of other lengths than {RECORD} says; {_remedy(self.folder)}"
        )


def _row(values: Mapping[str, Any], names: Sequence[str]) -> Row:
    always = {name: values[name] for name in ALWAYS}
    return Row(**always, columns=tuple(values[name] for name in names))


def _found(out: Path) -> list[_Found]:
    """Return the parts of `out` in order, verified.

    Raises InputError if one is missing, damaged, or does not fit the first.
    """
    folder = folder_of(out)
    count = count_of(out)
    if count is None:
        raise InputError(
            f"{folder} holds no parts; make them with: diptych embed MODEL SOURCE --out {out} --part 1/N"
        )
    lacking = missing(out)
    if lacking:
        raise InputError(
            f"{folder} lacks part {some(map(str, lacking))}; make it with: diptych embed MODEL SOURCE --out {out} "
            f"--part {lacking[0]}, then join the parts"
        )
    found: list[_Found] = []
    for number in range(1, count + 1):
        part = Part(number, count)
        each = _Found(part.folder(out), read_record(part.folder(out)))
        _verify(part, each, found[0] if found else each)
        found.append(each)
    return found


def _verify(part: Part, each: _Found, first: _Found) -> None:
    """Raise InputError if a part is damaged or does not fit the first."""
    settings = each.record.settings
    remedy = _remedy(each.folder)
    if settings["part"] != str(part):
        raise InputError(
            f"{each.folder} holds part {brief(settings['part'], 40)}; give it its name back, or {remedy}"
        )
    _compare(each.folder, settings, first.record.settings, f"in {first.folder.name}")
    span = part.span(settings["samples"], settings["batch size"])
    lost = 0 if span.start else settings.get("lost", 0)  # the first part has them
    bad = sum(map(len, each.record.damaged.values())) - lost
    rows = len(span) - bad
    counted = each.record.count == rows or "regions" in settings  # an image has any number of them
    if each.record.position != len(span) or not counted:
        raise InputError(
            f"{each.folder} holds {each.record.count} rows and {bad} damaged samples of {len(span)}; {remedy}"
        )
    try:
        damaged = next(writer.damaged_files(each.folder, each.record), None)
    except OSError as error:
        raise InputError(f"{each.folder} is damaged ({error}); {remedy}") from None
    if damaged is not None:
        raise InputError(f"{each.folder}: {damaged} is damaged (its checksum differs); {remedy}")
