"""What is done with a model: `diptych.embed`, `index`, `search`, `classify`, `evaluate`, `export`.

A model is given as `diptych.load` returns it, or as its spec, which is loaded at each call.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.data.sources import DataLike, open_source
from diptych.embeddings.addresses import is_store, open_searchable
from diptych.embeddings.build import build_index
from diptych.embeddings.embed import embed_source
from diptych.embeddings.hits import Hits
from diptych.embeddings.ivf import State
from diptych.embeddings.lance.build import change_store, write_store
from diptych.embeddings.lance.table import State as StoreState
from diptych.embeddings.layout import Manifest
from diptych.embeddings.parts import merge
from diptych.embeddings.query import made_by, query
from diptych.embeddings.regions import chosen_regions
from diptych.embeddings.spread import embed_parts, loader
from diptych.engines import Ray
from diptych.errors import InputError
from diptych.evaluation import Evaluation
from diptych.evaluation import evaluate as run_suites
from diptych.front.loading import load, loaded
from diptych.inference.classify import Classified, name_source
from diptych.models.export import Report
from diptych.models.export import export as write_export
from diptych.models.language import LanguageModel
from diptych.models.model import Progress, TextModel
from diptych.spec import as_names

ModelLike = TextModel | str | Path


def embed(
    model: ModelLike,
    data: DataLike,
    out: str | Path,
    *,
    batch_size: int = 64,
    exact: bool = False,
    max_bad: float = 0.01,
    columns: str | Sequence[str] = (),
    regions: bool = False,
    boxes: str | Path | None = None,
    size: int | None = None,
    part: str | None = None,
    engine: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write the embeddings of all samples of `data` to the new folder `out`, for `search`
    (`embeddings.embed.embed_source`).

    `columns` are kept for `search(where=…)`. With `regions` a row is a region of an image: each of the
    boxes of `data`, or of the file `boxes` (JSON as `diptych detect --json` prints it), of images that are
    read at `size` pixels a side (`embeddings.regions`). `part`, such as "3/100", embeds that part alone, and
    `embeddings.parts.merge` joins the parts; on ranks (torchrun) both are done. `engine`, such as
    "ray" or "ray:HOST:PORT", does both on a cluster, whose workers load the model by its spec
    (`embeddings.spread.embed_parts`)."""
    chosen = chosen_regions(regions, boxes, size)
    columns = as_names(columns)
    if engine is not None:
        if part is not None or not isinstance(model, str | Path):
            raise InputError(
                "the workers of engine= share the parts and load the model; leave out part=, and give the model's spec"
            )
        embed_parts(
            Ray.parse(engine),
            loader(model),
            open_source(data) if not isinstance(data, str) else data,
            out,
            batch_size=batch_size,
            exact=exact,
            max_bad=max_bad,
            columns=columns,
            regions=chosen,
            progress=progress,
        )
        return merge(out, max_bad=max_bad)
    return embed_source(
        loaded(model),
        open_source(data) if not isinstance(data, str) else data,
        out,
        batch_size=batch_size,
        exact=exact,
        max_bad=max_bad,
        columns=columns,
        regions=chosen,
        part=part,
        progress=progress,
    )


def index(
    emb: str | Path,
    *,
    to: str | None = None,
    add: str | Path | Sequence[str | Path] = (),
    remove: str | Sequence[str] = (),
    lists: int | None = None,
    recall: float | None = None,
    k: int | None = None,
    compress: bool | None = None,
) -> State | StoreState:
    """Build the index of a folder of embeddings, or change it (`embeddings.build.build_index`).

    With `to`, `lancedb:PATH`, the embeddings are written to that store (`embeddings.lance.build`),
    and if `emb` is such an address, the store is changed. Raises InputError
    for `compress` of a store, whose index always holds codes."""
    add = [add] if isinstance(add, str | Path) else add
    remove = as_names(remove)
    if to is None and not is_store(emb):
        return build_index(
            emb, add=add, remove=remove, lists=lists, recall=recall, k=k, compress=compress
        )
    if compress is not None:
        raise InputError("the index of a store always holds codes; leave compress out")
    settings = {"add": add, "remove": remove, "lists": lists, "recall": recall, "k": k}
    store = change_store(str(emb), **settings) if to is None else write_store(emb, to, **settings)
    assert store.state is not None
    return store.state


def search(
    emb: str | Path,
    text: str | None = None,
    *,
    image: Any = None,
    minus: str | None = None,
    where: str | None = None,
    k: int = 10,
    rerank: int = 0,
    model: ModelLike | None = None,
    weights: str | Path | None = None,
    exact: bool = False,
    precision: str = "float32",
    device: str = "auto",
) -> Hits:
    """The `k` images of a folder of embeddings that are nearest to a text, an image, or both, and
    pass the filter `where`. With `rerank=n` the nearest n are ordered anew by the model's `match` with
    the text first.

    The model that made the folder is loaded again; `model` is one that is loaded already, or where
    it lies now. `exact` compares every embedding although there is an index. The query is that of
    `embeddings.query.query`, which also lists the errors.
    """
    opened = open_searchable(emb, exact=exact, several=True)
    if where is not None:
        opened.passing(where)  # raises its errors before the model is loaded
    if model is None or isinstance(model, str | Path):
        manifest = opened.manifest
        spec, file = made_by(emb, manifest, model, weights)
        model = load(
            spec, file, precision, device=device, share=manifest.share, space=manifest.space
        )
    return query(
        model, opened, text=text, image=image, minus=minus, where=where, k=k, rerank=rerank
    )


def classify(
    model: ModelLike,
    images: DataLike,
    names: Sequence[str] | str | Path | None = None,
    *,
    templates: str | Sequence[str] | None = None,
    label: str | None = None,
    role: str | None = None,
    k: int = 3,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> Classified:
    """The likeliest of some classes for each image of a source, or of a model of texts alone for each
    text of `role` (`inference.classify.name_source`).

    `names` are the classes, or a file of them; by default those that the model was trained on, else
    those of the data."""
    return name_source(
        loaded(model),
        images,
        names,
        templates=None if templates is None else as_names(templates),
        label=label,
        role=role,
        k=k,
        batch_size=batch_size,
        exact=exact,
        progress=progress,
    )


def evaluate(
    model: ModelLike | LanguageModel,
    data: DataLike,
    suites: str | Sequence[str] = ("retrieval",),
    **settings: Any,
) -> Evaluation:
    """Run evaluation suites on a model and data; returns a dict per suite (`evaluation.evaluate`).

    `settings` are those of the suites: `diptych evaluate --help` lists them.
    """
    if not suites:
        raise InputError("no suite is named; name at least one, such as retrieval")
    return run_suites(loaded(model), open_source(data), as_names(suites), **settings)


def export(
    model: ModelLike, target: str, out: str | Path, *, weights: str | Path | None = None
) -> Report:
    """Write a model in the format of another library, "onnx", "openclip", "hf" or
    "sentence-transformers", to the new folder `out`, and compare both (`models.export.export`)."""
    return write_export(loaded(model, weights=weights, device="cpu"), target, out)
