"""Checks that a tokenizer and a preprocessing fit the towers of a dual encoder."""

from diptych.data.tokenizers import Tokenizer
from diptych.data.volumes import AnyPreprocess
from diptych.errors import InputError
from diptych.towers.dual import DualEncoder


def check_preprocess(encoder: DualEncoder, preprocess: AnyPreprocess, name: str) -> None:
    """Raise InputError unless the preprocessing is that of the image tower."""
    built = encoder.image.preprocess.to_dict()
    given = preprocess.to_dict()
    for key in built | given:
        if given.get(key) != built.get(key):
            raise InputError(
                f"{name}: the image tower was built for {key} {built.get(key)}, the preprocessing has "
                f"{given.get(key)}; use the one it was trained with"
            )


def check_tokenizer(encoder: DualEncoder, tokenizer: Tokenizer, name: str) -> None:
    """Raise InputError unless vocabulary, context, padding rule and end token match the text
    tower."""
    if encoder.text is None:
        raise InputError(f"{name} has no text tower for its tokenizer; leave the tokenizer out")
    tower = encoder.text.spec
    rows = tower.get("vocab_size")
    context = tower.get("context")
    problem = None
    if rows is not None and tokenizer.vocab_size > rows:
        problem = f"has {rows} words, its tokenizer {tokenizer.vocab_size}"
    elif context is not None and tokenizer.context > context:
        problem = f"takes {context} ids a text, its tokenizer gives up to {tokenizer.context}"
    elif tower.get("padding", tokenizer.padding) != tokenizer.padding:
        problem = (
            f"pads texts by the rule {tower['padding']!r}, its tokenizer by {tokenizer.padding!r}"
        )
    elif (
        tower.get("eot") is not None
        and tower.get("pooling") == "eot"
        and tower["eot"] != tokenizer.eot
    ):
        problem = f"looks for its feature at id {tower['eot']}, its tokenizer ends texts with {tokenizer.eot}"
    if problem:
        raise InputError(f"{name}: the text tower {problem}; use the tokenizer it was trained with")
