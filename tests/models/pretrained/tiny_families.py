"""A tiny random model of each family of dual encoders, in folders that transformers itself
writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tests.models.pretrained import tiny
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**SIZES, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
TEXT = {**SIZES, "intermediate_size": 64}
WORDS = {**TEXT, "vocab_size": 15, "max_position_embeddings": 64, "pad_token_id": 0}
ROBERTA = {**TEXT, "vocab_size": 120, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
CORPUS = [*tiny.TEXTS, "the quick brown fox jumps over the lazy dog"] * 5


def xlmr_like(folder: Path, context: int) -> None:
    """A SentencePiece-like tokenizer with <s> and </s> around a text, as XLM-R's folders hold
    it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=110, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=context,
        padding_side="right",
    ).save_pretrained(folder)


def gemma_like(folder: Path) -> None:
    """SigLIP 2's tokenizer, which lowers texts and ends them with <eos>, with a few letters."""
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    merges = [("a", "▁"), ("o", "f"), ("c", "a")]
    vocab = {token: i for i, token in enumerate([*letters, *map("".join, merges)])}
    tokenizer = transformers.Siglip2Tokenizer(vocab=vocab, merges=merges, padding_side="right")
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.save_pretrained(folder)


def bare_like(folder: Path) -> None:
    """TIPS v2's tokenizer, which puts nothing around a text."""
    letters = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    merges = [("▁", "a"), ("o", "f"), ("c", "a")]
    vocab = {token: i for i, token in enumerate([*letters, *map("".join, merges)])}
    transformers.Tipsv2Tokenizer(vocab=vocab, merges=merges).save_pretrained(folder)


def clip_images(folder: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size=32).save_pretrained(folder)


def square_images(folder: Path) -> None:
    from transformers.models.chinese_clip import image_processing_pil_chinese_clip as kind

    kind.ChineseCLIPImageProcessorPil(
        size={"height": 32, "width": 32}, do_center_crop=False
    ).save_pretrained(folder)


def align_images(folder: Path) -> None:
    from transformers.models.efficientnet import image_processing_pil_efficientnet as kind

    kind.EfficientNetImageProcessorPil(
        size={"height": 40, "width": 40},
        crop_size={"height": 32, "width": 32},
        do_center_crop=True,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        do_normalize=False,
        include_top=False,
        resample=2,
    ).save_pretrained(folder)


def siglip_images(folder: Path) -> None:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def tips_images(folder: Path) -> None:
    transformers.Tipsv2ImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def _metaclip_2() -> Any:
    text = {**ROBERTA, "max_position_embeddings": 20}
    return transformers.MetaClip2Model(
        transformers.MetaClip2Config(text_config=text, vision_config=VISION, projection_dim=24)
    )


def _siglip_2() -> Any:
    text = {**TEXT, "vocab_size": 40, "eos_token_id": 1, "projection_size": 32}
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=VISION)
    )


def _align() -> Any:
    vision = {
        "image_size": 32,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.3,
        "kernel_sizes": [3, 5],
        "in_channels": [32, 16],
        "out_channels": [16, 24],
        "depthwise_padding": [],
        "strides": [1, 2],
        "num_block_repeats": [1, 2],
        "expand_ratios": [1, 6],
        "hidden_dim": 24,
        "initializer_range": 0.5,  # with less, all images get nearly one vector
    }
    return transformers.AlignModel(
        transformers.AlignConfig(text_config=WORDS, vision_config=vision, projection_dim=8)
    )


def _altclip() -> Any:
    text = {**ROBERTA, "max_position_embeddings": 24, "project_dim": 40}
    return transformers.AltCLIPModel(
        transformers.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    )


def _chinese_clip() -> Any:
    return transformers.ChineseCLIPModel(
        transformers.ChineseCLIPConfig(text_config=WORDS, vision_config=VISION, projection_dim=24)
    )


def _tipsv2() -> Any:
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    text = {**TEXT, "vocab_size": 40, "max_position_embeddings": 64}
    return transformers.Tipsv2Model(
        transformers.Tipsv2Config(text_config=text, vision_config=vision)
    )


def _blip_2() -> Any:
    apart = {"initializer_range": 0.2}  # with less, all scores are nearly equal
    config = transformers.Blip2Config(
        vision_config={**VISION, **apart},
        qformer_config={**WORDS, **apart, "use_qformer_text_input": True},
        num_query_tokens=5,
        image_text_hidden_size=24,
    )
    return transformers.Blip2ForImageTextRetrieval(config)


def blip_images(folder: Path) -> None:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


KINDS: dict[str, tuple[Callable, ...]] = {
    "metaclip_2": (_metaclip_2, lambda folder: xlmr_like(folder, 20), clip_images),
    "siglip 2": (_siglip_2, gemma_like, siglip_images),
    "align": (_align, tiny.bert_like, align_images),
    "altclip": (_altclip, lambda folder: xlmr_like(folder, 22), clip_images),
    "chinese_clip": (_chinese_clip, tiny.bert_like, square_images),
    "tipsv2": (_tipsv2, bare_like, tips_images),
}


SEVERAL: dict[str, tuple[Callable, ...]] = {"blip-2": (_blip_2, tiny.bert_like, blip_images)}
"""Models of several vectors an image."""


def write(kind: str, folder: Path) -> Path:
    """A folder with everything in it."""
    make, words, images = (KINDS | SEVERAL)[kind]
    torch.manual_seed(0)
    tiny.stir(make()).save_pretrained(folder)
    words(folder)
    images(folder)
    return folder
