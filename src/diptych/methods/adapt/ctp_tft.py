"""CTP + TFT: Task-Oriented Multi-Modal Mutual Leaning for Vision-Language Models (ICCV 2023).

CoCoOp shifts the prompts of all classes by one vector of the image, which makes the classes more
similar. Here the name of each class attends to the image and shifts its own prompt (class-aware
text prompts, CTP), and the image attends to the resulting classes (text-guided feature tuning,
TFT):

    r_c = attention(e_c over [v, V]),      t_c = text([ctx + h(norm r_c), name_c, "."])
    v' = unit(v + alpha · attention(v over t_1 … t_C)),      L = mean_i CE(s <v'_i, t_c(x_i)>, c = y_i)

e_c is the class in the plain prompt, v the image and V its patches in the joint space, all unit
vectors. Both attentions are initialised to the model's own similarity: the logits of a query and a
token have the mean s <q, k> over heads. What is added to prompts and image is 0 at initialisation,
which is zero-shot. Inference: the same, with any names; the image attends to the classes that are
named.

A reconstruction from the abstract alone. It says that labels attend to the image, that the image
attends to the classes, and that one contrastive loss trains both; every form here is ours.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, ClassifyConfig
from diptych.models.prompts import ConditionalPrompts
from diptych.spec import Count
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.transformer import Attention

card = {
    "title": "Task-Oriented Multi-Modal Mutual Leaning for Vision-Language Models",
    "year": 2023,
    "kind": "method",
    "entry": "CTPTFT",
    "provenance": "abstract",
}

Reads = Literal["query_image", "pool"]


@dataclass(frozen=True, kw_only=True)
class Config(ClassifyConfig):
    """`tft` is what text-guided tuning attends to: the image to the classes (`query_image`), or
    each class to the patches (`pool`), for a separate image vector per class. `heads` is the number
    of heads of both attentions; `prompts` is the number of prompts encoded at once."""

    tft: Reads = "query_image"
    heads: Count = 8
    prompts: Count = 256


class ClassAware(ConditionalPrompts):
    """Prompts shifted by each class's attention to the image, and images by their attention to the
    classes.

    `text_features` are the classes in the plain prompt, the queries; `class_features` are the
    results.

    Dimensions: N images, C classes, P patches (h x w), D text width, E embedding.
    """

    fixed = True

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer,
        template: str = "a photo of a {}.",
        *,
        tft: Reads = "query_image",
        heads: int = 8,
        chunk: int = 256,
    ):
        super().__init__(encoder, tokenizer, template, chunk=chunk)
        assert encoder.text is not None
        E = encoder.embed_dim
        hidden = max(1, E // 16)
        self.pool = self.independent = tft == "pool"
        self.meta = nn.Sequential(
            nn.Linear(E, hidden), nn.ReLU(), nn.Linear(hidden, encoder.text.width)
        )  # h
        self.ctp = Attention(E, heads, bias=False)
        self.tft = Attention(E, heads, bias=False)
        self.norm = nn.LayerNorm(E)
        self.alpha = nn.Parameter(torch.tensor(1.0))
        scale = encoder.logit_scale()
        start_as_similarity(self.ctp, scale)
        start_as_similarity(self.tft, scale)
        last: Any
        for last in (self.meta[2], self.tft.out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def text_features(self) -> Tensor:
        return self.encoder.embed_texts(self.ids, self.lengths)

    def look(self, seen: Encoded) -> tuple[Tensor, Tensor]:
        """Return unit vectors of the whole image (N, 1, E) and of its patches (N, P, E)."""
        tokens = torch.cat([seen.pooled[:, None], seen.tokens[:, seen.prefix :]], 1)
        vectors = normalize(self.encoder.project_image(tokens), dim=-1)
        return vectors[:, :1], vectors[:, 1:]

    def aware(self, image: Tensor, patches: Tensor, texts: Tensor) -> Tensor:
        """Return the class embeddings (N, C, E) after each class, as `texts` (C, E), attends to the
        image."""
        read = self.ctp(texts.detach().expand(len(image), -1, -1), torch.cat([image, patches], 1))
        return self.pair_features(self.meta(self.norm(read)))

    def tuned(self, image: Tensor, patches: Tensor, classes: Tensor) -> Tensor:
        """Return the image after attention to the classes, unit vectors (N, 1, E), or (N, C, E),
        one for each class."""
        read = self.tft(classes, patches) if self.pool else self.tft(image, classes)
        return normalize(image + self.alpha * read, dim=-1)

    def class_features(self, x: Tensor) -> Tensor:
        return self.aware(*self.look(self.encoder.encode_image(x)), self.text_features())

    def logits(self, x: Tensor, texts: Tensor | None) -> Tensor:
        assert texts is not None
        image, patches = self.look(self.encoder.encode_image(x))
        classes = self.aware(image, patches, texts)
        return self.encoder.logit_scale() * (self.tuned(image, patches, classes) * classes).sum(-1)

    @torch.no_grad()
    def attention(self, x: Tensor) -> Tensor:
        """Return the attention of each class to images (N, 3, H, W): weights (N, C, h, w), the mean
        over heads.

        What they lack of 1 is the weight of the image as a whole. Raises InputError for a tower
        without a grid.

        >>> import diptych
        >>> model = diptych.load("tiny")
        >>> classifier = ClassAware(model.encoder, model.tokenizer)
        >>> classifier.set_classes(["cat", "banana"])
        >>> classifier.attention(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape
        torch.Size([1, 2, 8, 8])
        """
        seen = self.encoder.encode_image(x)
        if seen.grid is None:
            raise InputError(
                "this image tower does not tell the grid of its patches; maps need one, such as vit"
            )
        texts = self.text_features().expand(len(x), -1, -1)
        weights = self.ctp.weights(texts, torch.cat(self.look(seen), 1)).mean(1)
        return weights[..., 1:].unflatten(-1, seen.grid)


@torch.no_grad()
def start_as_similarity(attention: Attention, scale: Tensor | float) -> None:
    """Initialise W_q and W_k such that the mean of the logits over heads is scale <query, token>.

    Random ones would give unit vectors logits near 0: all tokens would get the same weight, and all
    queries the same result.
    """
    width = attention.q.in_features
    heads = attention.heads
    size = (scale * heads * (width / heads) ** 0.5) ** 0.5
    for part in (attention.q, attention.k):
        nn.init.eye_(part.weight).mul_(size)


class CTPTFT(Classify):
    """Classes that attend to the image, and an image that attends to the classes."""

    Config = Config

    def build(self, encoder: DualEncoder) -> ClassAware:
        config = self.config
        return ClassAware(
            encoder,
            self.make.tokenizer,
            config.template,
            tft=config.tft,
            heads=config.heads,
            chunk=config.prompts,
        )


CTPTFT.presets = {
    # A lower rate than CoCoOp's: the attentions begin sharp, and overfit at .02.
    "small": replace(SMALL, recipe=replace(SMALL.recipe, lr=0.0025, batch_size=8)),
    # CoCoOp's [choice]: the abstract gives none.
    "paper": replace(
        PAPER, recipe=replace(PAPER.recipe, lr=0.002, warmup=0.1, epochs=10, batch_size=1)
    ),
}
