"""Record linkage: which exemplar a record belongs to, if any, and which records belong together.

    top1       the share of queries whose nearest exemplar is of their entity
    accuracy   the same over all queries; nearest exemplars below a similarity t are no link, which is
               right for a query whose entity has no exemplar
    ari        the adjusted Rand index of single-linkage clusters, cut at a distance d

Exemplars are all records of `targets`, or else the first record of each entity; the others are
queries. Of entities with one record every second one is a query without an exemplar. t and d, and
with d the weight of images, are chosen on `val` alone, which has other entities. Ties are wrong.

Sources: arXiv 2304.03464; Hubert and Arabie 1985 (the index).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diptych.data.sample import Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps
from diptych.evaluation.protocol import data_of, describe, protocol_of, split_of
from diptych.evaluation.suites._features import opened
from diptych.evaluation.suites._links import (
    best_cut,
    best_threshold,
    link,
    rand_index,
    split,
    tree,
)
from diptych.evaluation.suites._records import (
    STRINGS,
    Records,
    Similarity,
    by_model,
    label_of_entities,
    read_records,
)
from diptych.evaluation.suites.retrieval import role_of
from diptych.objectives import info_nce
from diptych.rng import generator

card = {
    "title": "Record linkage: links to exemplars, and clusters",
    "needs": ["images.main", "texts"],  # and entities, a label or texts of a role
    "abilities": ["embed_images", "embed_texts"],
}


def ready(
    model: Any,
    source: Source,
    *,
    label: str | None = None,
    role: str | None = None,
    weight: float | None = None,
) -> None:
    """Raise InputError for a label or role that the source lacks, and a weight that is no share."""
    label_of_entities(source, label)
    role_of("linkage", source, role)
    if weight is not None and not 0 <= weight <= 1:
        raise InputError(f"weight is {weight}; it is the share of the image, from 0 to 1")


def linkage(
    model: Any,
    source: Source,
    *,
    label: str | None = None,
    role: str | None = None,
    targets: Source | str | None = None,
    val: Source | str | None = None,
    weight: float | None = None,
    strings: bool = False,
    trials: int = 32,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `top1`, and with `val` also `accuracy` and `ari`, with the values chosen there.

    - `label` is the entity: entity, or the first label that is an integer. `role` is that of the
      texts: caption, or the first.
    - `targets` are exemplars; without them the source's own first records are.
    - `val` is a source with entities on which thresholds are chosen.
    - `weight` is that of images, by default the model's own (`record_weight`, or 1/2); clusters have
      the best of `trials` random ones on `val`, unless it is given here.
    - `strings` adds the same by the texts alone (`by_similarity`), with Levenshtein's distance and
      with letters in a row, each with thresholds of its own.

    Also returned: `n` queries, `exemplars`, `pair_loss`, CLIP's loss of the records' images and
    texts, `bad` samples by reason, and the protocol.
    """
    ready(model, source, label=label, role=role, weight=weight)
    label = label_of_entities(source, label)
    role = role_of("linkage", source, role)
    parts = {"queries": source, "targets": targets, "val": val}
    sources = {name: opened(each) for name, each in parts.items() if each is not None}
    bad: Counter[str] = Counter()
    steps = Steps(progress, 2 * sum(map(len, sources.values())))
    read: dict[str, Records] = {}
    for name, each in sources.items():
        own = label_of_entities(each, label)
        read[name] = read_records(
            model, each, role, own, bad, exact=exact, batch_size=batch_size, steps=steps
        )
    own_weight = getattr(model, "record_weight", 0.5) if weight is None else weight
    weights = generator(0, "weights").random(trials).tolist() if weight is None else [weight]
    found = measured(read, by_model, own_weight, weights, source.name)
    if strings:
        rows = {
            name: measured(read, lambda _, each=each: each, 0.0, [0.0], source.name)
            for name, each in STRINGS.items()
        }
        found["by_similarity"] = {
            name: {key: row[key] for key in ("top1", "accuracy", "ari") if key in row}
            for name, row in {"model": found, **rows}.items()
        }
    named = {name: each for name, each in sources.items() if name != "queries"}
    protocol = protocol_of(
        "linkage",
        source,
        model,
        exact=exact,
        field=f"{label}:{role}",
        rule="nearest exemplar; ties lose; thresholds of the validation",
        options=(
            f"weight={own_weight:g}{'' if weight is None else ' for clusters too'}",
            f"trials={trials}",
            *(f"{name}={data_of(each)} {split_of(each.keys())}" for name, each in named.items()),
        ),
    )
    loss = pair_loss(model, read["queries"])
    return found | loss | {"bad": dict(bad)} | describe(protocol, model)


def measured(
    read: Mapping[str, Records],
    similarity: Callable[[float], Similarity],
    weight: float,
    weights: Sequence[float],
    name: str,
) -> dict[str, Any]:
    """Return the numbers of `queries` by similarities with a weight of images, and of their clusters
    with the best of `weights`; the records are by the names of `linkage`'s sources."""
    exemplars, queries = split_with(read["queries"], read.get("targets"))
    found = link(queries, exemplars, similarity(weight))
    if not found.known.any():
        raise InputError(
            f"no query of {name} has an exemplar of its entity: "
            + (
                "name targets with the same entities"
                if "targets" in read
                else "no entity has two records; name exemplars with targets"
            )
        )
    numbers: dict[str, Any] = {
        "n": len(queries),
        "exemplars": len(exemplars),
        "known": int(found.known.sum()),
        "top1": found.top1,
        "chance_top1": 1 / len(exemplars),
    }
    if "val" not in read:
        return numbers
    held, asked = split_with(read["val"], None)
    chosen = link(asked, held, similarity(weight))
    if not chosen.known.any():
        raise InputError("no entity of val has two records, so it tells no threshold")
    threshold = best_threshold(chosen)
    cut = best_cut(read["val"], similarity, weights)
    groups = tree(read["queries"], similarity(cut.weight)).cut(cut.distance)
    return numbers | {
        "accuracy": found.accuracy(threshold),
        "threshold": threshold,
        "ari": rand_index(read["queries"], groups),
        "chance_ari": 0.0,
        "clusters": int(groups.max()) + 1,
        "cluster_distance": cut.distance,
        "cluster_weight": cut.weight,
        "val_ari": cut.ari,
    }


def split_with(records: Records, targets: Records | None) -> tuple[Records, Records]:
    """Return exemplars and queries: all targets and all records, or the records' own."""
    if targets is not None:
        return targets, records
    exemplars, queries = split(records)
    return records.at(exemplars), records.at(queries)


def pair_loss(model: Any, records: Records) -> dict[str, float]:
    """Return CLIP's loss of the images and texts of records, at the model's scale."""
    scale = float(model.encoder.logit_scale().detach())
    return {"pair_loss": float(info_nce(records.image, records.text, scale))}
