"""Variations painted by an inpainting pipeline of diffusers: only the crop changes, and what is
refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from diptych.data.sample import BadSample, Box
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.robust.generative_negatives.generators import (
    Inpainting,
    Portrayal,
    asked_portrayals,
    crop_of,
    portrayals_of,
    read_portrayals,
)

SOURCE = open_source("scenes:count=3:number=2:same=0:drop=0:size=64")
WORDS = {"*": {"crown": [Portrayal(short="a red fox", desc="a red fox asleep")] * 2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random pipeline of the smallest sizes, in the form of Stable Diffusion 2."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInpaintPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    root = tmp_path_factory.mktemp("sd")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    (root / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (root / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(root / "vocab.json"), str(root / "merges.txt"), model_max_length=77
    )
    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    make: Any = StableDiffusionInpaintPipeline  # its annotations are narrower than what it takes
    encoder: Any = AutoencoderKL
    pipeline = make(
        vae=encoder(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4, **blocks,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=77,
            )
        ),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            in_channels=9, out_channels=4, cross_attention_dim=16, attention_head_dim=4, sample_size=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **blocks,
        ),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(root / "pipeline")
    return root / "pipeline"


@pytest.fixture(scope="module")
def painting(folder: Path) -> Inpainting:
    return Inpainting(str(folder), WORDS, SOURCE.schema(), steps=2, side=32)


def pixels(sample: Any) -> np.ndarray:
    return np.asarray(sample.images["main"].decode())


def test_only_the_crop_around_the_item_is_painted(painting: Inpainting):
    sample = SOURCE[0]
    assert list(painting.items(sample)) == ["crown"]
    found = painting(sample, "crown", 4)
    assert len(found) == 2
    area = painting._area(sample, "crown", (64, 64))
    x0, y0, x1, y1 = crop_of(area, (64, 64))
    outside = np.ones((64, 64), bool)
    outside[y0:y1, x0:x1] = False
    for variation in found:
        assert (pixels(variation) == pixels(sample))[outside].all()
        assert (pixels(variation) != pixels(sample))[area].any()
        assert all("a red fox" in caption for caption in variation.captions())
        assert variation.captions("desc") == ["a red fox asleep"]
    assert (pixels(found[0]) != pixels(found[1])).any()  # each has a seed of its own
    assert (pixels(painting(sample, "crown", 1)[0]) == pixels(found[0])).all()


def test_the_area_is_the_item_s_pixels_where_a_mask_names_it(painting: Inpainting):
    sample = SOURCE[0]
    area = painting._area(sample, "crown", (64, 64))
    [box] = [box for box in sample.boxes if "crown" in box.text]
    x0, y0, x1, y1 = map(int, box.xyxy)
    assert 0 < area.sum() < (x1 - x0) * (y1 - y0)
    plain = painting._area(replace(sample, masks={}), "crown", (64, 64))
    assert plain.sum() == (np.ceil(box.xyxy[3]) - y0) * (np.ceil(box.xyxy[2]) - x0)
    outside = replace(sample, masks={}, boxes=[Box(xyxy=(70, 70, 80, 80), text="crown")])
    with pytest.raises(BadSample, match="holds no pixel"):
        painting._area(outside, "crown", (64, 64))


def test_portrayals_are_read_from_a_file_and_from_an_answer(tmp_path: Path):
    path = tmp_path / "words.json"
    path.write_text('{"*": {"cat": [{"short": "a fox", "desc": "a fox asleep"}]}}')
    assert read_portrayals(path) == {"*": {"cat": [Portrayal(short="a fox", desc="a fox asleep")]}}
    for content in ("[1]", '{"*": ["cat"]}', '{"*": {"cat": [{"short": "a"}]}}', "{"):
        path.write_text(content)
        with pytest.raises(InputError, match=r"words\.json"):
            read_portrayals(path)
    answer = "1) a brown dog on the sofa (brown dog)\n\n2) a tabby kitten, playing (grey kitten).\n"
    assert [each.short for each in portrayals_of(answer, 2)] == ["brown dog", "grey kitten"]
    for wrong in ("a dog", "1. a dog (dog)", answer + "and so on"):
        with pytest.raises(InputError, match="is not 2 lines"):
            portrayals_of(wrong, 2)


class Says:
    """A writer that answers in the wrong form at first."""

    name = "says"

    def __init__(self, late: int):
        self.late = late
        self.prompts: list[str] = []

    def __call__(self, questions: Any, attempt: int) -> list[str]:
        self.prompts += [question.prompt for question in questions]
        if attempt < self.late:
            return ["I cannot say." for _ in questions]
        return ["1. a fox, asleep (red fox)\n2. an owl on it (grey owl)" for _ in questions]


def test_a_writer_is_asked_for_each_item_of_each_image(tmp_path: Path):
    writer = Says(late=1)
    found = asked_portrayals(SOURCE, writer, tmp_path / "answers.jsonl", count=2)
    first = SOURCE[0]
    assert found[first.key].keys() == {"crown", "bell"}
    assert [each.short for each in found[first.key]["crown"]] == ["red fox", "grey owl"]
    assert found[first.key]["crown"][0].desc == "a fox, asleep"
    assert len(writer.prompts) == 2 * sum(len(items) for items in found.values())
    assert first.captions()[0] in writer.prompts[0]
    assert "Portray crown in this image in 2 different ways" in writer.prompts[0]
    again = Says(late=0)
    again.name = writer.name
    assert asked_portrayals(SOURCE, again, tmp_path / "answers.jsonl", count=2) == found
    assert again.prompts == []
    with pytest.raises(InputError, match="no answer of says about 6 items is 2 lines"):
        asked_portrayals(SOURCE, Says(late=9), tmp_path / "other.jsonl", count=2)


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="the data have no boxes"):
        Inpainting(str(folder), WORDS, {})
    with pytest.raises(InputError, match="holds no model_index.json"):
        Inpainting(str(tmp_path), WORDS, SOURCE.schema())
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match="no inpainting pipeline that diffusers can read"):
        Inpainting(str(tmp_path), WORDS, SOURCE.schema())
