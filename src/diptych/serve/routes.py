"""The API under /api/v1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import torch
from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import PlainTextResponse
from torch import Tensor

from diptych import __version__
from diptych.embeddings.columns import ALWAYS
from diptych.embeddings.query import Asked
from diptych.serve import schema
from diptych.serve.collection import Collection, Row
from diptych.serve.limits import QUERIES, TERMS, Limits, Refused
from diptych.serve.service import Service
from diptych.spec import Spec, parse, split_specs

COOKIE = "diptych-ticket"

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.Problem, "description": what}
    for status, what in (
        (401, "no token, or a wrong one"),
        (404, "no such collection or row"),
        (408, "the body arrived too slowly"),
        (413, "the body is too large"),
        (422, "a field is wrong, unknown or beyond a limit"),
        (503, "too many requests at once; Retry-After says when to try again"),
        (504, "the reply took too long"),
    )
}


def api(service: Service) -> APIRouter:
    """Return the routes of a server."""
    router = APIRouter(prefix="/api/v1", responses=_PROBLEMS)
    limits = service.limits

    @router.get("/health")
    async def health() -> schema.Health:
        """Whether the server answers. It needs no token."""
        return schema.Health(version=__version__, token=service.asks_for_token)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Counters in Prometheus' text format."""
        return service.metrics()

    @router.post("/session", status_code=204)
    async def session(request: schema.Session, response: Response) -> None:
        """Exchange the token for a cookie, with which a browser also loads images."""
        ticket = service.ticket(request.token)
        response.set_cookie(COOKIE, ticket, httponly=True, samesite="strict")

    @router.get("/collections")
    async def collections() -> schema.Collections:
        """The collections, what can be asked of each, and the limits."""
        found = await service.call(lambda: [_about(each) for each in service.collections.values()])
        bounds = schema.Bounds(
            body=limits.body,
            pixels=limits.pixels,
            k=limits.k,
            depth=limits.depth,
            terms=TERMS,
            queries=QUERIES,
        )
        return schema.Collections(collections=found, limits=bounds)

    @router.get("/collections/{collection}/rows")
    async def rows(collection: str, asked: Annotated[schema.Browse, Query()]) -> schema.RowsReply:
        """Rows of a collection, to look at it without a query."""
        _check_k(limits, asked.k)
        chosen = service.collection(collection)

        def work() -> schema.RowsReply:
            found = chosen.browse(asked.k, asked.offset, asked.where)
            replies = [_row(chosen, row) for row in found]
            total = chosen.total(asked.where)
            return schema.RowsReply(collection=chosen.name, total=total, rows=replies)

        return await service.call(work)

    @router.get("/collections/{collection}/map", response_model=schema.MapReply)
    async def map(collection: str, asked: Annotated[schema.MapAsked, Query()]) -> Response:
        """Where rows lie in the plane, for a picture of the whole collection."""
        chosen = service.collection(collection)

        def work() -> str:
            rows, places = chosen.map_of(asked.limit, asked.where)
            x, y = np.round(places.astype(float), 5).T.tolist()
            total = chosen.total(asked.where)
            reply = schema.MapReply(
                collection=chosen.name, total=total, rows=rows.tolist(), x=x, y=y
            )
            return reply.model_dump_json()

        # Encoded in the thread: it is large.
        return Response(await service.call(work), media_type="application/json")

    @router.get("/collections/{collection}/duplicates")
    async def duplicates(
        collection: str, asked: Annotated[schema.DuplicatesAsked, Query()]
    ) -> schema.DuplicatesReply:
        """Groups of rows that are nearly the same."""
        _check_k(limits, asked.k)
        chosen = service.collection(collection)

        def work() -> schema.DuplicatesReply:
            total, groups = chosen.duplicates(asked.cosine, asked.k, asked.offset, asked.where)
            replies = [
                schema.GroupReply(
                    count=group.count,
                    cosine=group.cosine,
                    rows=[_row(chosen, row) for row in group.rows],
                )
                for group in groups
            ]
            return schema.DuplicatesReply(collection=chosen.name, total=total, groups=replies)

        return await service.call(work)

    @router.get("/collections/{collection}/outliers")
    async def outliers(
        collection: str, asked: Annotated[schema.Browse, Query()]
    ) -> schema.OutliersReply:
        """Rows that are unlike all others."""
        _check_k(limits, asked.k)
        chosen = service.collection(collection)

        def work() -> schema.OutliersReply:
            total, rows = chosen.outliers(asked.k, asked.offset, asked.where)
            replies = [_hit(chosen, row, asked.offset) for row in rows]
            return schema.OutliersReply(collection=chosen.name, total=total, rows=replies)

        return await service.call(work)

    @router.get("/collections/{collection}/rows/{row}")
    async def row(collection: str, row: schema.RowNumber) -> schema.RowReply:
        """One row: its key and its caption."""
        chosen = service.collection(collection)
        return await service.call(lambda: _row(chosen, chosen.row(row)))

    @router.get("/collections/{collection}/rows/{row}/image", response_class=Response)
    async def image(
        collection: str, row: schema.RowNumber, asked: Annotated[schema.Picture, Query()]
    ) -> Response:
        """The image of a row, fitted into a square, as JPEG or PNG."""
        chosen = service.collection(collection)
        data, kind = await service.call(lambda: chosen.picture(row, asked.size))
        headers = {"cache-control": "private, max-age=86400" if asked.v else "no-cache"}
        return Response(data, media_type=kind, headers=headers)

    @router.get("/search")
    async def search(asked: Annotated[schema.Search, Query()]) -> schema.SearchReply:
        """Search by words, by rows, or by their sum; words of `minus` are taken away."""
        one = schema.Query(plus=asked.plus, minus=asked.minus, rows=asked.row)
        return await _search(service, asked, [one])

    @router.post("/search")
    async def searches(asked: schema.Searches) -> schema.SearchReply:
        """Several searches at once, by words, images in base64, rows, and sums of them."""
        return await _search(service, asked, asked.queries)

    @router.post("/search/image")
    async def search_image(asked: Annotated[schema.ImageSearch, Form()]) -> schema.SearchReply:
        """Search by uploaded images, with words and rows added, and words taken away."""
        one = schema.Query(plus=asked.plus, minus=asked.minus, rows=asked.row)
        return await _search(service, asked, [one], [await each.read() for each in asked.image])

    @router.post("/similarity")
    async def similarity(asked: schema.Similarity) -> schema.SimilarityReply:
        """The cosines of texts, images and rows with others."""
        chosen = service.collection(asked.collection)

        def work() -> schema.SimilarityReply:
            cosines = _vectors(chosen, asked.a) @ _vectors(chosen, asked.b).T
            return schema.SimilarityReply(cosines=cosines.tolist())

        return await service.call(work)

    @router.post("/classify")
    async def classify(asked: schema.Classify) -> schema.ClassifyReply:
        """The likeliest of some classes for images and rows."""
        chosen = service.collection(asked.collection)

        def work() -> schema.ClassifyReply:
            pixels = [chosen.read(data) for data in asked.images]
            pixels += [chosen.pixels_of(row) for row in asked.rows]
            if not pixels:
                raise Refused(422, "there is nothing to name; give images or rows")
            found = chosen.encoder.classify(pixels, asked.names, asked.templates, asked.k)
            return schema.ClassifyReply(
                images=[
                    [schema.Class(name=name, probability=share) for name, share in classes]
                    for classes in found
                ]
            )

        return await service.call(work)

    return router


