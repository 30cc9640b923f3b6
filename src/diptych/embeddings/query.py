"""Query an index by a text, by an image, or by an image and a text of what should differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import normalize

from diptych.errors import InputError
from diptych.embeddings.embed import embed_source
from diptych.embeddings.index import Hit, Index


def query(
    model: Any,
    index: Index,
    *,
    text: str | None = None,
    image: str | Path | Image.Image | None = None,
    minus: str | None = None,
    k: int = 10,
) -> list[Hit]:
    """Return the `k` rows of `index` nearest to a text, to an image (a path or PIL), or to both,
    best first.

    With several, the query is image + text - minus of their unit vectors (Jia et al., 2021),
    normalised: an image of a red house, minus "red", plus "blue". Raises InputError for neither
    text nor image, an empty text, an unreadable image, a sum of zero, and a model other than the
    index's.
    """
    index.check(model)
    if text is None and image is None:
        raise InputError("a search takes a text, an image or both; give one of them")
    for said in (text, minus):
        if said is not None and not said.strip():
            raise InputError("the text to search for is empty; give some words")
    parts = [] if image is None else [model.embed_images([image], exact=index.manifest.exact)]
    parts += [] if text is None else [model.embed_texts([text])]
    parts += [] if minus is None else [-model.embed_texts([minus])]
    vectors = parts[0]
    if len(parts) > 1:
        vectors = torch.stack(parts).sum(0)
        if float(vectors.norm()) < 1e-6:
            raise InputError(
                "what is added and what is taken away are the same, so nothing is asked for"
            )
        vectors = normalize(vectors, dim=-1)
    scores, rows = index.top(vectors, k)
    return index.hits(scores[0], rows[0])


def embed_and_query(
    model: Any, source: str, folder: Path, queries: Sequence[str | Image.Image], k: int
) -> list[list[Hit]]:
    """Embed a source into a new folder, then answer each query, a text or an image."""
    embed_source(model, source, folder)
    index = Index.open(folder)
    return [
        query(model, index, text=asked, k=k)
        if isinstance(asked, str)
        else query(model, index, image=asked, k=k)
        for asked in queries
    ]
