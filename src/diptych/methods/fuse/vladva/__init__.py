"""VladVA: Discriminative Fine-tuning of LVLMs (Ouali et al., CVPR 2025).

A vision-language model that writes becomes one that embeds. A prompt stands behind an image, or behind a
caption, and the state at its last token is the embedding. Short captions are contrasted with images; of
long ones, whose words say which attribute belongs to which object, each word is predicted.

    f_v = unit(h[last of V s^v p^v]),     f_t = unit(h[last of caption s^t p^t])
    L_con = ½ [ CE(e^θ F_v F_t^T, diagonal) + CE(e^θ F_t F_v^T, diagonal) ]      short captions
    L_AR  = - mean over tokens of log p(y_k | V, s^v, p^v, y_<k)                 long captions
    L     = contrast · L_con + predict · L_AR

h are the states after the final norm, V the adapted patches, p a prompt in words and s a soft prompt, one of
each for either side. Trained are the soft prompts, low-rank factors of the language model, which both sides
share, and θ. The long caption stands behind the prompt, so one pass gives f_v and L_AR: what comes before a
token does not depend on what follows. An image with captions of one kind counts in that loss alone.

Inference: the cosine of f_v and f_t; captions by the same model. Of the paper result tables, figure captions
and the lengths of captions were read; what is a choice here is named on the method's page.

Dimensions: B samples, P patches, L ids, n soft tokens, D width of the language model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.plan import Having
from diptych.data.views import ImageView, View, augmentation
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.fuse.vladva.captions import Lengths, LengthView, there
from diptych.methods.fuse.vladva.model import SummaryLM, unit_summary
from diptych.methods.language import adapted_language
from diptych.methods.make import Make
from diptych.models.delivered import Validation
from diptych.models.vlm import Adapter, Layer, PatchReader, VisionLM, patch_adapter
from diptych.objectives import info_nce
from diptych.spec import Count, Natural, NetworkSpec, NotNegative, Positive
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature, freeze

card = {
    "title": "VladVA: Discriminative Fine-tuning of LVLMs",
    "year": 2025,
    "kind": "method",
    "entry": "VladVA",
    "provenance": "abstract",
    "abilities": {"generate": "", "log_prob": "", "heat": "", "fuse": "", "summaries": ""},
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The vision-language model, a run that reads images with a language model:

    - `lm` is None where that run holds its language model, else the one that it was trained with.
    - `adapter`, `layer` and `grid` are those of the run. With `train_adapter` the adapter is trained too, and
      may be new.

    What is trained of it: `tune` are low-rank factors, `n_ctx` the vectors of each soft prompt.

    Prompts: `image_prompt` and `text_prompt`, in the place {} of `template`; a caption that is embedded stands
    there before its prompt.

    Captions have the roles `role`, joined by +; "long*" is all texts of role long as one. Those of fewer
    than `short` tokens are contrasted, those of `long` to `longest` predicted. `augment` holds options of
    `data.views.Augment`.

    Loss: `contrast` and `predict` are the weights, `scale` is the initial e^θ, bounded by `max_scale`.
    """

    lm: NetworkSpec | None = None
    adapter: Adapter = "mlp"
    layer: Layer = "last"
    grid: Count | None = None
    train_adapter: bool = False
    tune: str = "lora:r=16:alpha=16:layers=all"
    n_ctx: Natural = 8
    image_prompt: str = "Summarize the provided image in one word:"
    text_prompt: str = "Summarize the provided text in one word:"
    template: str = "{}"
    role: str = "caption"
    short: Count = 30
    long: Count = 30
    longest: Count = 500
    augment: Mapping[str, Any] | None = None
    contrast: NotNegative = 1.0
    predict: NotNegative = 1.0
    scale: Positive = 1 / 0.07
    max_scale: Positive = 100.0
    max_tokens: Count = 64

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise InputError(
                f"template {self.template!r} has no place for a prompt; write {{}} there"
            )
        if not self.contrast and not self.predict:
            raise InputError("contrast and predict are 0, so that nothing is learnt; raise one")
        if self.long > self.longest:
            raise InputError(
                f"long captions have {self.long} tokens at least and {self.longest} at most; lower long, or raise "
                "longest"
            )

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.role.split("+"))


