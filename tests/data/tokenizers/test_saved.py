"""Tokenizers from the files of runs."""

import json

import pytest

from diptych.data.tokenizers import build, train_bpe
from diptych.errors import InputError


@pytest.mark.parametrize(
    "wrap", [lambda values: values, lambda values: {"method": "clip", "tokenizer": values}]
)
def test_a_saved_tokenizer_gives_the_same_ids(tmp_path, wrap):
    trained = train_bpe(["a red cat", "a red dog"], vocab_size=270, context=8)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(wrap(trained.to_dict())), encoding="utf-8")
    found = build(f"saved:{path}")
    assert found.fingerprint == trained.fingerprint
    assert found.encode(["a red cow"]) == trained.encode(["a red cow"])


@pytest.mark.parametrize(
    "text", [None, "not JSON", "[]", "{}", '{"tokenizer": null}', '{"kind": "bpe"}']
)
def test_a_file_without_one_is_refused_by_name(tmp_path, text):
    path = tmp_path / "model.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="model.json holds no saved tokenizer"):
        build(f"saved:{path}")
