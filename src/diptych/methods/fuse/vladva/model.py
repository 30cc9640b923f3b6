"""What VladVA delivers: a vision-language model whose state at the last token of a prompt, behind an image
or a text, is its embedding, and which still writes.

    image   [V; start; s^v; p^v],   behind which a long caption may stand
    text    [start; caption; s^t; p^t]

V are the adapted patches, s the soft prompts, p the prompts in words, and start is what the template has
before them. A causal model's state at the last token of p depends on nothing behind it.

Dimensions: B images or texts, P patches, L ids, N tokens, n soft tokens, D width of the language model.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, from_dict
from diptych.errors import InputError
from diptych.methods.make import Make
from diptych.models.captioner import Prompt
from diptych.models.vlm import Language, PatchReader, VisionLM, VisionLMModel
from diptych.towers.dual import Composed, DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.parts import Temperature
from diptych.towers.tower import ImageTower, Tower

SIDES = ("image", "text")


class SummaryLM(VisionLM):
    """A `VisionLM` with a prompt in words and a soft prompt of `n_ctx` vectors for each side, and a learned
    scale of similarities. Soft prompts begin as the embeddings of the first words of the prompts, which are
    repeated where there are fewer."""

    def __init__(
        self,
        encoder: DualEncoder,
        patches: PatchReader,
        adapter: nn.Module,
        language: Language,
        *,
        prompts: Mapping[str, str],
        n_ctx: int,
        logit_scale: Temperature,
        **options: Any,
    ):
        super().__init__(encoder, patches, adapter, language, **options)
        self.prompts = dict(prompts)
        self.soft = nn.ParameterDict({side: self._begun(side, n_ctx) for side in SIDES})
        self.logit_scale = logit_scale

    def _begun(self, side: str, count: int) -> nn.Parameter:
        table = self.lm.table.weight.detach()
        if self._words is None:  # of a saved run, whose values follow
            return nn.Parameter(table.new_zeros(count, table.shape[1]))
        ids = self.words.ids(self.prompts[side])
        if not ids:
            raise InputError(f"the {side} prompt {self.prompts[side]!r} has no words")
        rows = torch.arange(count, device=table.device) % len(ids)
        return nn.Parameter(table[torch.tensor(ids, device=table.device)[rows]].clone())

    def go_on(self, make: Make) -> None:
        """Take soft prompts and scale of the run that training starts from, where it has them."""
        make.go_on_part(self.soft, "soft")
        make.go_on_part(self.logit_scale, "logit_scale")

    # ---- what is read

    @cached_property
    def start_ids(self) -> list[int]:
        """The ids before an image's prompt, or before a caption."""
        return [*self.words.before, *self.words.ids(self.template.partition("{}")[0])]

    def asked_ids(self, side: str) -> list[int]:
        """The ids of a prompt in words; the state at the last of them is the summary."""
        return self.words.ids(self.prompts[side] + self.template.partition("{}")[2])

    def length(self, side: str) -> int:
        """The number of tokens that are read of an image's patches and prompt, or of a text's prompt."""
        places = self.patches.shape[0] if side == "image" else 0
        return places + len(self.start_ids) + len(self.soft[side]) + len(self.asked_ids(side))

    @property
    def rooms(self) -> tuple[int, int]:
        """The most own ids of a caption that is embedded, and of one that stands behind an image.

        Raises InputError if the prompts leave no room in the context.
        """
        words = self.words
        rooms = []
        for side in SIDES:
            room = self.lm.context - self.length(side)
            if room < 2:
                raise InputError(
                    f"of the {self.lm.context} tokens that the language model reads, the {side} side takes "
                    f"{self.length(side)} without a caption; lower --method.n_ctx or --method.grid, shorten "
                    f"--method.{side}_prompt, or name a language model with a longer context"
                )
            rooms.append(room)
        behind, embedded = rooms
        return min(embedded, words.room), behind - len(words.after)

    @property
    def captions(self) -> Tokenizer:
        """The tokenizer of captions that are embedded: it leaves room for the prompt."""
        words = self.words
        context = self.rooms[0] + len(words.before) + len(words.after)
        if context == words.context:
            return words
        return from_dict({**words.to_dict(), "context": context})

    def _rows(self, ids: Sequence[int], count: int) -> Tensor:
        """The embeddings (B, L, D) of the same ids in each row."""
        table = self.lm.table
        return table(torch.tensor(ids, device=table.weight.device)).expand(count, -1, -1)

    def _soft(self, side: str, count: int) -> Tensor:
        return self.soft[side].to(self.lm.table.weight.dtype).expand(count, -1, -1)

    def image_tokens(self, prefix: Tensor) -> Tensor:
        """Adapted patches (B, P, D) -> the tokens (B, N, D) up to the summary's."""
        count = len(prefix)
        asked = self._rows(self.asked_ids("image"), count)
        start = self._rows(self.start_ids, count)
        return torch.cat([prefix, start, self._soft("image", count), asked], 1)

    def text_tokens(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Captions (B, L) with their special ids, of lengths (B,) -> the tokens (B, N, D) up to the
        summary's, and which are real, (B, N). The end of a caption is not read."""
        words = self.words
        count = len(ids)
        own = ids[:, len(words.before) : ids.shape[1] - len(words.after)]
        last = lengths - len(words.before) - len(words.after)
        real = torch.arange(own.shape[1], device=ids.device) < last[:, None]
        start = self._rows(self.start_ids, count)
        asked = self._rows(self.asked_ids("text"), count)
        tokens = torch.cat([start, self.lm.table(own), self._soft("text", count), asked], 1)
        before = real.new_ones(count, start.shape[1])
        behind = real.new_ones(count, tokens.shape[1] - start.shape[1] - own.shape[1])
        return tokens, torch.cat([before, real, behind], 1)

    def prompted(self, seen: Tensor | range, prompts: Sequence[str] | None) -> Prompt:
        """As in `VisionLM`; without prompts the text follows the image's prompt, as long captions do in
        training."""
        if prompts is not None or isinstance(seen, range):
            return super().prompted(seen, prompts)
        tokens = self.image_tokens(seen)
        asked = self.asked_ids("image")
        return Prompt(ids=[asked] * len(seen), prefix=tokens[:, : -len(asked)])

    def summaries(self) -> "SummaryEncoder":
        """The dual encoder of images and texts that these parts are."""
        return SummaryEncoder(self)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "SummaryModel":
        assert preprocess is not None, "an image tower has a preprocessing"
        return SummaryModel(self, preprocess, name=name)


class SummaryEncoder(Composed):
    """A `SummaryLM` as a dual encoder, in the space of the language model's states."""

    def __init__(self, model: SummaryLM):
        parts = {
            "image": SummaryOfImages(model),
            "text": SummaryOfTexts(model),
            "image_projection": nn.Identity(),
            "text_projection": nn.Identity(),
        }
        super().__init__(model.encoder, parts=parts, embed_dim=model.lm.table.embedding_dim)
        self.logit_scale = model.logit_scale
        self.logit_bias = None

    def config(self) -> dict[str, Any]:
        """The config of the frozen encoder, with a text tower that nothing builds: exports, and trainings of
        other methods, refuse it by name."""
        return {**super().config(), "text": self.text.spec}  # type: ignore[union-attr]


class SummaryOfImages(ImageTower):
    """A `SummaryLM` as an image tower: its tokens are the states at the patches."""

    def __init__(self, model: SummaryLM):
        tower = model.image
        super().__init__(tower.config, tower.preprocess)
        self.model = model
        self.width = model.lm.table.embedding_dim

    @property
    def spec(self) -> dict[str, Any]:
        return {**self.model.image.spec, "name": "vladva.image"}

    def forward(self, x: Tensor) -> Encoded:
        patches, grid = self.model.patches(x)
        hidden = self.model.lm(prefix=self.model.image_tokens(self.model.prefix(patches)))
        return Encoded(hidden[:, : patches.shape[1]], hidden[:, -1], grid=grid)


class SummaryOfTexts(Tower):
    """A `SummaryLM` as a text tower: its tokens are the states of all that is read."""

    def __init__(self, model: SummaryLM):
        super().__init__(None)
        self.model = model
        self.width = model.lm.table.embedding_dim

    @property
    def spec(self) -> dict[str, Any]:
        words = self.model.captions
        return {"name": "vladva.text", "vocab_size": words.vocab_size, "context": words.context}

    def forward(self, ids: Tensor, lengths: Tensor) -> Encoded:
        tokens, real = self.model.text_tokens(ids, lengths)
        hidden = self.model.lm(mask=real, prefix=tokens)
        return Encoded(hidden, hidden[:, -1], mask=real)  # a prompt, which is real, ends each row


class SummaryModel(VisionLMModel):
    """A model that embeds images and texts by their summaries, writes about images and answers questions."""

    captioner: SummaryLM

    def __init__(self, captioner: SummaryLM, preprocess: Preprocess, *, name: str):
        encoder = captioner.summaries()
        super().__init__(captioner, captioner.captions, preprocess, name=name, encoder=encoder)


def unit_summary(model: SummaryLM, ids: Tensor, lengths: Tensor) -> Tensor:
    """The embeddings (B, D) of captions (B, L) with their special ids."""
    return normalize(model.summary(*model.text_tokens(ids, lengths)), dim=-1)
