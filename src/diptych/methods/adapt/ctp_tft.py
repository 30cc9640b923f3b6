"""CTP + TFT: Task-Oriented Multi-Modal Mutual Leaning for Vision-Language Models (ICCV 2023).

CoCoOp shifts the prompts of all classes by one vector of the image, which draws the classes
together. Here the name of each class reads the image and shifts its own prompt (class-aware text
prompts, CTP), and the image reads the classes that come out (text-guided feature tuning, TFT):

    r_c = attention(e_c over [v, V]),      t_c = text([ctx + h(norm r_c), name_c, "."])
    v' = unit(v + alpha · attention(v over t_1 … t_C)),      L = mean_i CE(s <v'_i, t_c(x_i)>, c = y_i)

e_c is the class in the plain prompt, v the image and V its patches in the joint space, all unit
vectors. What is added to prompts and image is 0 at the start, which is zero-shot. Inference: the
same, with any names; the image reads those that are named.

A reconstruction: of the paper the abstract alone was read. It says that labels read the image, that
the image reads the classes, and that one contrastive loss trains both; every form here is ours.
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
    """`tft` says what text-guided tuning reads: the image the classes (`query_image`), or each
    class the patches (`pool`), for an image of its own. `heads` are those of both attentions;
    `prompts` are encoded at once."""

    tft: Reads = "query_image"
    heads: Count = 8
    prompts: Count = 256


class ClassAware(ConditionalPrompts):
    """Prompts shifted by what each class reads of the image, and images by what they read of the
    classes.

    `text_features` are the classes in the plain prompt, which ask; `class_features` those that come
    out.

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
        last: Any
        for last in (self.meta[2], self.tft.out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def text_features(self) -> Tensor:
        return self.encoder.embed_texts(self.ids, self.lengths)

    def look(self, seen: Encoded) -> tuple[Tensor, Tensor]:
        """Unit vectors of the whole image (N, 1, E) and of its patches (N, P, E)."""
        tokens = torch.cat([seen.pooled[:, None], seen.tokens[:, seen.prefix :]], 1)
        vectors = normalize(self.encoder.project_image(tokens), dim=-1)
        return vectors[:, :1], vectors[:, 1:]

    def aware(self, image: Tensor, patches: Tensor, texts: Tensor) -> Tensor:
        """The classes (N, C, E) by what each, as `texts` (C, E), reads of the image."""
        read = self.ctp(texts.detach().expand(len(image), -1, -1), torch.cat([image, patches], 1))
        return self.pair_features(self.meta(self.norm(read)))

    def tuned(self, image: Tensor, patches: Tensor, classes: Tensor) -> Tensor:
        """The image by what it reads of the classes, unit vectors (N, 1, E), or (N, C, E), one for
        each class."""
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
        """Where each class looks in images (N, 3, H, W): weights (N, C, h, w), the mean of the
        heads. What they lack of 1 is on the image as a whole. Raises InputError for a tower without
        a grid.

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


class CTPTFT(Classify):
    """Classes that read the image, and an image that reads the classes."""

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
    "small": replace(SMALL, recipe=replace(SMALL.recipe, batch_size=8)),
    # CoCoOp's [choice]: the abstract tells none.
    "paper": replace(
        PAPER, recipe=replace(PAPER.recipe, lr=0.002, warmup=0.1, epochs=10, batch_size=1)
    ),
}
