"""Tiny models of the true formats, made by the libraries themselves."""

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from diptych.data.tokenizers.clip import MERGES, _vocabulary

TEXTS = [
    "a photo of a cat",
    "Two dogs, running &amp; jumping!",
    "",
    "a",
    "snow " * 90,
    "l’été ŝ 漢字 _x_ <end_of_text> b",
]


def images() -> list[Image.Image]:
    """Noise of several shapes, smooth enough that resizing matters."""
    rng = np.random.default_rng(3)
    small = [
        rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        for size in ((7, 9), (9, 7), (8, 8), (5, 21))
    ]
    sizes = [(97, 71), (71, 98), (32, 32), (131, 40)]
    return [
        Image.fromarray(array).resize(size, Image.Resampling.BICUBIC)
        for array, size in zip(small, sizes, strict=True)
    ]


@torch.no_grad()
def stir(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter away from its initial value, so that none can be lost unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in sorted(module.named_parameters()):
        if value.ndim:  # the temperature stays
            value += 0.05 * torch.randn(value.shape, generator=generator)
        elif "bias" in name:
            value.fill_(-9.5)
    return module.eval()


def unit(x: Any) -> torch.Tensor:
    """Unit rows of what a library calls features."""
    x = getattr(x, "pooler_output", x)
    return torch.nn.functional.normalize(x.detach(), dim=-1)


def t5_like(folder: Path, context: int = 64) -> None:
    """A SentencePiece-like tokenizer with </s> at the end, as SigLIP's folders hold it."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [*TEXTS, "the quick brown fox jumps over the lazy dog"] * 5, trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=context,
        padding_side="right",
    ).save_pretrained(folder)


def bert_like(folder: Path) -> None:
    """A WordPiece tokenizer with [CLS] and [SEP], as CLIPA uses it."""
    from transformers import BertTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "photo",
        "of",
        "cat",
        "two",
        "dogs",
        "snow",
        "b",
        "x",
        "##s",
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)


def siglip_spm(folder: Path) -> Path:
    """A SentencePiece model, trained on a few lines."""
    import sentencepiece

    lines = folder / "lines.txt"
    lines.write_text(
        "a photo of a cat\ntwo dogs running and jumping\nsnow on the hills\nred round box\n" * 20
    )
    sentencepiece.SentencePieceTrainer.Train(
        input=str(lines),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    return folder / "spiece.model"


_HF = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
_HF_VISION = {**_HF, "intermediate_size": 100, "image_size": 32, "patch_size": 8}


def clip_tokenizer() -> Any:
    """transformers' CLIP tokenizer with the vocabulary that open_clip carries."""
    from transformers import CLIPTokenizer

    found = importlib.util.find_spec("open_clip")
    assert found is not None
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {names.get(token, token): number for token, number in _vocabulary()[0].items()}
    return CLIPTokenizer(
        vocab=vocab, merges=[tuple(line.split()) for line in lines], model_max_length=77
    )


def clip_like(folder: Path) -> None:
    """transformers' folder of a CLIP with everything in it."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    text = {**_HF, "intermediate_size": 64, "vocab_size": 49408}
    stir(
        CLIPModel(CLIPConfig(text_config=text, vision_config=_HF_VISION, projection_dim=24))
    ).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)


def siglip_like(folder: Path) -> None:
    """transformers' folder of a SigLIP with everything in it."""
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    text = {
        **_HF,
        "intermediate_size": 64,
        "vocab_size": 200,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    stir(SiglipModel(SiglipConfig(text_config=text, vision_config=_HF_VISION))).save_pretrained(
        folder
    )
    t5_like(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
