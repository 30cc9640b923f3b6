"""Decoding gives a text whose ids are the same, for each kind of tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.pretrained.tiny import bert_like, siglip_spm, t5_like

from diptych.data.tokenizers import Clip, SentencePiece, from_folder, train_bpe

BPE = train_bpe(["two dogs, and a “quoted” café", "two cats"] * 3, vocab_size=300, context=300)
CLIP = Clip(context=300)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40))
def test_any_text_survives_bytes_and_merges(text):
    (ids,) = BPE.encode([text])
    assert BPE.ids(BPE.decode(ids)) == BPE.ids(text)


@pytest.mark.parametrize("text", ["two cats", "Two  dogs, and a “quoted” café's", "", "日本 语 🙂"])
def test_bpe_and_clip_give_back_the_words(text):
    for tokenizer in (BPE, CLIP):
        (ids,) = tokenizer.encode([text])
        assert tokenizer.ids(tokenizer.decode(ids)) == tokenizer.ids(text)
    assert BPE.decode(BPE.encode(["Two Cats"])[0]) == "two cats"


def test_a_cut_inside_a_sign_of_several_bytes_is_shown_and_no_error():
    ids = BPE.ids("语")
    assert BPE.decode(ids[:-1]) == "�"


@pytest.mark.parametrize(
    ("make", "text"), [(bert_like, "a photo of two dogs"), (t5_like, "the quick brown fox")]
)
def test_folders_of_hugging_face(tmp_path, make, text):
    make(tmp_path)
    tokenizer = from_folder(tmp_path, context=24)
    (ids,) = tokenizer.encode([text])
    assert set(ids) & {*tokenizer.before, *tokenizer.after}
    assert tokenizer.decode(ids) == text


def test_sentencepiece(tmp_path):
    tokenizer = SentencePiece(siglip_spm(tmp_path).read_bytes(), context=24, pad=1, eos=1)
    assert tokenizer.decode(tokenizer.encode(["Two dogs running."])[0]) == "two dogs running"
