"""Composed retrieval: find the image described by a reference image and a text of what should
change.

    R@k = mean_q [rank_q <= k],    rank_q = 1 + #{other images of the gallery scoring >= the target}
    R_s@k: the same among the images of the query's own group, near-duplicates of the target

A query is a sample with an image `reference` and texts of the instruction's role, joined by "and"
if there are several; its target is the image `main`. The gallery is all images of samples in either
role, each content once; a source adds gallery images as samples without a reference. The reference
itself is left out of the ranking, as in CIRR, or with `keep_reference` it is one of the wrong
images, as in FashionIQ. Ties count as wrong.

Sources: Liu et al. 2021 (CIRR: recall among the subset); Wu et al. 2021 (FashionIQ).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.sample import EncodedImage, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, as_vectors, main_image, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._labels import group_field
from diptych.evaluation.suites.retrieval import role_of, summary
from diptych.metrics import ranks

card = {
    "title": "Composed retrieval: an image and an instruction to an image",
    "needs": ["images.main", "images.reference", "texts"],
    "abilities": ["index", "compose"],
}

KINDS = "edit"  # the label with the kind of a query's change
_RULE = "all images are the gallery, each content once; instructions of a sample are joined by and; ties lose"


@dataclass(frozen=True)
class Query:
    """Contents of target and reference, the number of the group (-1: none) and of the kind of edit
    (-1: none)."""

    target: str
    reference: str
    group: int
    kind: int


def ready(
    model: Any, source: Source, *, role: str | None = None, siblings: str | None = None
) -> None:
    """Raise InputError for a role or a group label that the source lacks."""
    _role(source, role)
    if siblings is not None:
        group_field(source, siblings)


def composed(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    siblings: str | None = None,
    keep_reference: bool = False,
    batch_size: int = 64,
    ks: Sequence[int] = (1, 5, 10, 50),
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return recall in the gallery (`all_r1`, …) and in the query's group (`subset_r1`,
    `subset_r2`, `subset_r3`), and `by_edit` if the source has the label `edit`.

    `role` is the role of the instructions (instruction). `siblings` is the label whose values are
    the groups (`group`, if the source has one). Also returned: `n` queries, `gallery` images,
    median ranks, mean reciprocal ranks, `chance_all_r1` …, `mean` of all_r5 and subset_r1 (CIRR's),
    `bad` samples by reason, and the protocol.
    """
    ready(model, source, role=role, siblings=siblings)
    role = _role(source, role)
    siblings = siblings or ("group" if "labels.group" in source.schema() else None)
    found = _read(
        model,
        source,
        role,
        siblings,
        exact=exact,
        batch_size=batch_size,
        steps=Steps(progress, len(source)),
    )
    place = {content: at for at, content in enumerate(found.contents)}
    targets = np.array([place[query.target] for query in found.queries])
    references = np.array([place[query.reference] for query in found.queries])
    ignored = [
        [] if keep_reference or reference == target else [reference]
        for target, reference in zip(targets, references, strict=True)
    ]
    rank = {"all": ranks(found.vectors, found.index, targets, ignored=ignored)}
    results: dict[str, Any] = {"n": len(targets), "gallery": len(found.contents)}
    sizes = [len(found.contents) - len(left_out) for left_out in ignored]
    results |= summary("all", rank["all"], [1] * len(targets), sizes, ks)
    if any(query.group >= 0 for query in found.queries):
        members = [
            [place[content] for content in found.groups.get(query.group, ())]
            for query in found.queries
        ]
        rank["subset"], sizes = _within(found.vectors, found.index, targets, members, ignored)
        grouped = rank["subset"][rank["subset"] > 0]
        results |= summary("subset", grouped, [1] * len(grouped), sizes, (1, 2, 3))
        if 5 in ks:
            results["mean"] = (results["all_r5"] + results["subset_r1"]) / 2
    names = (
        source.schema()[f"labels.{KINDS}"].classes if f"labels.{KINDS}" in source.schema() else ()
    )
    kinds = np.array([query.kind for query in found.queries])
    table = (
        {names[kind]: _row(rank, kinds == kind) for kind in np.unique(kinds[kinds >= 0]).tolist()}
        if names
        else {}
    )
    options = (f"reference={'kept' if keep_reference else 'left out'}", f"siblings={siblings}")
    protocol = protocol_of(
        "composed", source, model, exact=exact, field=role, rule=_RULE, options=options
    )
    return (
        results
        | ({f"by_{KINDS}": table} if table else {})
        | {"bad": dict(found.bad)}
        | describe(protocol, model)
    )