async def _search(
    service: Service,
    paged: schema.Paged,
    queries: Sequence[schema.Query],
    uploads: Sequence[bytes] = (),
) -> schema.SearchReply:
    """Answer queries; `uploads` are further images of the first."""
    limits = service.limits
    _check_k(limits, paged.k)
    if paged.offset + paged.k > limits.depth:
        raise Refused(422, f"offset + k is above {limits.depth:,}; ask for less, or another way")
    chosen = service.collection(paged.collection)

    def work() -> schema.SearchReply:
        asked = []
        for at, query in enumerate(queries):
            images = [*query.images]
            images += uploads if at == 0 else ()
            with chosen.encoder.errors():
                asked.append(
                    Asked(
                        plus=tuple(query.plus),
                        minus=tuple(query.minus),
                        images=tuple(chosen.read(data) for data in images),
                        rows=tuple(query.rows),
                    )
                )
        found = chosen.search(asked, paged.k, paged.offset, paged.where)
        results = [
            schema.Found(query=each.title, hits=[_hit(chosen, row, paged.offset) for row in rows])
            for each, rows in zip(asked, found, strict=True)
        ]
        total = chosen.total(paged.where)
        return schema.SearchReply(collection=chosen.name, total=total, results=results)

    return await service.call(work)


def _check_k(limits: Limits, k: int) -> None:
    if k > limits.k:
        raise Refused(
            422, f"k is {k}, and a page has at most {limits.k}; ask for the next by offset"
        )


