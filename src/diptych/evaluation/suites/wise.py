"""WiSE-FT: a fine-tuned model, the model it came from, and interpolations between them; the gain on
one task and the loss on others.

    weights(alpha) = (1 - alpha) · earlier + alpha · model

Source: Wortsman et al. 2022 (Robust fine-tuning of zero-shot models).
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diptych.data.sample import Source
from diptych.errors import InputError
from diptych.evaluation import check, evaluate
from diptych.evaluation.embed import Progress
from diptych.evaluation.protocol import data_of, describe, protocol_of
from diptych.evaluation.suites.continual import (
    Checkpoint,
    loaded,
    mean_of,
    measured_by,
    settings_of,
    share_of,
)
from diptych.towers.nn.parts import between

card = {
    "title": "WiSE-FT: models between a fine-tuned one and the one it came from",
    "needs": [],  # those of the suite of `measure`
    "abilities": [],
}

ALPHAS = tuple(step / 10 for step in range(11))


def ready(
    model: Any,
    source: Source,
    *,
    earlier: Sequence[Checkpoint] = (),
    measure: str = "zeroshot.top1",
    alphas: Sequence[float] = ALPHAS,
) -> None:
    """Raise InputError unless there is exactly one earlier model, with the same towers."""
    suite, _ = measured_by(measure)
    if len(earlier) != 1:
        raise InputError(
            f"wise goes between the model and one earlier one, not {len(earlier)}; name it with --earlier"
        )
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
        raise InputError(f"alphas are {list(alphas)}; give shares from 0, the earlier model, to 1")
    for task in _tasks(source):
        check(model, task, [suite])
    with _between(model, loaded(earlier[0])):
        pass


def wise(
    model: Any,
    source: Source,
    *,
    earlier: Sequence[Checkpoint] = (),
    measure: str = "zeroshot.top1",
    alphas: Sequence[float] = ALPHAS,
    label: str | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `by_alpha`: the measure at each alpha, on each of the sources that commas join;
    `alpha`, the one with the best mean over them, and `best`, that mean.

    Choose an alpha on data that you do not report on. `measure` is SUITE.NUMBER, as in `continual`.
    """
    ready(model, source, earlier=earlier, measure=measure, alphas=alphas)
    suite, numbers = measured_by(measure)
    settings = settings_of(suite, label=label, batch_size=batch_size, exact=exact)
    tasks = _tasks(source)
    rows = {}
    protocols = []
    bad = {}
    with _between(model, loaded(earlier[0])) as mix:
        for i, alpha in enumerate(alphas):
            mix(alpha)
            row = []
            for j, task in enumerate(tasks):
                share = share_of(progress, i * len(tasks) + j, len(alphas) * len(tasks))
                results = evaluate(model, task, [suite], progress=share, **settings)[suite]
                row.append(mean_of(results, suite, numbers))
                if i == 0:
                    protocols.append(results["protocol"])
                    bad |= results["bad"]
            rows[alpha] = row
    names = [f"{j + 1}: {data_of(task)}" for j, task in enumerate(tasks)]
    means = {alpha: sum(row) / len(row) for alpha, row in rows.items()}
    best = max(means, key=lambda alpha: means[alpha])
    by_alpha = {
        f"{alpha:g}": {**dict(zip(names, row, strict=True)), "mean": means[alpha]}
        for alpha, row in rows.items()
    }
    protocol = protocol_of(
        "wise",
        source,
        model,
        exact=exact,
        field=measure,
        rule="weights between the earlier model and this one",
        options=(
            f"alphas={','.join(f'{alpha:g}' for alpha in alphas)}",
            *(f"task={each}" for each in protocols),
        ),
    )
    return {
        "n": len(alphas),
        "alpha": best,
        "best": means[best],
        "by_alpha": by_alpha,
        "bad": bad,
    } | describe(protocol, model)


def _tasks(source: Source) -> Sequence[Source]:
    return getattr(source, "sources", None) or (source,)


@contextmanager
def _between(model: Any, earlier: Any) -> Iterator[Any]:
    """Yield a function that sets the weights of `model` to those at an alpha between the two; on
    exit the model's own weights are restored."""
    mine = model.encoder.state_dict()
    theirs = earlier.encoder.state_dict()
    for name in mine.keys() | theirs.keys():
        if name not in mine or name not in theirs or mine[name].shape != theirs[name].shape:
            raise InputError(
                f"{earlier.name} and {model.name} have other towers ({name} is not in both alike); name "
                "the model that this one was trained from"
            )
    own = copy.deepcopy(mine)

    def mix(alpha: float) -> None:
        model.encoder.load_state_dict(between(theirs, own, alpha))

    try:
        yield mix
    finally:
        model.encoder.load_state_dict(own)
