"""The kept samples of a filtered source: `filtered:FILE`, where `diptych data filter` wrote FILE.

The file is a .npz of plain arrays. It names the source and holds, for every pair (a sample, one of
its texts), the reason why it was dropped, or that it was kept; images and texts are not copied.
Samples without a kept text are left out, and so are dropped texts of the role.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from diptych.data.compact import hash64
from diptych.data.sample import Sample, Source
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.spec import Spec, configure

FORMAT = "filtered"
PREFIX = "filtered:"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the prefix."""
    return spec.name.startswith(PREFIX)


@dataclass(frozen=True, kw_only=True)
class FilteredOptions:
    """`source` is the current spec of the source, by default that at the time of filtering."""

    source: str | None = None


def open(spec: Spec) -> "Filtered":
    """Open `filtered:FILE[:source=SPEC]`.

    Raises InputError if FILE has another form, or if the source has changed since.
    """
    from diptych.data.sources import open_source  # which scans this folder

    options = configure(FilteredOptions, spec.options, f"source {spec.name!r}")
    path = spec.name.removeprefix(PREFIX)
    head, samples, texts, reasons = _read(path)
    source = open_source(options.source or head["source"])
    if _print(source) != head["print"]:
        raise InputError(
            f"{path} was made of {head['source']} with other samples than are there now; filter it again"
        )
    kept = reasons < 0
    return Filtered(source, samples[kept], texts[kept], role=head["role"], name=str(spec))


def write(
    path: Path,
    spec: str,
    source: Source,
    role: str,
    samples: np.ndarray,
    texts: np.ndarray,
    reasons: np.ndarray,
) -> None:
    """Write the file of a filtered `source`, opened from `spec`, for `filtered:FILE`.

    For each pair: its sample (P,), which of the role's texts it has (P,), and the number of the
    reason (P,) why it was dropped, -1 if it was kept.
    """
    head = json.dumps({"source": spec, "role": role, "print": _print(source)})

    def fill(at: Path) -> None:
        with at.open("wb") as file:
            np.savez_compressed(
                file, head=np.array(head), samples=samples, texts=texts, reasons=reasons
            )

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, fill)


def _read(path: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as found:
            head = json.loads(str(found["head"]))
            return head, found["samples"], found["texts"], found["reasons"]
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; `diptych data filter SOURCE --out {path}` makes it"
        ) from None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        BadZipFile,
        EOFError,
    ) as error:
        raise InputError(
            f"{path} is no list of what was kept; make it with `diptych data filter`"
        ) from error


def _print(source: Source) -> str:
    """A fingerprint of the source's keys in order."""
    keys = "\0".join(source.keys()).encode("utf-8", "surrogateescape")
    return f"{hash64(keys):016x}-{len(source)}"


class Filtered(Wrapped):
    """The samples (K,) of `source` with at least one kept text.

    Pair p is the text at `texts[p]` among those of `role` in sample `samples[p]`. Pairs are sorted
    by sample.
    """

    def __init__(
        self, source: Source, samples: np.ndarray, texts: np.ndarray, *, role: str, name: str
    ):
        if not len(samples):
            raise InputError(f"{name}: nothing was kept; loosen the rules")
        rows, starts = np.unique(samples, return_index=True)
        super().__init__(source, rows, name)
        self.role = role
        self._starts = [*starts.tolist(), len(samples)]
        self._texts = texts

    def __getitem__(self, index: int) -> Sample:
        at = range(len(self))[index]
        sample = super().__getitem__(at)
        kept = set(self._texts[self._starts[at] : self._starts[at + 1]].tolist())
        numbered = 0
        texts = []
        for text in sample.texts:
            if text.role != self.role:
                texts.append(text)
                continue
            if numbered in kept:
                texts.append(text)
            numbered += 1
        return replace(sample, texts=texts)
