"""SentencePiece's byte-pair vocabularies without SentencePiece's file: `vocab.json` with the pieces
and their scores, from which the pipeline of a `HuggingFace` tokenizer is built.

    {"pieces": ["<unk>", "<s>", "</s>", "<0x00>", …, " the", …], "scores": [0, 0, 0, 0, …, -12, …]}

Of all neighbours the two that join to the piece of the highest score are joined first; characters
without a piece are spelled in the 256 pieces of bytes.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as RustTokenizer

from diptych.data.tokenizers.hf import HuggingFace
from diptych.data.tokenizers.sentencepiece import SPACE
from diptych.errors import InputError
from diptych.files import read_json

FILE = "vocab.json"
_UNK = 0
_BOS = 1
_EOS = 2
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_REMEDY = "copy the vocabulary again from the model's source"


def has_pieces(folder: Path) -> bool:
    """Whether a folder's vocabulary is pieces with scores."""
    path = folder / FILE
    return path.is_file() and set(read_json(path, _REMEDY)) == {"pieces", "scores"}


def from_pieces(folder: Path, *, context: int) -> HuggingFace:
    """Return the tokenizer of a folder with pieces and scores, which marks both ends of a text.

    Raises InputError for a vocabulary that is damaged.
    """
    pieces, scores = _read(folder / FILE)
    vocab = {piece: number for number, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for _, piece in sorted(zip((-score for score in scores), pieces, strict=True))
        if not _BYTE.fullmatch(piece)
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    tokenizer = RustTokenizer(
        models.BPE(
            vocab=vocab, merges=merges, unk_token=pieces[_UNK], byte_fallback=True, fuse_unk=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = [AddedToken(piece, special=True) for piece in pieces[: _EOS + 1]]
    tokenizer.add_special_tokens(special)
    return HuggingFace(tokenizer.to_str(), context=context, pad=_UNK, before=(_BOS,), after=(_EOS,))


def _read(path: Path) -> tuple[list[str], Sequence[float]]:
    """The pieces, with SentencePiece's sign for a space and without the line breaks around those of
    the ends, and their scores."""
    values = read_json(path, _REMEDY)
    pieces = values["pieces"]
    scores = values["scores"]
    if (
        not isinstance(pieces, list)
        or not all(isinstance(piece, str) and piece for piece in pieces)
        or len(pieces) <= _EOS
    ):
        raise InputError(f'{path}: "pieces" is not a list of at least three texts; {_REMEDY}')
    if (
        not isinstance(scores, list)
        or len(scores) != len(pieces)
        or not all(isinstance(score, int | float) for score in scores)
    ):
        raise InputError(f'{path}: "scores" is not a number for each of the pieces; {_REMEDY}')
    ends = [piece.strip("\n") for piece in pieces[: _EOS + 1]]
    pieces = ends + [piece.replace(" ", SPACE) for piece in pieces[_EOS + 1 :]]
    if len(set(pieces)) < len(pieces):
        twice = next(piece for piece in pieces if pieces.count(piece) > 1)
        raise InputError(f"{path} has the piece {twice!r} twice; {_REMEDY}")
    return pieces, scores
