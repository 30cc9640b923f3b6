"""The training losses of images and their texts, on data that was not trained on.

    contrastive   mean over the pairs, in batches of at most 64, of
                  1/2 [ - log softmax_j(s x_i t_j)_i - log softmax_j(s t_i x_j)_i ]
    caption       - Σ log p(text, end | image) / Σ tokens, of models that write

x and t are the unit vectors of an image and of its text, s the model's multiplier. A text is drawn for
each image, and pairs are put into batches at random, both by a seed. Chance of the contrastive loss is
the logarithm of the batch's size. Texts above the context have no caption loss.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from diptych.data.sample import Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, as_vectors, embed_texts, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.methods.abilities import require
from diptych.objectives import info_nce
from diptych.rng import generator

card = {
    "title": "Contrastive loss and caption loss of pairs",
    "needs": ["images.main", "texts"],
    "abilities": ["embed_images", "embed_texts"],
}

BATCH = 64
"""The most pairs whose images and texts are compared."""


def ready(model: Any, source: Source, *, role: str | None = None) -> None:
    """Raise InputError for a role that the source lacks, and a model without a multiplier of
    cosines."""
    role_of("pair_losses", source, role)
    for ability in ("embed_images", "embed_texts"):
        require(model, ability, "the loss of pairs")
    if not callable(getattr(getattr(model, "encoder", None), "logit_scale", None)):
        raise InputError(
            "the loss of pairs needs the multiplier of cosines, which this model has not; measure it by retrieval"
        )


def pair_losses(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `contrastive`, of a model that writes `caption`, and `chance_contrastive`.

    `role` is that of the texts: caption, or the first that the source has. The first seed draws a text
    of each image, and the batches. Also returned: `n` pairs, `n_captions` that fit the context, `bad`
    samples by reason, and the protocol.
    """
    ready(model, source, role=role)
    role = role_of("pair_losses", source, role)
    seed = seeds[0]

    def drawn(sample: Sample) -> str:
        texts = texts_of(sample, role)
        return texts[generator(seed, "pair_losses", sample.key).integers(len(texts))]

    bad: Counter[str] = Counter()
    steps = Steps(progress, 2 * len(source))
    writes = hasattr(model, "log_prob") and getattr(model, "tokenizer", None) is not None
    images = []
    texts: list[str] = []
    log_prob = 0.0
    fitting = tokens = 0
    for pixels, said in read_images(
        model, source, drawn, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        images.append(as_vectors(model.embed_images(pixels, batch_size=batch_size)))
        texts += said
        rows = [at for at, text in enumerate(said) if writes and not model.tokenizer.lost(text)]
        if rows:
            words = model.tokenizer
            fit = [said[at] for at in rows]
            found = model.log_prob(pixels[rows], fit, batch_size=batch_size)
            log_prob += float(found.double().sum())
            tokens += sum(len(words.ids(text)) + len(words.after) for text in fit)
            fitting += len(rows)
    x = torch.cat(images)
    t = embed_texts(model, texts, batch_size=batch_size, steps=steps)
    order = torch.from_numpy(generator(seed, "pair_losses", "batches").permutation(len(texts)))
    parts = order.tensor_split(-(-len(texts) // BATCH))
    scale = model.encoder.logit_scale().detach().float().cpu()
    each = [float(info_nce(x[rows], t[rows], scale)) * len(rows) for rows in parts]
    chance = sum(float(torch.tensor(len(rows)).log()) * len(rows) for rows in parts)
    protocol = protocol_of(
        "pair_losses",
        source,
        model,
        exact=exact,
        field=role,
        rule=f"a text of each image, at most {BATCH} pairs are compared",
        options=(f"seed={seed}",),
    )
    return (
        {"n": len(texts), "contrastive": sum(each) / len(texts)}
        | ({"caption": -log_prob / tokens} if tokens else {})
        | {"chance_contrastive": chance / len(texts), "n_captions": fitting, "bad": dict(bad)}
        | describe(protocol, model)
    )
