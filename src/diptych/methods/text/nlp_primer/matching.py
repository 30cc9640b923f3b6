"""What the objectives with labels deliver: an encoder of texts that also scores their labels.

Dimensions: N texts, K labels, L ids, D width of the token embeddings, E embedding, W width of the
matcher.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, by_length, pad_batch
from diptych.dtypes import at_least_float32
from diptych.errors import InputError, shortened, unknown
from diptych.methods.text.nlp_primer.label_views import label_ids
from diptych.models.class_names import plainly
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import TextModel, evaluating
from diptych.towers.dual import DualEncoder

Progress = Callable[[int, int], None]
LABELS = 256
"""Labels that are scored at once."""


class Matcher(nn.Module):
    """A perceptron of one hidden layer on a text and a label: one logit.

        f(h, l) = w · gelu( U LN(h) + V LN(l) + c ) + d            = MLP [LN(h); LN(l)]

    Without the layer norms the labels, which are means of small embeddings, have next to no effect at
    first. U and V begin with a standard deviation of 2 / sqrt(inputs): with smaller weights the layer
    is nearly linear, and a sum of a text's and a label's part does not say whether they match.

    >>> Matcher(4, 3, 8)(torch.zeros(2, 4), torch.zeros(5, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(self, text_width: int, label_width: int, width: int):
        super().__init__()
        self.text = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width))
        self.label = nn.Sequential(
            nn.LayerNorm(label_width), nn.Linear(label_width, width, bias=False)
        )
        self.score = nn.Linear(width, 1)
        for part in (self.text, self.label):
            nn.init.normal_(part[1].weight, std=2 / math.sqrt(part[1].in_features))  # type: ignore[arg-type]

    def forward(self, texts: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, K) of texts (N, E) with labels (K, D), or with labels (N, K, D) of their own."""
        return self.logits(texts, self.label(labels))

    def logits(self, texts: Tensor, labels: Tensor) -> Tensor:
        """As `forward`, of labels V LN(l), (K, W) or (N, K, W)."""
        hidden = self.text(texts)[:, None] + labels
        return self.score(F.gelu(hidden)).squeeze(-1)


def label_vectors(table: nn.Embedding, ids: Tensor, lengths: Tensor) -> Tensor:
    """The mean embedding (…, D) of the tokens of labels, ids (…, L) with lengths (…); 0 of a label
    without tokens.

    >>> table = nn.Embedding.from_pretrained(torch.tensor([[0.0], [1.0], [3.0]]))
    >>> label_vectors(table, torch.tensor([[1, 2], [2, 0]]), torch.tensor([2, 1]))
    tensor([[2.],
            [3.]])
    """
    there = torch.arange(ids.shape[-1], device=ids.device) < lengths[..., None]
    total = (table(ids) * there[..., None]).sum(-2)
    return total / lengths.clamp(min=1)[..., None]


class MatchingEncoder(Delivered):
    """An encoder of texts and a matcher; `label` is the first field that it was trained with, or
    "" if it has words as labels alone."""

    def __init__(self, encoder: DualEncoder, matcher: Matcher, label: str = ""):
        super().__init__()
        self.encoder = encoder
        self.matcher = matcher
        self.label = label
        self.reads = ("texts.*", label or "labels.*")  # type: ignore[misc]  # by the options

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "MatchingModel":
        return MatchingModel(self.encoder, tokenizer, name=name, delivered=self)


class ClassifyingEncoder(Delivered):
    """An encoder of texts and a linear classifier, whose classes are `names`; `label` is the field
    that it was trained with."""

    def __init__(self, encoder: DualEncoder, head: "Head", label: str):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.label = label
        self.reads = ("texts.*", label)  # type: ignore[misc]  # by the options

    def extra_state(self) -> dict[str, Any]:
        return {"names": list(self.head.names)}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        self.head.hold(values["names"])

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "ClassifyingModel":
        return ClassifyingModel(self.encoder, tokenizer, name=name, delivered=self)


class Head(nn.Module):
    """A linear layer whose classes have names; it has none before `hold`.

    >>> head = Head(4)
    >>> head.hold(["music", "sport"])
    >>> head(torch.ones(1, 4))
    tensor([[0., 0.]], grad_fn=<AddmmBackward0>)
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.hold(())

    def hold(self, names: Sequence[str]) -> None:
        """Set the classes, with weights of 0."""
        self.names = tuple(names)
        self.weight = nn.Parameter(torch.zeros(len(names), self.width))
        self.bias = nn.Parameter(torch.zeros(len(names)))

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (N, E) -> logits (N, C)."""
        return F.linear(vectors, self.weight, self.bias)


class LabellingModel(TextModel):
    """Embeds texts, and scores their labels (`match`).

    `probabilities` turns the logits of a text into probabilities: "sigmoid" of each label by itself,
    or "softmax" over all.
    """

    delivered: Any
    probabilities: Literal["sigmoid", "softmax"] = "sigmoid"
    label_names: tuple[str, ...] = ()
    """The only labels that it can score; none if it can score any."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.delivered.label:
            settings = {"label": self.delivered.label}
            self.validation = Validation("text_labels", ("average_precision", "top1"), settings)

    def match(
        self,
        texts: str | Sequence[str],
        labels: Sequence[str],
        *,
        batch_size: int = 256,
        progress: Progress | None = None,
    ) -> Tensor:
        """Return the logits (N, K) of texts with labels, float32, on the CPU.

        Raises InputError for a label that it cannot score.
        """
        score = self._scorer([labels] if isinstance(labels, str) else list(labels))
        vectors = self._projected(
            [texts] if isinstance(texts, str) else texts, batch_size, progress
        )
        rows = [score(part.to(self.device)).float().cpu() for part in vectors.split(batch_size)]
        return torch.cat(rows).clone()

    def _scorer(self, labels: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """The function from vectors (n, E) of texts to logits (n, K) with labels."""
        raise NotImplementedError

    def _projected(
        self, texts: Sequence[str], batch_size: int, progress: Progress | None
    ) -> Tensor:
        """The embeddings (N, E) of texts, not normalised."""
        assert self.tokenizer is not None, "it was trained with a tokenizer"
        rows = self.tokenizer.encode(texts)
        batches, places = by_length(rows, self.tokenizer, batch_size)

        def project(ids: Tensor, lengths: Tensor) -> Tensor:
            encoder = self.encoder
            return at_least_float32(encoder.project_text(encoder.encode_text(ids, lengths).pooled))

        return self._embed(batches, project, len(rows), progress)[places]


class MatchingModel(LabellingModel):
    """Scores any labels by their words."""

    def _scorer(self, labels: Sequence[str]) -> Callable[[Tensor], Tensor]:
        assert self.tokenizer is not None, "it was trained with a tokenizer"
        rows = [label_ids(label, self.tokenizer) for label in labels]
        for label, row in zip(labels, rows, strict=True):
            if not row:
                raise InputError(
                    f"the label {shortened(label)!r} has no word that {self.name} knows; write it in words"
                )
        if not rows:
            raise InputError("no label is given; name one at least")
        ids, lengths = pad_batch(rows, self.tokenizer)
        matcher = self.delivered.matcher
        table: Any = self.encoder.text.table  # type: ignore[union-attr]

        def score(vectors: Tensor) -> Tensor:
            with evaluating(self.delivered), torch.inference_mode():
                found = [matcher.logits(vectors, part) for part in parts]
            return torch.cat(found, 1)

        with torch.inference_mode():
            means = label_vectors(table, ids.to(self.device), lengths.to(self.device))
            parts = matcher.label(at_least_float32(means)).split(LABELS)
        return score


class ClassifyingModel(LabellingModel):
    """Scores the labels that it was trained on."""

    probabilities = "softmax"

    @property
    def label_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.delivered.head.names

    def _scorer(self, labels: Sequence[str]) -> Callable[[Tensor], Tensor]:
        own = {plainly(name): place for place, name in enumerate(self.label_names)}
        for label in labels:
            if plainly(label) not in own:
                raise unknown(f"label of {self.name}", label, self.label_names)
        places = [own[plainly(label)] for label in labels]

        def score(vectors: Tensor) -> Tensor:
            with torch.inference_mode():
                return self.delivered.head(vectors)[:, places]

        return score
