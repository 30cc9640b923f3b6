"""The folder of embeddings: clip-retrieval's layout, and one additional file that describes it.

    EMB/img_emb/img_emb_0.npy           float32 (rows, E), unit norm; img_emb_1.npy … if there are many rows;
                                        of a model that keeps K vectors of an image (rows, K E), and no text_emb
    EMB/text_emb/text_emb_0.npy         the same rows' first captions; only if the source has texts
                                        (without images there is no img_emb, and rows are texts)
                                        Where rows are regions, both are of them: a row is a box of an image
    EMB/metadata/metadata_0.parquet     the same rows: key, position in the source, image_path, caption,
                                        and the columns of the source that were asked for
    EMB/diptych.json                    the `Manifest`

clip-retrieval, autofaiss and other programs that read that layout read such a folder too; they sort
part files by name, so part numbers are padded to equal length.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

from diptych.embeddings.columns import Kind
from diptych.errors import InputError, brief
from diptych.files import read_json
from diptych.spec import Count, Natural, check_record

FORMAT = "diptych-embeddings/1"
MANIFEST = "diptych.json"

Rows = Literal["images", "regions", "texts"]
"""What the rows of a folder are."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of a folder of embeddings and the model that made it.

    - `model` is a spec of `diptych.load`, with whole paths; `weights` is the weight file of a model
      of another library; `identity` is the checksum of its weights and configuration.
    - `rows` is what is searched: images, regions of images, or texts where model or source has no images.
    - `texts` is the number of rows with a caption (None: no text_emb).
    - `damaged` are the keys of the samples left out, by reason.
    - `exact` is whether every JPEG was decoded in full (as it was before this field existed).
    - `share` is the weight of the first of two heads; `space` the chosen one of several spaces.
    - `columns` are the kept columns of the source, each with its kind.
    - `vectors` is the number K of vectors of an image, of which its score is the largest cosine; a row
      has `dimension` numbers in all.
    """

    model: str
    identity: str
    dimension: Count
    count: Count
    texts: Natural | None
    source: str
    damaged: Mapping[str, list[str]]
    weights: str | None = None
    exact: bool = True
    share: float | None = None
    space: str | None = None
    rows: Rows = "images"
    columns: Mapping[str, Kind] = field(default_factory=dict)
    vectors: Count = 1
    format: str = FORMAT

    @property
    def kind(self) -> str:
        """The kind of the part files whose vectors are searched."""
        return "text_emb" if self.rows == "texts" else "img_emb"

    def refuse_other(self, name: str, other: str, found: "Manifest") -> None:
        """Raise InputError if `other`, of the manifest `found`, cannot be searched together with `name`,
        of this one: its vectors are of another model, or its rows of another kind."""
        if (found.identity, found.dimension) != (self.identity, self.dimension):
            raise InputError(
                f"{other} was embedded with {found.model} ({found.identity[:19]}, {found.dimension} numbers), {name} "
                f"with {self.model} ({self.identity[:19]}, {self.dimension}); embed it with that model"
            )
        if found.rows != self.rows:
            raise InputError(
                f"{other} holds {found.rows}, {name} {self.rows}; what is searched together is of one kind"
            )

    def write(self, folder: Path) -> None:
        """Write EMB/diptych.json."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read EMB/diptych.json. Raises InputError if it is missing, damaged or of another
        format."""
        path = folder / MANIFEST
        remedy = "run `diptych embed` again"
        try:
            values = read_json(path, remedy)
        except (FileNotFoundError, NotADirectoryError):
            what = "has no diptych.json" if folder.is_dir() else "is not a folder"
            raise InputError(
                f"{folder} {what}; make one with `diptych embed RUN SOURCE --out EMB`"
            ) from None
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        if found != FORMAT:
            raise InputError(
                f"{path} is of format {brief(repr(found))}, this version reads {FORMAT!r}; {remedy}"
            )
        return cls(**check_record(cls, values, path, remedy))


def part(folder: Path, kind: str, number: int, parts: int) -> Path:
    """Return the file of one part; `kind` is img_emb, text_emb or metadata.

    >>> part(Path("emb"), "img_emb", 3, 12).as_posix()
    'emb/img_emb/img_emb_03.npy'
    """
    return folder / kind / f"{kind}_{number:0{len(str(parts - 1))}d}.{_ending(kind)}"


def parts_of(folder: Path, kind: str) -> list[Path]:
    """Return the existing part files of one kind, in order."""
    return sorted((folder / kind).glob(f"{kind}_*.{_ending(kind)}"))


def _ending(kind: str) -> str:
    return "parquet" if kind == "metadata" else "npy"


def parquet() -> ModuleType:
    """Return pyarrow.parquet, which the extra `search` installs."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "embeddings need pyarrow; install it with: pip install 'diptych[search]'"
        ) from None
    return pyarrow.parquet
