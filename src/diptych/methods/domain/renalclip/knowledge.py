"""What each tower learns of the domain on its own, before both are aligned: attributes of volumes,
masked words, and whole reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from diptych.data.batch import Batch
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import LabelView, MaskedTextView, TextView, View
from diptych.errors import InputError
from diptych.methods.base import Features, Losses, Stage
from diptych.methods.domain.renalclip.config import Config
from diptych.methods.domain.renalclip.objectives import masked_tasks, next_token_loss
from diptych.methods.domain.renalclip.volumes import VolumeView
from diptych.towers.dual import DualEncoder


@dataclass(frozen=True)
class Objective:
    """A stage: how its batches are read, encoded and judged."""

    stage: Stage
    views: Callable[[], Sequence[View]]
    encode: Callable[[Batch], Features]
    loss: Callable[[Features, Batch], Losses]


def attributes(
    encoder: DualEncoder, heads: nn.ModuleDict, config: Config, volumes: VolumeView
) -> Objective:
    """The image tower learns attributes of single kidneys, each by a head; missing ones count
    nothing."""

    def views() -> Sequence[View]:
        return volumes, *(LabelView(label=name) for name in config.attributes)

    def encode(batch: Batch) -> Features:
        pooled = encoder.encode_image(batch.image.flat).pooled
        return {name: head(pooled) for name, head in heads.items()}

    def loss(features: Features, batch: Batch) -> Losses:
        labels = {name: batch.fields[name] for name in features}
        known = torch.stack([labels[name] >= 0 for name in features])
        right = torch.stack([features[name].argmax(1) == labels[name] for name in features])
        accuracy = (right & known).sum() / known.sum().clamp(min=1)
        return Losses({"attributes": masked_tasks(features, labels)}, {"accuracy": accuracy})

    stage = stage_of("attributes", config, {"model.image": 1.0, "heads": 1.0}, ("train",))
    return Objective(stage, views, encode, loss)


def words(
    encoder: DualEncoder,
    output: nn.Module | None,
    config: Config,
    tokenizer: Tokenizer,
    streams: Sequence[str],
) -> Objective:
    """The text tower predicts each masked word from the place before it, by the word table or by
    the layer `output` of the language model that it started from."""

    def views() -> Sequence[View]:
        how: dict[str, Any] = {"rate": config.mask_rate, "kept": 0.0, "random": 0.0}
        return (MaskedTextView(tokenizer=tokenizer, role=config.role, **how),)

    def encode(batch: Batch) -> Features:
        text = _text_of(encoder)
        marks: Any = batch.text.marks
        tokens = text(*batch.text.flat).tokens
        table: Any = (text.table if output is None else output).weight
        sums, counts = next_token_loss(tokens, table, marks.flatten(0, 1))
        return {"nll": sums, "count": counts}

    def loss(features: Features, batch: Batch) -> Losses:
        mean = features["nll"].sum() / features["count"].sum().clamp(min=1)
        return Losses({"masked": mean}, {"perplexity": mean.detach().exp()})

    trained = {"model.text": 1.0} | ({} if output is None else {"output": 1.0})
    stage = stage_of("words", config, trained, streams)
    return Objective(stage, views, encode, loss)


def reports(
    encoder: DualEncoder, config: Config, tokenizer: Tokenizer, streams: Sequence[str]
) -> Objective:
    """The text tower tells reports apart: two passes of one report, which differ by dropout, are
    alike."""

    def views() -> Sequence[View]:
        return (TextView(tokenizer=tokenizer, role=config.role),)

    def encode(batch: Batch) -> Features:
        text = _text_of(encoder)
        ids, lengths = batch.text.flat
        one, two = (text(ids, lengths).pooled for _ in range(2))
        return {"one": F.normalize(one, dim=-1), "two": F.normalize(two, dim=-1)}

    def loss(features: Features, batch: Batch) -> Losses:
        keys = features["two"]
        logits = features["one"] @ keys.T / config.tau
        found = F.cross_entropy(logits, torch.arange(len(keys), device=keys.device))
        return Losses({"reports": found})

    stage = stage_of("reports", config, {"model.text": 1.0}, streams)
    return Objective(stage, views, encode, loss)


def stage_of(
    name: str, config: Config, trained: Mapping[str, float], streams: Sequence[str]
) -> Stage:
    """A stage with its recipe in `config`, that trains the parameters of the prefixes `trained` alone, at
    these multiples of the learning rate."""
    recipe = config.recipes.get(name, {})
    return Stage(name=name, streams=streams, recipe=recipe, lr_scale={"": 0.0, **trained})


def _text_of(encoder: DualEncoder) -> Any:
    text: Any = encoder.text
    if text is None or not hasattr(text, "table"):
        raise InputError(
            "masked words and reports are of a text tower; give --text-tower text:causal=false:pooling=mean"
        )
    return text
