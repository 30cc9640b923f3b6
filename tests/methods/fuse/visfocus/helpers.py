"""What the tests of VisFocus share."""

import json
from dataclasses import replace

import torch
from tests.evaluation.helpers import Rows
from tests.factories import make_method

from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Field, Text
from diptych.data.tokenizers import build
from diptych.methods import store
from diptych.methods.base import At
from diptych.methods.fuse.visfocus import VisFocus
from diptych.testing import Toy

IMAGE = "visfocus.swin:image_size=32:width=8:heads=2:depths=(1, 1, 1):window=4"
TEXT = "text:width=32:depth=1:heads=2"
PAGE = "the red cat sat on a green mat and saw two blue birds in the old tree"
AT = {stage: At(0, 10, 0, 0, stage) for stage in ("read", "lmpm", "answer")}


def words(special="extra_id_0-extra_id_9", context=64):
    """Byte pairs of some words, with sentinels."""
    return build(f"bpe:vocab_size=300:context={context}:special={special}", [PAGE] * 4)


def made(seed=0, **config):
    """A small method; weights of prompts and tasks are far from 0."""
    image = config.pop("image", IMAGE)
    vocabulary = config.pop("words", None) or words()
    options = {"dropout": 0.0, "prompted": (1, 2, 3), **config}
    found = make_method(VisFocus, seed, image=image, text=TEXT, words=vocabulary, **options)
    for name, parameter in found.named_parameters():
        if "vilma" in name or "tasks" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return found.eval()


def pages(count=3):
    """Pages with a text and questions of different lengths, each with two answers."""
    rows = []
    for at in range(count):
        texts = [
            Text(text=" ".join(PAGE.split()[at:]), role="ocr"),
            Text(text="who sat" + " on a mat" * at + "?", role="question"),
            Text(text="the cat", role="answer"),
            Text(text="a red cat", role="answer"),
        ]
        rows.append(replace(Toy(count)[at], texts=texts))
    fields = {f"texts.{role}": Field(kind="text") for role in ("ocr", "question", "answer")}
    return Rows(rows, fields=fields)


def batch(method, stage, source=None):
    """All samples of a source in one batch, as a stage reads them."""
    source = source or pages()
    [found] = [each for each in method.stages() if each.name == stage]
    [given] = Loader(source, method.views(found), InOrder(), len(source)).epoch(0)
    return given


def saved(method, folder, **config):
    """The model of a method, saved and loaded."""
    model = method.model
    options = {**vars(method.config), **config}
    preprocess = model.image.preprocess
    description = store.describe("visfocus", options, model, method.make.words, preprocess)
    json.dumps(description)
    store.save_model(folder, description, model.state_dict())
    return store.load(str(folder))


def t5_folder(folder, vocabulary):
    """A random T5 whose words are those of a tokenizer, in transformers' layout."""
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=vocabulary.vocab_size, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
        decoder_start_token_id=vocabulary.pad, pad_token_id=vocabulary.pad,
        eos_token_id=vocabulary.eot, initializer_factor=6.0,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    pipeline = json.loads(vocabulary.pipeline)
    for name in vocabulary.added:
        token = {"id": vocabulary.special[name], "content": f"<{name}>", "special": True}
        rest = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        pipeline["added_tokens"].append({**token, **rest})
    (folder / "tokenizer.json").write_text(json.dumps(pipeline))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64})
    )
    return f"t5:{folder}"