class VladVA(Method):
    """The contrast of images with short captions, and the prediction of long ones."""

    Config = Config
    adapts: ClassVar[bool] = True
    test_options: ClassVar[Mapping[str, Any]] = {
        "lm": "tiny-lm",
        "grid": 2,
        "train_adapter": True,  # the toy's model has none
        "long": 1,  # the toy's captions are short
        "n_ctx": 2,
        "image_prompt": "in a word:",
        "text_prompt": "in a word:",
        "template": "{}",
        "tune": "lora:r=4:layers=all",
    }
    model: SummaryLM

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return (
            "evaluate {run} --data {data}",
            "embed {run} SOURCE --out EMB",
            "generate {run} --images IMAGES",
        )

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = augmentation(config.augment)
        encoder = _encoder(make)
        if "image" not in encoder.sides:
            raise InputError("this method reads images; start from a model with an image tower")
        patches = PatchReader(encoder, config.grid, config.layer)
        places, width = patches.shape
        language = adapted_language(
            config.lm, config.tune, make, before=places + _asked(config, make)
        )
        lm: Any = language.own if language.lent is None else language.lent.module
        adapter = patch_adapter(config.adapter, width, lm.table.embedding_dim)
        _go_on(adapter, patches, config, make)
        self.model = SummaryLM(
            encoder,
            patches,
            adapter,
            language,
            prompts={"image": config.image_prompt, "text": config.text_prompt},
            n_ctx=config.n_ctx,
            logit_scale=Temperature(config.scale, clamp=(1.0, config.max_scale)),
            validation=_validation(config),
            template=config.template,
            longest=config.max_tokens,
        )
        self.model.go_on(make)
        if not config.train_adapter:
            freeze(self.model.adapter)
        if not config.contrast:
            freeze(self.model.soft["text"], self.model.logit_scale)

    # ---- data

    def stages(self) -> Sequence[Stage]:
        return (Stage(plan=Having("main"), min_batch=2 if self.config.contrast else 1),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        return (
            ImageView(preprocess=self.model.image.preprocess, augment=self.augment),
            LengthView(
                tokenizer=self.model.words,
                roles=config.roles,
                lengths=Lengths(
                    short=config.short if config.contrast else 0,
                    long=config.long,
                    longest=config.longest if config.predict else 0,
                ),
                rooms=self.model.rooms,
            ),
        )

    # ---- a sample

    def parts(self) -> Mapping[str, Callable[[Any, At], Features]]:
        """Images with the captions behind them, and the captions that are embedded."""
        if not self.config.contrast:
            return {"all": self.encode}
        return {"all": self.read_images, "texts": self.read_texts}

    def encode(self, batch: Batch, at: At) -> Features:
        """Return the unit summaries of images and short captions, and the log-probability of each long
        caption with the number of its tokens."""
        features = self.read_images(batch, at)
        return features | self.read_texts(batch, at) if self.config.contrast else features

    def read_images(self, batch: Batch, at: At) -> Features:
        """Return the unit summaries of images, and the log-probability of the captions behind them."""
        model = self.model
        patches, _ = model.patches(batch.image.flat)
        tokens = model.image_tokens(model.prefix(patches))
        if not self.config.predict:
            return {"image": normalize(model.summary(tokens), dim=-1)}
        ids, counted = self._long(batch)
        hidden = model.lm(ids, prefix=tokens)
        summary = tokens.shape[1] - 1
        found = model.lm.log_probs_where(hidden[:, summary:-1], ids, counted)
        features = {"log_prob": found.sum(1), "words": counted.sum(1)}
        if self.config.contrast:
            features["image"] = normalize(hidden[:, summary], dim=-1)
        return features

    def _long(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The ids (B, L) of long captions with their ends, and which are real, (B, L)."""
        words = self.model.words
        ids, lengths = batch.texts["long"].flat
        ids = ids[:, len(words.before) :]
        last = (lengths - len(words.before)) * there(batch.texts["long"], words)
        return ids, torch.arange(ids.shape[1], device=ids.device) < last[:, None]

    def read_texts(self, batch: Batch, at: At) -> Features:
        """Return the unit summaries of short captions."""
        return {"text": unit_summary(self.model, *batch.texts["short"].flat)}

    # ---- a batch

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        terms: dict[str, Tensor] = {}
        logged: dict[str, Tensor | float] = {}
        config = self.config
        if config.contrast:
            both = there(batch.texts["short"], self.model.words)
            scale = self.model.logit_scale()
            terms["contrast"] = config.contrast * contrast_of(
                features["image"], features["text"], scale, both
            )
            logged |= {"scale": scale, "short": both.double().mean()}
        if config.predict:
            words = features["words"]
            lm = -features["log_prob"].sum() / words.sum().clamp(min=1)
            terms["predict"] = config.predict * lm
            logged |= {"perplexity": torch.exp(lm.detach()), "long": (words > 0).double().mean()}
        return Losses(terms, logged)


def contrast_of(image: Tensor, text: Tensor, scale: Tensor, both: Tensor) -> Tensor:
    """InfoNCE of the pairs of images and texts (B, D) that are there, by `both` (B,); 0 if none is."""
    if not bool(both.any()):
        return 0 * scale * (image.sum() + text.sum())
    return info_nce(image[both], text[both], scale)


def _encoder(make: Make) -> DualEncoder:
    """The frozen encoder: of a run that reads images with a language model, its own."""
    if not isinstance(make.delivered, VisionLM):
        return make.dual(logit_scale=Temperature(100.0, form="fixed"))
    given = make.delivered.encoder
    encoder = DualEncoder.from_config(given.config())
    encoder.load_state_dict(given.state_dict())
    return encoder


def _asked(config: Config, make: Make) -> int:
    """The number of tokens of an image's prompt, by the run's own tokenizer, which a new language model has."""
    words = make.words
    if words is None:
        return config.n_ctx
    return config.n_ctx + len(words.ids(config.template.replace("{}", config.image_prompt))) + 1


def _go_on(adapter: Any, patches: PatchReader, config: Config, make: Make) -> None:
    """Give the adapter the weights of the run's. Raises InputError for a run without one, and for one that
    reads other patches."""
    given = make.delivered
    if not isinstance(given, VisionLM):
        starts = not make.fresh and make.written_by is None
        if starts and not config.train_adapter:
            raise InputError(
                "the model that training starts from reads no images with a language model, and a new adapter that "
                "stays as it is would show it noise; start from a run of cg_vlm, or give --method.train_adapter true"
            )
        return
    theirs = given.patches
    if (theirs.grid, theirs.layer) != (patches.grid, patches.layer) or type(
        given.adapter
    ) is not type(adapter):
        raise InputError(
            f"the run that training starts from reads patches with grid {theirs.grid} of layer {theirs.layer}, by "
            "an adapter of its own kind; give --method.grid, --method.layer and --method.adapter as it was trained"
        )
    make.go_on_part(adapter, "adapter")


def _validation(config: Config) -> Validation:
    """Validate by retrieval, without the contrast by captions."""
    role = {"role": config.roles[0].removesuffix("*")}
    if config.contrast:
        return Validation("retrieval", ("i2t_", "t2i_"), role)
    return Validation("captions", ("accuracy", "cider"), role)


VladVA.presets = {
    # The vision-language model is the given run; the contract suite, which has none, builds these.
    "small": Preset(
        config={"grid": 4},
        image="vit:image_size=64:patch=8:width=128:depth=4",
        text="text:width=128:depth=1",
        tokenizer="bpe:vocab_size=2048:context=32",
        embed_dim=128,
        recipe=Recipe(
            lr=1e-3,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            warmup=0.05,
            clip=1.0,
            batch_size=64,
            epochs=5,
        ),
    ),
    # The shapes of LLaVA-1.5-7B: CLIP ViT-L/14-336 and a language model as wide and deep as Vicuna-7B.
    "paper": Preset(
        config={
            "lm": "text:width=4096:depth=32:heads=32",
            "layer": "penultimate",
            "template": "USER: {} ASSISTANT:",
        },
        image="vit:image_size=336:patch=14:width=1024:depth=24:heads=16:pre_norm=true:patch_bias=false:cls_position=true",
        text="text:width=768:depth=12:heads=12",
        tokenizer="bpe:vocab_size=32000:context=512",
        embed_dim=768,
        recipe=Recipe(
            lr=1e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.01,
            warmup=0.03,
            clip=1.0,
            batch_size=2048,
            epochs=1,
            precision="bfloat16",
            chunk=4096,
        ),
    ),
}
