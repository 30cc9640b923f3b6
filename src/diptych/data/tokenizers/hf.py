"""Tokenizers of Hugging Face model folders: transformers is needed to read one, not to run it."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer as RustTokenizer

from diptych.data.sample import whole
from diptych.data.tokenizers.base import Tokenizer, word_starts
from diptych.data.tokenizers.clip import CLEAN
from diptych.data.tokenizers.sentencepiece import SentencePiece, is_siglip
from diptych.errors import InputError, brief, unknown

FILES = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
"""A folder with one of these files contains a tokenizer."""


class HuggingFace(Tokenizer):
    """The pipeline in `content`, that of a tokenizer.json, with the special ids that its class puts
    around a text.

    `clean` is applied before the pipeline: None, or one of open_clip's functions ("lower",
    "whitespace", "canonicalize").
    """

    kind = "hf"

    def __init__(
        self,
        content: str,
        *,
        context: int,
        pad: int,
        before: tuple[int, ...] = (),
        after: tuple[int, ...] = (),
        padding: Literal["longest", "max"] = "longest",
        clean: str | None = None,
        special: str = "",
    ):
        if clean is not None and clean not in CLEAN:
            raise unknown("way to clean text", clean, CLEAN)
        self.content = content
        self.context = context
        self.pad = pad
        self.padding = padding
        self.clean = clean
        self.before = tuple(before)
        self.after = tuple(after)
        try:
            self._rust = RustTokenizer.from_str(content)
        except Exception as error:  # the Rust library raises nothing narrower
            raise InputError(
                f"the content of a tokenizer.json is damaged ({error}); copy the file again"
            ) from None
        self._rust.no_padding()
        self._rust.no_truncation()
        self.vocab_size = self._rust.get_vocab_size(with_added_tokens=True)
        self._add(special, self._own_special())

    def ids(self, text: str) -> list[int]:
        if self.clean is not None:
            text = CLEAN[self.clean](text)
        return self._rust.encode(whole(text), add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        added = {self.special[name] for name in self.added}
        return self._rust.decode([i for i in ids if i not in added], skip_special_tokens=True)

    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        return word_starts([self._rust.id_to_token(number) or "" for number in ids])

    def _own_special(self) -> dict[str, int]:
        """The special tokens of the pipeline by their names without brackets: [MASK] and <mask> are
        "mask", <extra_id_0> is "extra_id_0"."""
        found = {}
        for number, token in self._rust.get_added_tokens_decoder().items():
            if token.special:
                found[token.content.strip("[]<>|").lower()] = number
        return found

    def to_dict(self) -> dict[str, Any]:
        names = ("kind", "context", "pad", "padding", "clean", "content")
        return {
            **{name: getattr(self, name) for name in names},
            "before": [*self.before],
            "after": [*self.after],
            **self._added(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "HuggingFace":
        values = {key: value for key, value in values.items() if key != "kind"}
        return cls(values.pop("content"), **values)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder contains the files of a tokenizer."""
    return any((folder / name).is_file() for name in FILES)


def from_folder(
    folder: str | Path,
    *,
    context: int | None = None,
    padding: Literal["longest", "max"] = "longest",
    clean: str | None = None,
    strip_end: bool = False,
    local: bool = False,
    special: str = "",
    model_type: str | None = None,
) -> Tokenizer:
    """The tokenizer of a model folder or hub name, with the ids of transformers' class.

    `context` defaults to the folder's model_max_length. `strip_end` replaces the final separator by
    padding (open_clip's CLIPA models). `special` are tokens to add behind the vocabulary.
    `model_type` is the type of model whose tokenizer it is, where the folder names a class of its own,
    whose code is not run. With `local`, a hub name is looked up only on this machine. Needs the extra
    `language`. Raises InputError if there is no tokenizer, if it pads on the left, or if its length
    is unknown.
    """
    if is_siglip(Path(folder)):
        return SentencePiece.from_folder(
            Path(folder), context=context, padding=padding, clean=clean, special=special
        )
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError(
            f"the tokenizer of {folder} needs transformers; pip install 'diptych[language]'"
        ) from None
    with quiet():
        try:
            found = AutoTokenizer.from_pretrained(
                str(folder),
                local_files_only=local,
                trust_remote_code=False,
                **({} if model_type is None else {"tokenizer_type": model_type}),
            )
        except Exception as error:  # transformers raises many kinds for damaged files
            if "trust_remote_code" in str(error):
                raise InputError(
                    f"the tokenizer of {folder} is of a class whose code is in the folder, and such code is not run; "
                    f"say of which type of model it is, such as hf:{folder}:model_type=bert"
                ) from None
            raise InputError(
                f"{folder} has no tokenizer that transformers can read ({brief(error)})"
            ) from None
    if context is None:
        context = int(found.model_max_length)
        if context > 1_000_000:  # transformers' value for "not given"
            raise InputError(
                f"the tokenizer of {folder} has no model_max_length; add it to tokenizer_config.json"
            )
    if padding == "max" and found.padding_side != "right":
        raise InputError(
            f'the tokenizer of {folder} pads on the left; set "padding_side": "right" in its config'
        )
    pad = found.pad_token_id if found.pad_token_id is not None else 0
    if not hasattr(found, "backend_tokenizer"):
        raise InputError(
            f"the tokenizer of {folder} is a {type(found).__name__} without a fast form; save it with a tokenizer.json"
        )
    before, after = _special(found)
    if strip_end:
        after = (pad,) * len(after)
    return HuggingFace(
        found.backend_tokenizer.to_str(),
        context=context,
        pad=pad,
        before=before,
        after=after,
        padding=padding,
        clean=clean,
        special=special,
    )


def _special(found: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special ids before and after a text."""
    encoded = found("a", return_special_tokens_mask=True)
    ids = encoded["input_ids"]
    mask = encoded["special_tokens_mask"]
    own = [place for place, special in enumerate(mask) if not special]
    first, last = (own[0], own[-1]) if own else (len(ids), len(ids))
    return tuple(ids[:first]), tuple(ids[last + 1 :])


@contextlib.contextmanager
def quiet():
    """Context without transformers' warnings and progress bars, which are addressed to its own
    users."""
    from transformers.utils import logging as theirs

    logger = logging.getLogger("transformers")
    level = logger.level
    shown = theirs.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            theirs.enable_progress_bar()
