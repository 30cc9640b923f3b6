"""Reports that a language model writes about volumes.

    v = adapter(h),   L = - mean over the tokens of reports of log p(y_t | y_<t, prompt, v)

h (D,) is the pooled output of the image tower, which is frozen. The adapter is one linear layer, of which
the k · W outputs are the embeddings of k virtual tokens, which the language model reads first.

    adapter    the adapter alone
    tune       the adapter, and the language model as the option `tune` says: low-rank factors

Dimensions: B volumes, k virtual tokens, D width of the image tower, W width of the language model.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.views import View
from diptych.errors import InputError
from diptych.methods.base import Features, Losses
from diptych.methods.domain.renalclip.config import Config
from diptych.methods.domain.renalclip.knowledge import Objective, stage_of
from diptych.methods.language import FROZEN, tuned_language
from diptych.methods.make import Make
from diptych.models.delivered import Validation
from diptych.models.model import evaluating
from diptych.models.vlm import PatchReader, VisionLM
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded

LEAST = 16
"""The fewest tokens that are left for prompt and report."""


class PooledReader(PatchReader):
    """The pooled output (B, 1, D) of an image tower, of which an adapter makes `count` tokens."""

    def __init__(self, encoder: DualEncoder, count: int):
        super().__init__(encoder)
        self.count = count

    def read(self, pixels: Tensor) -> tuple[Tensor, None, Encoded]:
        """Volumes (B, 1, D, H, W) -> (B, 1, D), no grid, and the encoded volumes."""
        found = self._encoder[0].image(pixels)
        return found.pooled[:, None], None, found

    @cached_property
    def shape(self) -> tuple[int, int]:
        """The number of tokens of a volume, and the width of what they are made of."""
        return self.count, self._encoder[0].image.width


def virtual_tokens(width: int, count: int, to: int) -> nn.Module:
    """The adapter (B, 1, D) -> (B, k, W).

    >>> virtual_tokens(6, 4, 8)(torch.zeros(2, 1, 6)).shape
    torch.Size([2, 4, 8])
    """
    expanded = nn.Linear(width, count * to)
    return nn.Sequential(expanded, nn.Unflatten(2, (count, to)), nn.Flatten(1, 2))


def writer(make: Make, encoder: DualEncoder, config: Config) -> VisionLM:
    """Return the encoder, frozen, with an adapter and the language model of the options.

    Where training goes on from a run that writes reports, its adapter and factors are taken. Raises
    InputError where no language model is named, and as `tuned_language` does.
    """
    if config.lm is None:
        raise InputError(
            "a language model writes the reports; name one with --method.lm, such as tiny-lm, a RUN of language_model "
            "or hf-lm:FOLDER"
        )
    language = tuned_language(config.lm, config.tune, make, before=config.tokens)
    read: Any = language.own if language.lent is None else language.lent.module
    if read.context < config.tokens + LEAST:
        raise InputError(
            f"{config.tokens} virtual tokens and a report exceed the {read.context} tokens that the language model "
            "reads; lower --method.tokens, or name one with a longer context"
        )
    model = VisionLM(
        encoder,
        PooledReader(encoder, config.tokens),
        virtual_tokens(encoder.image.width, config.tokens, read.table.embedding_dim),
        language,
        validation=Validation("captions", ("bleu4", "rouge_l", "cider"), {"role": config.role}),
        prompt=config.prompt,
        longest=config.max_tokens,
    )
    make.go_on_part(model.adapter, "adapter")
    return model


def writing(
    model: VisionLM, config: Config, streams: Sequence[str], views: Callable[[], Sequence[View]]
) -> list[Objective]:
    """Return the stages of the given streams; without one of its own, tuning reads that of the adapter.

    Raises InputError for a stream of tuning where nothing is tuned.
    """
    if "tune" in streams and config.tune == FROZEN:
        raise InputError(
            f"the stream tune is read by the stage that --method.tune {FROZEN} leaves out; give its data to train, "
            "or low-rank factors such as --method.tune lora:r=8:layers=q+v"
        )

    def read(batch: Batch) -> Features:
        prefix = model.prefix(model.patches(batch.image.flat)[0])
        ids, _ = batch.text.flat
        marks: Any = batch.text.marks
        counted = marks.flatten(0, 1) >= 0
        return {
            "log_prob": model.read(prefix, ids, counted).sum(1),
            "words": counted.sum(1),
        }

    def read_frozen(batch: Batch) -> Features:
        with evaluating(model.lm):
            return read(batch)

    def loss(features: Features, batch: Batch) -> Losses:
        mean = -features["log_prob"].sum() / features["words"].sum()
        return Losses({"reports": mean}, {"perplexity": torch.exp(mean.detach())})

    found = []
    if "train" in streams:
        stage = stage_of("adapter", config, {"model.adapter": 1.0}, ("train",))
        found.append(Objective(stage, views, read_frozen, loss))
    if config.tune != FROZEN:
        part = "factors" if model.own is None else "own"
        trained = {"model.adapter": 1.0, f"model.{part}": config.lm_lr}
        stage = stage_of("tune", config, trained, ("tune" if "tune" in streams else "train",))
        found.append(Objective(stage, views, read, loss))
    return found
