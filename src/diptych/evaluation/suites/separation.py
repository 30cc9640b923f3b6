"""Separation: what two spaces of a model say of common and of salient factors.

Linear probes predict factors that all images have, and factors that only target images have, from
each of two spaces, on target images:

                     common factors    salient factors
    common space     c_common: 1       c_salient: chance
    salient space    s_common: chance  s_salient: 1

The numbers behind the colons are those of spaces that are separated. `delta_total` is the sum of the
distances to them,

    delta_total = (1 - c_common) + |c_salient - chance| + |s_common - chance| + (1 - s_salient)

Several factors of a kind count with the mean of each cell. Probes are those of `factors`: accuracy for
integers, R² for floats. Source: Louiset et al. 2024 (SepCLR).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diptych.data.sample import Source, label_values, labels_of
from diptych.data.wrap import Wrapped
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress
from diptych.evaluation.protocol import data_of, describe, protocol_of, split_of
from diptych.evaluation.suites._features import Features, features_ready, opened
from diptych.evaluation.suites.factors import factors

card = {
    "title": "Separation of common and salient factors in two spaces",
    "needs": ["images", "labels"],
    "abilities": [],  # project_images, embed_images or represent, depending on `features`
}

SPACES = ("common", "salient")


def ready(
    model: Any,
    source: Source,
    *,
    common: Sequence[str] = (),
    salient: Sequence[str] = (),
    background: str | int = -1,
    spaces: Sequence[str] = SPACES,
    train: Source | str | None = None,
    features: Features = "projected",
) -> None:
    """Raise InputError for labels, spaces and features that do not fit."""
    if len(spaces) != 2:
        raise InputError(f"{len(spaces)} spaces are named; name two, such as {','.join(SPACES)}")
    have = getattr(model, "spaces", ())
    for space in spaces:
        if space not in have:
            remedy = f"it has {', '.join(have)}" if have else "a run of sepclr has two"
            raise InputError(f"{model.name} has no space {space!r}; {remedy}")
    features_ready(model, source, features)
    if not common or not salient:
        raise InputError(
            "separation needs factors of both kinds; name labels with --common LABEL and --salient LABEL"
        )
    if twice := set(common) & set(salient):
        raise InputError(f"{min(twice)} is named as a common and as a salient factor; name it once")
    for part in (source, *([opened(train)] if train is not None else ())):
        there = [name.removeprefix("labels.") for name in part.schema() if "labels." in name]
        for name in (*common, *salient):
            if name not in there:
                raise unknown(f"label of source {part.name!r}", name, there)
        targets(part, salient[0], background)


def separation(
    model: Any,
    source: Source,
    *,
    common: Sequence[str] = (),
    salient: Sequence[str] = (),
    background: str | int = -1,
    spaces: Sequence[str] = SPACES,
    train: Source | str | None = None,
    features: Features = "projected",
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the four cells, `delta_total`, and `by_space`: the probe of each factor in each space,
    beside chance.

    - `common` and `salient` name labels. Target images are those whose first salient label has a
      value and none of `background` (`sample.label_values`); others are left out.
    - `spaces` are the common and the salient one.
    - The probes are trained on `train`, a source or its spec; without it `source` is split by the
      first seed. `features` are those of a probe; "projected" are not normalised.

    Also returned: `n`, `n_train`, `bad` samples by reason, and the protocol.
    """
    given: dict[str, Any] = {"common": common, "salient": salient, "background": background}
    ready(model, source, spaces=spaces, train=train, features=features, **given)
    judged = targets(source, salient[0], background)
    learnt = None if train is None else targets(opened(train), salient[0], background)
    names = [*common, *salient]
    found = {}
    for number, space in enumerate(spaces):
        found[space] = factors(
            model.space(space),
            judged,
            train=learnt,
            labels=names,
            features=features,
            seeds=seeds,
            batch_size=batch_size,
            exact=exact,
            progress=_part(progress, number, len(spaces)),
        )
        if found[space]["left_out"]:
            raise InputError(f"a factor cannot be probed: {found[space]['left_out']}")
    first = found[spaces[0]]
    tables = {space: result["by_factor"] for space, result in found.items()}
    learnt_on = (
        f"train=the other samples by seed {seeds[0]}"
        if learnt is None
        else f"train={data_of(learnt)} {split_of(learnt.keys())}"
    )
    options = (learnt_on, f"features={features}", f"spaces={','.join(spaces)}")
    protocol = protocol_of(
        "separation",
        judged,
        model,
        exact=exact,
        field=f"{','.join(common)} | {','.join(salient)}",
        rule="factors of target images; distance of four means to 1 or chance",
        options=(*options, f"background={background}", f"seed={seeds[0]}"),
    )
    return (
        {name: first[name] for name in ("n", "n_train")}
        | _cells(tables, spaces, common, salient)
        | {"by_space": _by_space(tables, names), "bad": first["bad"]}
        | describe(protocol, model)
    )


def targets(source: Source, label: str, background: str | int) -> Source:
    """The target images of a source. Raises InputError if there are none."""
    values = labels_of(source, label)
    if source.schema()[f"labels.{label}"].kind != "int":
        kept = np.isfinite(values)
    else:
        kept = (values >= 0) & ~np.isin(values, label_values(source, label, background))
    if not kept.any():
        raise InputError(
            f"no image of {source.name} is a target: all have no labels.{label}, or {background}; name another label"
        )
    return Wrapped(source, np.flatnonzero(kept))


def _part(progress: Progress | None, number: int, count: int) -> Progress | None:
    """The progress of one of several equal parts."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, count * total)


_Tables = Mapping[str, Mapping[str, Mapping[str, float]]]


def _cells(
    tables: _Tables, spaces: Sequence[str], common: Sequence[str], salient: Sequence[str]
) -> dict[str, float]:
    """The four cells and the distance to separated spaces, beside chance."""
    found: dict[str, float] = {}
    distances = []
    chances = []
    for space, initial in zip(spaces, "cs", strict=True):
        for kind, names in (("common", common), ("salient", salient)):
            rows = [_number(tables[space][name]) for name in names]
            value, chance = (float(each) for each in np.mean(rows, axis=0))
            cell = f"{initial}_{kind}"
            found[cell] = value
            found[f"chance_{cell}"] = chance
            own = kind[0] == initial
            distances.append(1 - value if own else abs(value - chance))
            chances.append(1 - chance if own else 0.0)
    return {"delta_total": sum(distances), "chance_delta_total": sum(chances), **found}


def _number(row: Mapping[str, float]) -> tuple[float, float]:
    measure = "top1" if "top1" in row else "r2"
    return row[measure], row[f"chance_{measure}"]


def _by_space(tables: _Tables, names: Sequence[str]) -> dict[str, dict[str, float]]:
    rows = {
        space: {name: _number(table[name])[0] for name in names} for space, table in tables.items()
    }
    first = next(iter(tables.values()))
    return rows | {"chance": {name: _number(first[name])[1] for name in names}}
