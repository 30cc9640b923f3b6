"""OBELICS (`train-00000-of-01335.parquet`, or as JSON lines), each row a document

    images              the address of an image, or null where there is a text
    texts               a text, of several paragraphs, or null where there is an image
    metadata            of each image
    general_metadata    of the document

Images are read from the folder `images` in which `wget --force-directories` stores them: HOST/PATH. A
text belongs to the images directly before it. Source: Laurençon et al. 2023.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from diptych.data.sample import BadSample
from diptych.data.sources._files import beginning, inside, parquet_columns
from diptych.data.sources._interleaved import Document, Documents, DocumentsOptions
from diptych.data.sources.rows import open_rows
from diptych.spec import Spec, configure

FORMAT = "obelics"
_COLUMNS = ("images", "texts", "general_metadata")


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a table with the columns of its documents."""
    start = beginning(spec, ".jsonl") or parquet_columns(spec)
    return all(name.encode() in start for name in _COLUMNS)


def open(spec: Spec) -> Documents:
    """Open `train-00000-of-01335.parquet[:images=FOLDER]`."""
    options = configure(DocumentsOptions, spec.options, f"source {spec.name!r}")
    return Documents(spec.name, open_rows(spec.name), _document, options.images, "OBELICS")


def _document(row: Mapping[str, Any]) -> Document:
    """Raises BadSample("columns") for a row of another form."""
    images = row.get("images")
    texts = row.get("texts")
    if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
        raise BadSample("columns", "images and texts that do not go together")
    files: list[str] = []
    said: list[str] = []
    owners: list[list[int]] = []
    waiting: list[int] = []  # images without a text so far
    for image, text in zip(images, texts, strict=True):
        if isinstance(image, str) and text is None:
            waiting.append(len(files))
            files.append(_file(image))
        elif isinstance(text, str) and image is None:
            said.append(text)
            owners.append(waiting)
            waiting = []
        elif image is not None or text is not None:
            raise BadSample("columns", "a place with neither an image nor a text, but something")
    if not files or not said:
        raise BadSample("columns", "no images or no texts")
    return Document(files=files, texts=said, owners=owners)


def _file(address: str) -> str:
    """The file of an image, relative to the folder of images.

    >>> _file("https://example.org/a/b.jpg?w=300")
    'example.org/a/b.jpg?w=300'
    """
    parts = urlsplit(address)
    query = f"?{parts.query}" if parts.query else ""
    name = f"{parts.netloc}{parts.path}{query}" if parts.scheme else address
    if not inside(name):
        raise BadSample("columns", f"an image outside of the folder: {address[:80]}")
    return name
