"""The trained model: an emotion that an image evokes, and why.

Dimensions: B images, P patches, L ids, D width of the decoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from diptych.data.emotions import EMOTION, EXPLANATION, FIELDS, split
from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, from_dict
from diptych.errors import InputError
from diptych.methods.fuse.sevlm.affect import AffectLM
from diptych.methods.fuse.sevlm.losses import ConsistencyHead, means
from diptych.methods.fuse.sevlm.views import Phrasing
from diptych.models.captioner import Captioner, CaptionModel, Prompt
from diptych.models.delivered import Validation
from diptych.models.model import ImagesLike, evaluating
from diptych.models.vlm import PatchReader
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import freeze


@dataclass(frozen=True)
class Explanation:
    """An emotion, why it is felt, and the score of the consistency head (None without one)."""

    emotion: str
    text: str
    score: float | None = None


class EmotionCaptioner(Captioner):
    """A frozen image tower, that of a dual encoder, whose patches a decoder with VAD reads by
    cross-attention, and the head that scores image, emotion and explanation."""

    lm: AffectLM

    def __init__(
        self,
        encoder: DualEncoder,
        patches: PatchReader,
        lm: AffectLM,
        consistency: ConsistencyHead | None,
        words: Tokenizer | None,
        *,
        opening: str,
        joint: str,
        pads: bool = False,
        longest: int | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        freeze(encoder)
        self.patches = patches
        self.lm = lm
        self.consistency = consistency
        names = ("agreement", "accuracy", "bleu4")
        self.validation = Validation("agreement", names, {"joint": joint})
        self.opening = opening
        self.joint = joint
        self.pads = pads
        self.longest = longest
        self._words = words

    @property
    def words(self) -> Tokenizer:
        assert self._words is not None, "a saved tokenizer is loaded with the plain values"
        return self._words

    @property
    def phrasing(self) -> Phrasing:
        """How emotions and explanations are said."""
        return Phrasing(tokenizer=self.words, opening=self.opening, joint=self.joint)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # an attribute of others
        return "images.main", *FIELDS

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()  # it is frozen
        return self

    def extra_state(self) -> dict[str, Any]:
        return {"words": self.words.to_dict()}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        self._words = from_dict(values.get("words"))
        self.lm.joint = tuple(self.phrasing.ids(self.joint))

    def summaries(self, hidden: Tensor, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The means (B, D) of the decoder's tokens (B, L, D) of texts: of those before the explanation,
        and of the explanation, with its padding where `pads` says so."""
        _, explains = self.lm.parts(ids)
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        chosen = explains if self.pads else explains & real
        return means(hidden, ~explains & real), means(hidden, chosen)

    def see(self, pixels: Tensor) -> Tensor:
        if pixels.ndim > 4:
            raise InputError("this model writes about images; give one frame of each clip")
        return self.patches(pixels)[0]

    def prompted(self, seen: Tensor, prompts: Sequence[str] | None) -> Prompt:
        """As in `Captioner`; a prompt is the emotion that is to be explained."""
        given = [None] * len(seen) if prompts is None else prompts
        return Prompt(ids=[self.phrasing.asked(emotion) for emotion in given], memory=seen)

    def target(self, text: str) -> str:
        return f" {text.strip()}"

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "EmotionModel":
        assert preprocess is not None, "an image tower has a preprocessing"
        return EmotionModel(self, tokenizer, preprocess, name=name)


class EmotionModel(CaptionModel):
    """A model that says which emotion an image evokes, and why. Its embeddings are those of the frozen
    encoder."""

    captioner: EmotionCaptioner

    def generate(
        self, images: ImagesLike, prompts: Sequence[str] | None = None, **options: Any
    ) -> list[str]:
        """As `CaptionModel.generate`, by default greedily: "EMOTION because EXPLANATION" of each image.
        Prompts are emotions, one for each image, and an explanation of these is returned."""
        return super().generate(images, prompts, **{"strategy": "greedy", **options})

    def parts(self, text: str) -> dict[str, str]:
        """The emotion and the explanation of a text that `generate` returns without prompts."""
        return dict(zip((EMOTION, EXPLANATION), split(text, self.captioner.joint), strict=True))

    def explain(
        self, images: ImagesLike, emotions: Sequence[str] | None = None, **options: Any
    ) -> list[Explanation]:
        """Return the emotion of each image with its explanation and the score of the consistency head,
        or the explanations of given emotions. Options and errors are those of `generate`."""
        texts = self.generate(images, emotions, **options)
        if emotions is None:
            said = [split(text, self.captioner.joint) for text in texts]
        else:
            said = list(zip(emotions, texts, strict=True))
        if self.captioner.consistency is None:
            return [Explanation(*each) for each in said]
        kept = {name: options[name] for name in ("batch_size", "exact") if name in options}
        scores = self.consistency(images, *map(list, zip(*said, strict=True)), **kept)
        return [
            Explanation(*each, score) for each, score in zip(said, scores.tolist(), strict=True)
        ]

    def affect(self, texts: Sequence[str]) -> Tensor:
        """Return the valence, arousal and dominance (N, 3) of texts, from -1 to 1: the means of those of
        their words that the lexicon has, NaN for a text without such a word.

        These are the values that the decoder reads; nothing of them is learned. Raises InputError for a
        model that was trained without a lexicon.
        """
        captioner = self.captioner
        if captioner.lm.lexicon is None:
            raise InputError(
                f"{self.name} was trained without a lexicon; train it with --method.lexicon paintings, or a file"
            )
        rows = [captioner.phrasing.ids(text) for text in texts]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        owner = torch.arange(len(rows)).repeat_interleave(lengths)
        ids = torch.tensor([number for row in rows for number in row], dtype=torch.long)
        values = captioner.lm.lexicon.cpu().double()[ids]
        known = (values != 0).any(-1, keepdim=True).double()
        both = torch.cat([values, known], 1)  # unknown words are zero
        sums = torch.zeros(len(rows), both.shape[1], dtype=both.dtype).index_add(0, owner, both)
        return sums[:, :-1] / sums[:, -1:]  # 0 / 0 is NaN

    def consistency(
        self,
        images: ImagesLike,
        emotions: Sequence[str],
        explanations: Sequence[str],
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Return the scores (N,) of the consistency head for images with an emotion and an explanation
        each: unbounded numbers, of which the larger is the more consistent.

        Raises InputError for a model that was trained without the head, a wrong number of texts, and
        texts beyond the context.
        """
        captioner = self.captioner
        if captioner.consistency is None:
            raise InputError(
                f"{self.name} was trained without the consistency head; train it with --method.contrastive 1"
            )
        seen, count = self._seen(images, batch_size, exact)
        said = self._as_many(emotions, count, "emotions")
        why = self._as_many(explanations, count, "explanations")
        assert said is not None
        assert why is not None
        phrasing = captioner.phrasing
        rows = [
            [*phrasing.asked(emotion), *phrasing.ids(text), *captioner.end]
            for emotion, text in zip(said, why, strict=True)
        ]
        self._fits(rows, why, "explanation")
        found = [torch.zeros(0)]
        start = 0
        with evaluating(captioner), torch.inference_mode():
            for patches in seen:
                ids, lengths = self._padded(rows[start : start + len(patches)])
                start += len(patches)
                hidden = captioner.lm(ids, memory=patches)
                texts = captioner.summaries(hidden, ids, lengths)
                found.append(captioner.consistency(patches.mean(1), *texts).float().cpu())
        return torch.cat(found)
