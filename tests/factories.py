"""What tests of several folders build: small methods, random batches and images, vectors with
published figures."""

import json
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch, Images, Tokens
from diptych.data.tokenizers import Tokenizer, build
from diptych.engines import Ray
from diptych.methods.base import At, Method
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.registry import method_class
from diptych.testing import Toy


class Here(Ray):
    """A cluster of two workers in this process, each with its copy of the work, which they do in
    turns from the last item on; `each(index)` runs before an item."""

    def __init__(self, each=lambda at: None):
        super().__init__()
        self.__dict__.update(each=each, items=[], gpus=None)  # an engine is frozen

    def spread(self, work, items, *, gpus=False):
        self.__dict__["gpus"] = gpus
        workers = [pickle.loads(pickle.dumps(work)) for _ in range(2)]
        for at in reversed(range(len(items))):
            self.each(at)
            self.items.append(items[at])
            yield at, workers[at % 2](items[at])


AT = At(0, 10, 0, 0)
IMAGE = "vit:image_size=32:patch=16:width=32:depth=1:heads=2"
TEXT = "text:width=32:depth=1:heads=2"


def tokenizer() -> Tokenizer:
    """Byte pairs of all captions of the toy."""
    toy = Toy(128)
    return build("bpe:vocab_size=320:context=24", [toy[i].captions()[0] for i in range(128)])


def small_make(image=IMAGE, text=TEXT, embed_dim=32, words=None, **parts) -> Make:
    """Towers of one layer, and `words` or the tokenizer of the toy where there is a text tower."""
    words = None if text == NO_TOWER else words or tokenizer()
    return Make(image=image, text=text, embed_dim=embed_dim, tokenizer=words, **parts)


def make_method(
    cls="clip",
    seed=0,
    image=IMAGE,
    text=TEXT,
    embed_dim=32,
    words=None,
    make: Make | None = None,
    **config,
) -> Method:
    """A method, by its name or its class, with the parts of `make` or small ones, whose weights
    `seed` draws."""
    torch.manual_seed(seed)
    cls = method_class(cls) if isinstance(cls, str) else cls
    make = make or small_make(image, text, embed_dim, words)
    return cls.of(cls.configure(config), make)


def foreign_lm(folder: Path, words: Tokenizer, rows: int | None = None) -> str:
    """A random LLaMA in a folder of transformers, whose words are those of a tokenizer; of `rows` words
    where another number is given."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=rows or words.vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=96,
        initializer_range=0.4, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(words.pipeline)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 96})
    )
    return f"hf-lm:{folder}"


def make_batch(
    count: int,
    images: dict[str, int],
    texts: dict[str, int] | None = None,
    size=32,
    seed=0,
    **fields,
) -> Batch:
    """Random pixels (count, n, 3, size, size) and texts of five tokens (count, n, 5), n by role (0:
    none).

    They are drawn role by role, so that a further role leaves those before it as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = texts or {}
    pixels = {}
    words = {}
    for role in dict.fromkeys([*images, *texts]):
        if n := images.get(role):
            drawn = torch.randint(
                0, 256, (count, n, 3, size, size), generator=generator, dtype=torch.uint8
            )
            pixels[role] = Images(drawn)
        if n := texts.get(role):
            ids = torch.randint(4, 60, (count, n, 5), generator=generator)
            words[role] = Tokens(ids, torch.full((count, n), 5))
    return Batch(images=pixels, texts=words, fields=fields, keys=tuple(map(str, range(count))))


def random_images(count=4, size=32) -> Tensor:
    """Random pixels (count, 3, size, size)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def raw(n: int, d: int, k: int) -> Tensor:
    """Vectors (n, d), float64, without a draw: losses have published figures for them."""
    m = np.arange(n * d).reshape(n, d)
    return torch.from_numpy(np.sin(1.7 * m + k) + 0.3 * np.cos(0.9 * m * (k + 1)))


def det(n: int, d: int, k: int) -> Tensor:
    """The directions of `raw`."""
    return normalize(raw(n, d, k), dim=1)
