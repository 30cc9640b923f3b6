"""One question to an index: pictures for a text, or pictures like a picture."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from diptych.errors import InputError
from diptych.search.embed import embed_source
from diptych.search.index import Hit, Index
from diptych.towers.model import Model


def query(
    model: Model,
    index: Index,
    *,
    text: str | None = None,
    image: str | Path | Image.Image | None = None,
    k: int = 10,
) -> list[Hit]:
    """The `k` pictures of `index` nearest to a text or to a picture (a path or PIL), best first.

    Raises InputError: neither or both are given, an empty text, an unreadable picture, a model other than the index's.
    """
    index.check(model)
    if (text is None) == (image is None):
        raise InputError("a search takes a text or a picture; give one of them")
    if image is not None:
        vectors = model.embed_images([image], exact=index.manifest.exact)
    elif text is not None and text.strip():
        vectors = model.embed_texts([text])
    else:
        raise InputError("the text to search for is empty; give some words")
    scores, rows = index.top(vectors, k)
    return index.hits(scores[0], rows[0])


def embed_and_query(
    model: Model, source: str, folder: Path, queries: Sequence[str | Image.Image], k: int
) -> list[list[Hit]]:
    """Embed a source into a new folder, then answer each query, a text or a picture."""
    embed_source(model, source, folder)
    index = Index.open(folder)
    return [
        query(model, index, text=asked, k=k) if isinstance(asked, str) else query(model, index, image=asked, k=k)
        for asked in queries
    ]
