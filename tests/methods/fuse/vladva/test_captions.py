"""Captions by their length: which are short and long, draws, what is cut, and samples without one kind."""

from dataclasses import replace

import numpy as np
import pytest
from tests.factories import tokenizer

from diptych.data.batch import Tokens
from diptych.data.sample import BadSample, Text
from diptych.data.tokenizers import pad_batch
from diptych.data.views import collate
from diptych.methods.fuse.vladva.captions import Lengths, LengthView, there
from diptych.testing import Toy

WORDS = tokenizer()


def sample(*texts, role="caption"):
    return replace(Toy(1)[0], texts=[Text(text=text, role=role) for text in texts])


def seen(given, progress=None, seed=0, rooms=(20, 20), roles=("caption",), **lengths):
    view = LengthView(tokenizer=WORDS, roles=roles, lengths=Lengths(**lengths), rooms=rooms)
    found = view(given, np.random.default_rng(seed), progress)
    return found["texts.short"][0], found["texts.long"][0]


def whole(text):
    return [*WORDS.before, *WORDS.ids(text), *WORDS.after]


def test_the_bounds_are_below_30_and_from_30_to_500():
    assert Lengths() == Lengths(short=30, long=30, longest=500)
    ids = WORDS.ids("a bar")
    for count, kinds in ((29, (True, False)), (30, (False, True)), (500, (False, True))):
        text = " ".join(["a bar"] * (count // len(ids)))
        text += " a" * (count - len(WORDS.ids(text)))
        assert len(WORDS.ids(text)) == count
        short, long = seen(sample(text), rooms=(600, 600))
        assert (len(short) > 2, len(long) > 2) == kinds
    with pytest.raises(BadSample, match="501 tokens are neither below 30 nor from 30 to 500"):
        seen(sample(text + " a"))


def test_one_caption_of_each_kind_is_drawn_in_training_and_is_the_first_else():
    given = sample("a bar", "a red bar", "a red bar on the left of it", "a circle on the top of it")
    bounds = {"short": 5, "long": 5}
    assert seen(given, **bounds) == (whole("a bar"), whole("a red bar on the left of it"))
    drawn = {str(seen(given, 0.5, seed, **bounds)) for seed in range(40)}
    assert len(drawn) == 4


def test_roles_are_read_together():
    long = "a red bar on the left of it"
    texts = [Text(text="a bar"), Text(text=long, role="long"), Text(text="a circle", role="long")]
    given = replace(sample(), texts=texts)
    bounds = {"short": 5, "long": 5}
    assert seen(given, roles=("caption", "long"), **bounds)[1] == whole(long)
    assert seen(given, **bounds)[1] == whole("")
    whole_role = seen(given, roles=("caption", "long*"), **bounds)
    assert whole_role == (whole("a bar"), whole("a red bar on the left of it a circle"))
    view = LengthView(tokenizer=WORDS, roles=("a", "b*"), lengths=Lengths(), rooms=(9, 9))
    assert view.reads == ("texts.a", "texts.b")
    with pytest.raises(BadSample, match="no text of role tags"):
        seen(given, roles=("tags",))


def test_a_caption_that_does_not_fit_is_cut_and_has_no_end():
    ids = WORDS.ids("a red bar on the left of it")
    short, long = seen(sample("a red bar on the left of it"), rooms=(len(ids), 3), long=1)
    assert short == whole("a red bar on the left of it")
    assert long == [*WORDS.before, *ids[:3]]


def test_rows_without_a_caption_are_told():
    rows = [{"texts.short": [whole(text)]} for text in ("", "a bar", "")]
    tokens = collate(["a", "b", "c"], rows, {"short": WORDS}).texts["short"]
    assert there(tokens, WORDS).tolist() == [False, True, False]
    empty = pad_batch([whole("")], WORDS)
    assert there(Tokens(empty[0][:, None], empty[1][:, None]), WORDS).tolist() == [False]
