"""SentencePiece models as in SigLIP: text is canonicalised, split by the model and ended by </s>.

The model is part of the tokenizer's plain values (base64). Needs the extra `language`
(sentencepiece).
"""

import base64
import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from diptych.data.sample import whole
from diptych.data.tokenizers.base import Tokenizer, word_starts
from diptych.data.tokenizers.clip import CLEAN
from diptych.errors import InputError

SPACE = "▁"  # SentencePiece's symbol for a space
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SentencePiece(Tokenizer):
    """The ids of transformers' SiglipTokenizer, except that special tokens spelled out in a text
    are plain text."""

    kind = "sentencepiece"

    def __init__(
        self,
        model: bytes,
        *,
        context: int,
        pad: int,
        eos: int,
        padding: Literal["longest", "max"] = "max",
        lower: bool = True,
        clean: str | None = None,
        special: str = "",
    ):
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise InputError(
                "this tokenizer needs sentencepiece; pip install 'diptych[language]'"
            ) from None
        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise InputError(
                f"the SentencePiece model is damaged ({error}); copy the file again"
            ) from None
        self.model = model
        self.context = context
        self.pad = pad
        self.padding = padding
        self.lower = lower
        self.clean = clean
        self.after = (eos,)
        self.vocab_size = self._processor.GetPieceSize()
        self._add(special, {"unk": self._processor.unk_id()})
        # put before the text and removed again, since the model drops spaces at the start of its
        # input
        self._guard = "<unk>"
        self._guarded = len(self._processor.EncodeAsIds(self._guard))

    def ids(self, text: str) -> list[int]:
        if self.clean is not None:
            text = CLEAN[self.clean](text)
        text = SPACE + whole(text).replace(SPACE, " ")
        text = (text.lower() if self.lower else text).translate(_PUNCTUATION)
        text = re.sub(r"\s+", " ", text).strip()
        return self._processor.EncodeAsIds(self._guard + text)[self._guarded :]

    def decode(self, ids: Sequence[int]) -> str:
        special = {self.pad, *self.after, *(self.special[name] for name in self.added)}
        return self._processor.DecodeIds([number for number in ids if number not in special])

    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        whole_size = self._processor.GetPieceSize()
        return word_starts([self.token(number) if number < whole_size else "" for number in ids])

    def to_dict(self) -> dict[str, Any]:
        names = ("kind", "context", "pad", "padding", "lower", "clean")
        values = {name: getattr(self, name) for name in names}
        return {
            **values,
            "eos": self.after[0],
            "model": base64.b64encode(self.model).decode("ascii"),
            **self._added(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SentencePiece":
        values = {key: value for key, value in values.items() if key != "kind"}
        return cls(base64.b64decode(values.pop("model")), **values)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        context: int | None,
        padding: Literal["longest", "max"],
        clean: str | None,
        special: str = "",
    ) -> "SentencePiece":
        """Load from a SigLIP folder: spiece.model and tokenizer_config.json (transformers'
        names)."""
        config = _config(folder)
        model = (folder / "spiece.model").read_bytes()
        context = context or int(config.get("model_max_length", 64))
        lower = config.get("do_lower_case", True)
        made = cls(
            model,
            context=context,
            pad=0,
            eos=0,
            padding=padding,
            lower=lower,
            clean=clean,
            special=special,
        )
        made.pad = made.piece(config.get("pad_token"))
        made.after = (made.piece(config.get("eos_token")),)
        return made

    def piece(self, token: str | dict[str, Any] | None) -> int:
        """The id of a special token from a config, by default </s>, with which SigLIP pads and
        ends."""
        return self._processor.PieceToId(
            token["content"] if isinstance(token, dict) else token or "</s>"
        )

    def token(self, number: int) -> str:
        """The piece of an id, the inverse of `piece`."""
        return self._processor.IdToPiece(number)


def is_siglip(folder: Path) -> bool:
    """Whether a folder's tokenizer is transformers' SiglipTokenizer, which has no Rust form."""
    if not (folder / "spiece.model").is_file():
        return False
    return _config(folder).get("tokenizer_class", "SiglipTokenizer") == "SiglipTokenizer"


def _config(folder: Path) -> dict[str, Any]:
    stored = folder / "tokenizer_config.json"
    try:
        return json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    except ValueError as error:
        raise InputError(f"{stored} is not JSON ({error}); copy it again") from None
