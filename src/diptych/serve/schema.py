"""Requests and replies of the API. A field that is not listed here is refused with 422."""

import base64
import binascii
from typing import Annotated, Literal

from fastapi import UploadFile
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from diptych.embeddings.columns import Kind, Value
from diptych.embeddings.layout import Rows
from diptych.embeddings.map import SIMILAR, Projection
from diptych.serve.limits import MAPPED, NAMES, QUERIES, TERMS, TEXT
from diptych.serve.pictures import SIZES


def _base64(text: object) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise ValueError("not base64")


Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=TEXT)]
Encoded = Annotated[
    bytes,
    BeforeValidator(_base64),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
RowNumber = Annotated[int, Field(ge=0, lt=2**53)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Condition = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=1000),
    Field(description="a filter on columns, such as price < 20 and brand = 'acme'"),
]
Several = Field(default=[], max_length=TERMS)


class Request(BaseModel):
    """A request: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Query(Request):
    """The sum of the unit vectors of `plus`, `images` (base64) and `rows`, minus those of `minus`."""

    plus: list[Words] = Several
    minus: list[Words] = Several
    images: list[Encoded] = Several
    rows: list[RowNumber] = Several


class Paged(Request):
    """Which collection, by default the first, and which of its hits."""

    collection: Name | None = None
    k: int = Field(default=20, ge=1, description="hits on a page")
    offset: int = Field(default=0, ge=0, description="hits to leave out before them")
    where: Condition | None = None


class Searches(Paged):
    """Several searches at once."""

    queries: list[Query] = Field(min_length=1, max_length=QUERIES)


class Search(Paged):
    """One search by words and rows."""

    plus: list[Words] = Several
    minus: list[Words] = Several
    row: list[RowNumber] = Several


class ImageSearch(Paged):
    """One search by uploaded images, and words and rows with them."""

    image: list[UploadFile] = Field(min_length=1, max_length=TERMS)
    plus: list[Words] = Several
    minus: list[Words] = Several
    row: list[RowNumber] = Several


class Browse(Request):
    """A page of the rows of a collection."""

    k: int = Field(default=20, ge=1)
    offset: int = Field(default=0, ge=0)
    where: Condition | None = None


class MapAsked(Request):
    """Which rows of the map; of more than `limit`, some from all over the collection."""

    limit: int = Field(default=MAPPED, ge=1, le=MAPPED)
    where: Condition | None = None


class DuplicatesAsked(Browse):
    """A page of groups of near-duplicates."""

    cosine: float = Field(default=SIMILAR, ge=-1, le=1, description="from which rows are joined")


class Picture(Request):
    """How large an image is wanted. `v` may be anything: another one is another address."""

    size: int = Field(default=SIZES[1], ge=16, le=SIZES[-1], description="side of the square")
    v: str = Field(default="", max_length=64)


class Things(Request):
    """Texts, images (base64) and rows, in this order."""

    texts: list[Words] = Several
    images: list[Encoded] = Several
    rows: list[RowNumber] = Several


class Similarity(Request):
    """What to compare with what."""

    collection: Name | None = None
    a: Things
    b: Things


class Classify(Request):
    """Images (base64) and rows to name, in this order, by the classes `names`.

    Each template contains {} once, for the name.
    """

    collection: Name | None = None
    names: list[Words] = Field(min_length=1, max_length=NAMES)
    templates: list[Words] = Several
    images: list[Encoded] = Several
    rows: list[RowNumber] = Several
    k: int = Field(default=3, ge=1, le=NAMES)


class Session(Request):
    """The token of the server."""

    token: str = Field(max_length=1000)


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"
    version: str
    token: bool = Field(description="whether the other endpoints need a token")


class About(BaseModel):
    """A collection, and what can be asked of it."""

    name: str
    rows: Rows
    count: int
    dimension: int
    model: str
    source: str
    version: str = Field(description="changes when the collection is embedded again")
    by_words: bool
    by_image: bool
    classifies: bool
    pictures: bool = Field(description="whether the images of the rows can be shown")
    problem: str | None = Field(description="why they cannot")
    columns: dict[str, Kind] = Field(description="columns that were kept, for `where`")
    map: Projection | None = Field(description="how its map was made, if it has one")


class Bounds(BaseModel):
    """What one request may cost."""

    body: int
    pixels: int
    k: int
    depth: int
    terms: int
    queries: int


class Collections(BaseModel):
    """All collections, the default first, and the limits of the server."""

    collections: list[About]
    limits: Bounds


class RowReply(BaseModel):
    """A row: `image` is the address of its image, if it can be shown, `columns` are those that were
    kept, `box` is the left, upper, right and lower side of a region in pixels of its image, which the
    image shows, and `place` is that on the map, in the unit square, if there is one."""

    row: int
    key: str
    caption: str | None
    image: str | None
    columns: dict[str, Value]
    box: tuple[float, float, float, float] | None
    place: tuple[float, float] | None


class HitReply(RowReply):
    """A row that was found, and its cosine with the query."""

    rank: int
    score: float


class Found(BaseModel):
    """The hits of one query."""

    query: str
    hits: list[HitReply]


class SearchReply(BaseModel):
    """The hits of each query, in the order of the queries; `total` is the number of rows that were
    searched, which is that of those that pass the filter."""

    collection: str
    total: int
    results: list[Found]


class RowsReply(BaseModel):
    """Rows of a collection, or those that pass a filter, in an order that visits all of them once."""

    collection: str
    total: int
    rows: list[RowReply]


class MapReply(BaseModel):
    """Rows and their places in the unit square; `total` is the number of rows, or of those that pass
    the filter, of which these are all or some."""

    collection: str
    total: int
    rows: list[int]
    x: list[float]
    y: list[float]


class GroupReply(BaseModel):
    """Near-duplicates: how many rows, the largest cosine among them, and the rows, of a large group
    the first."""

    count: int
    cosine: float
    rows: list[RowReply]


class DuplicatesReply(BaseModel):
    """Groups of near-duplicates, the largest first; `total` is the number of groups."""

    collection: str
    total: int
    groups: list[GroupReply]


class OutliersReply(BaseModel):
    """Rows, those farthest from all others first; `score` is the mean cosine with the nearest rows."""

    collection: str
    total: int
    rows: list[HitReply]


class SimilarityReply(BaseModel):
    """Cosines, a row for each of `a` and a column for each of `b`."""

    cosines: list[list[float]]


class Class(BaseModel):
    """A class and its probability among those that were named."""

    name: str
    probability: float


class ClassifyReply(BaseModel):
    """The likeliest classes of each image, best first."""

    images: list[list[Class]]


class Problem(BaseModel):
    """Why a request was refused, in one line."""

    status: int
    error: str
