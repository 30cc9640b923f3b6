"""Tiny models of the true formats, made by the libraries themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "a photo of a cat",
    "Two dogs, running &amp; jumping!",
    "",
    "a",
    "snow " * 90,
    "l’été ŝ 漢字 _x_ <end_of_text> b",
]


def pictures() -> list[Image.Image]:
    """Noise of several shapes, smooth enough that resizing matters."""
    rng = np.random.default_rng(3)
    small = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((7, 9), (9, 7), (8, 8), (5, 21))]
    sizes = [(97, 71), (71, 98), (32, 32), (131, 40)]
    return [Image.fromarray(array).resize(size, Image.Resampling.BICUBIC)
            for array, size in zip(small, sizes, strict=True)]  # fmt: skip


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
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
                                      show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator([*TEXTS, "the quick brown fox jumps over the lazy dog"] * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", unk_token="<unk>",
                            model_max_length=context, padding_side="right").save_pretrained(folder)  # fmt: skip


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
    lines.write_text("a photo of a cat\ntwo dogs running and jumping\nsnow on the hills\nred round box\n" * 20)
    sentencepiece.SentencePieceTrainer.Train(
        input=str(lines), model_prefix=str(folder / "spiece"), vocab_size=60, hard_vocab_limit=False, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return folder / "spiece.model"