def _vectors(chosen: Collection, things: schema.Things) -> Tensor:
    parts = []
    if things.texts:
        parts.append(chosen.encoder.texts(things.texts))
    if things.images:
        pixels = [chosen.read(data) for data in things.images]
        parts.append(chosen.encoder.images(pixels))
    if things.rows:
        parts.append(chosen.vectors_of(things.rows))
    if not parts:
        raise Refused(422, "there is nothing to compare; give texts, images or rows in a and in b")
    return torch.cat(parts)


def _about(collection: Collection) -> schema.About:
    manifest = collection.manifest
    problem = collection.images_problem
    return schema.About(
        name=collection.name,
        rows=manifest.rows,
        count=len(collection.index),
        dimension=manifest.dimension,
        model=_without_folders(manifest.model),
        source=_without_folders(manifest.source),
        version=collection.version,
        by_words=collection.encoder.reads_texts,
        by_image=collection.encoder.reads_images,
        classifies=collection.encoder.names_images,
        pictures=problem is None,
        problem=None if problem is None else "its images cannot be shown",
        columns={name: kind for name, kind in collection.index.kinds.items() if name not in ALWAYS},
        map=None if collection.map is None else collection.map.state.projection,
    )


def _without_folders(spec: str) -> str:
    """Return the spec of a model or a source without the folders in which its files lie on this
    machine.

    >>> _without_folders("/data/val.tar:part=1/6,/data/train.tar"), _without_folders("tiny")
    ('val.tar:part=1/6,train.tar', 'tiny')
    >>> _without_folders("/data/val.json:images=/data/val/"), _without_folders("filtered:/data/kept.npz")
    ('val.json:images=val', 'filtered:kept.npz')
    """
    return ",".join(str(_without_folder(parse(part))) for part in split_specs(spec))


def _without_folder(spec: Spec) -> Spec:
    options = {
        key: _file_of(value) if isinstance(value, str) else value
        for key, value in spec.options.items()
    }
    return Spec(_file_of(spec.name), options)


def _file_of(text: str) -> str:
    if Path(text).is_absolute():
        return Path(text).name
    prefix, _, path = text.partition(":")
    return f"{prefix}:{Path(path).name}" if Path(path).is_absolute() else text


def _row(collection: Collection, row: Row) -> schema.RowReply:
    return schema.RowReply(**_facts(collection, row))


def _hit(collection: Collection, row: Row, offset: int) -> schema.HitReply:
    rank = offset + row.hit.rank
    return schema.HitReply(**_facts(collection, row), rank=rank, score=row.hit.score)


def _facts(collection: Collection, row: Row) -> dict[str, Any]:
    return {
        "row": row.number,
        "key": row.hit.key,
        "caption": row.hit.caption,
        "image": _address(collection, row.number),
        "columns": dict(row.hit.columns),
        "box": row.hit.box,
        "place": row.place,
    }


def _address(collection: Collection, row: int) -> str | None:
    if collection.images_problem is not None:
        return None
    name = quote(collection.name, safe="")
    return f"/api/v1/collections/{name}/rows/{row}/image?v={collection.version}"
