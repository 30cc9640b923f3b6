"""Retrieval between texts: from one wording to the others of the same sample, without images.

The queries are the texts of role `query` (paraphrase, question, …), the targets those of `role`;
the correct targets are those of the same sample. If both roles are the same, each text is a query
for the other texts of its sample and not a target of itself. Equal texts (case, outer spaces) are
one, and a query is never its own answer. Ties count against the model.

    R@k = mean_q [rank_q <= k],      MRR = mean_q 1 / rank_q
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from diptych.data.sample import BadSample, Sample, Source
from diptych.evaluation.embed import Progress, Steps, Texts, embed_texts, nothing_left, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of, summary, texts_of
from diptych.metrics import ranks

card = {"title": "Retrieval, text to text", "needs": ["texts"], "abilities": ["embed_texts"]}

_RULE = (
    "every different text is a query and a target, never its own; "
    "equal texts (case, outer blanks) are one; ties lose"
)


def ready(model: Any, source: Source, *, role: str | None = None, query: str | None = None) -> None:
    """Raise InputError for a role that the source lacks."""
    role_of("text_retrieval", source, role)
    role_of("text_retrieval", source, query)


def text_retrieval(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    query: str | None = None,
    batch_size: int = 64,
    ks: Sequence[int] = (1, 5, 10),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the recall of texts among texts: `t2t_r1` …, `t2t_median_rank`, `t2t_mrr`, and the
    chance values.

    `role` is the role of the targets (caption, or the first), `query` that of the queries
    (paraphrase if there is one, else `role`). Also returned: `n` queries, `texts` targets, `bad`
    samples by reason, and the protocol.
    """
    ready(model, source, role=role, query=query)
    role = role_of("text_retrieval", source, role)
    query = query or ("paraphrase" if "texts.paraphrase" in source.schema() else role)
    texts = Texts()
    bad = Counter()

    def both(sample: Sample) -> tuple[list[int], list[int]]:
        """Return the numbers of a sample's queries and targets."""
        asked = [texts.add(text) for text in texts_of(sample, query)]
        found = [texts.add(text) for text in texts_of(sample, role)]
        if len({*asked, *found}) < 2:
            raise BadSample(
                "one-text", f"{sample.key} has but one wording of roles {query!r} and {role!r}"
            )
        return asked, found

    right: dict[int, set[int]] = {}  # query -> targets
    for asked, found in read_texts(source, both, bad):
        for text in asked:
            right.setdefault(text, set()).update(found)
    targets = sorted(set().union(*right.values()))
    position = {text: at for at, text in enumerate(targets)}
    wanted = {
        text: sorted(position[each] for each in mine - {text}) for text, mine in right.items()
    }
    queries = [text for text, mine in wanted.items() if mine]
    if not queries:
        raise nothing_left(source, bad)
    used = sorted({*queries, *targets})
    steps = Steps(progress, len(used))
    vectors = embed_texts(
        model, [texts.written[text] for text in used], batch_size=batch_size, steps=steps
    )
    row = {text: at for at, text in enumerate(used)}
    own = [[position[text]] if text in position else [] for text in queries]
    lists = [wanted[text] for text in queries]
    rank = ranks(
        vectors[[row[t] for t in queries]], vectors[[row[t] for t in targets]], lists, ignored=own
    )
    results = {"n": len(queries), "texts": len(targets)}
    chosen_from = [len(targets) - len(each) for each in own]
    results |= summary("t2t", rank, [len(each) for each in lists], chosen_from, ks)
    protocol = protocol_of(
        "text_retrieval", source, model, field=role, rule=_RULE, options=(f"query={query}",)
    )
    return results | {"bad": dict(bad)} | describe(protocol, model)