@dataclass(frozen=True)
class _Found:
    """Queries with their vectors (Q, E); contents of the gallery with their index (G, K, E);
    contents by group."""

    queries: list[Query]
    vectors: Tensor
    contents: list[str]
    index: Tensor
    groups: dict[int, list[str]]
    bad: Counter[str]


def _read(
    model: Any,
    source: Source,
    role: str,
    siblings: str | None,
    *,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> _Found:
    """Read every sample once: its images for the gallery, and its query."""
    groups: dict[int, dict[str, None]] = {}
    kept: dict[str, Tensor] = {}
    queries: list[Query] = []
    vectors: list[Tensor] = []
    bad: Counter[str] = Counter()

    def reported(sample: Sample) -> tuple[list[str], str, Query | None]:
        """Return the contents of the images that are read, the instruction, and the query if the
        sample is one."""
        contents = [content_of(image) for image in _images(sample)]
        group = int(sample.labels.get(siblings, -1)) if siblings is not None else -1
        if group >= 0:
            groups.setdefault(group, {}).update(dict.fromkeys(contents))
        text = " and ".join(text.strip() for text in sample.captions(role) if text.strip())
        if len(contents) < 2 or not text:
            return contents, "", None
        return (
            contents,
            text,
            Query(contents[0], contents[1], group, int(sample.labels.get(KINDS, -1))),
        )

    for pixels, facts in read_images(
        model,
        source,
        reported,
        bad,
        images=_images,
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        contents = [content for mine, _, _ in facts for content in mine]
        new = {content: at for at, content in enumerate(contents) if content not in kept}
        if new:
            kept |= zip(
                new,
                model.index(pixels[list(new.values())], batch_size=batch_size).cpu(),
                strict=True,
            )
        ends = np.cumsum([len(mine) for mine, _, _ in facts])
        asked = [
            (end - 1, text, query)
            for end, (_, text, query) in zip(ends, facts, strict=True)
            if query
        ]
        if asked:
            places, texts, mine = zip(*asked, strict=True)
            queries += mine
            vectors.append(
                as_vectors(model.compose(pixels[list(places)], texts, batch_size=batch_size))
            )
    if not queries:
        raise InputError(
            f"no sample of {source.name!r} has a reference and texts of role {role!r}; name their role"
        )
    lists = {group: list(contents) for group, contents in groups.items()}
    return _Found(
        queries, torch.cat(vectors), list(kept), torch.stack(list(kept.values())), lists, bad
    )


def _images(sample: Sample) -> list[EncodedImage]:
    """Return the main image, followed by the reference if there is one."""
    return [
        *main_image(sample),
        *([sample.images["reference"]] if "reference" in sample.images else []),
    ]


def content_of(image: EncodedImage) -> str:
    """Return a hash of an image's encoded bytes, by which equal images are identified. Raises
    BadSample if they cannot be read."""
    return hashlib.blake2b(image.read(), digest_size=16).hexdigest()


def _within(
    vectors: Tensor,
    index: Tensor,
    targets: np.ndarray,
    members: Sequence[Sequence[int]],
    ignored: Sequence[Sequence[int]],
) -> tuple[np.ndarray, list[int]]:
    """Return the rank of each query's target among the members of its group without the ignored
    ones, 0 for a query without a group, and the number of these members for each query with a
    group."""
    found = np.zeros(len(targets), np.int64)
    sizes = []
    for at, (target, group) in enumerate(zip(targets, members, strict=True)):
        if not group:
            continue
        mine = sorted(set(group) - set(ignored[at]))
        [found[at]] = ranks(vectors[[at]], index[mine], [[mine.index(target)]])
        sizes.append(len(mine))
    return found, sizes


def _row(rank: dict[str, np.ndarray], mine: np.ndarray) -> dict[str, Any]:
    """Return the numbers of some of the queries."""
    firsts = {
        f"{name}_r1": float((values[mine & (values > 0)] == 1).mean())
        for name, values in rank.items()
        if (mine & (values > 0)).any()
    }
    return {"n": int(mine.sum()), **firsts, "all_r5": float((rank["all"][mine] <= 5).mean())}


def _role(source: Source, role: str | None) -> str:
    """Return the role of the instructions: the given one, or instruction."""
    roles = [name.removeprefix("texts.") for name in source.schema() if name.startswith("texts.")]
    if role is None and "instruction" not in roles:
        raise unknown("role of the instructions", "instruction", roles)
    return role_of("composed", source, role or "instruction")
