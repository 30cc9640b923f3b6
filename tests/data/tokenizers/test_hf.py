"""Tokenizers of folders whose class is one of their own."""

import json

import pytest

from diptych.data.tokenizers import build, from_dict
from diptych.errors import InputError

pytest.importorskip("transformers")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "opacity", "##s")


@pytest.fixture
def folder(tmp_path):
    """As CXR-BERT is published: a vocabulary, and a class that only code of the folder knows."""
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**own, "model_max_length": 16}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "cxr-bert"}))
    (tmp_path / "own.py").write_text("raise RuntimeError('code of a folder was run')")
    return tmp_path


def test_a_class_by_code_is_read_as_that_of_a_type_that_is_named(folder):
    words = build(f"hf:{folder}:model_type=bert")
    assert words.encode(["No opacitys"]) == [[2, 5, 6, 7, 3]]
    assert words.special["mask"] == 4
    assert from_dict(words.to_dict()).encode(["no"]) == [[2, 5, 3]]


def test_its_code_is_not_run_and_the_error_names_the_option(folder):
    with pytest.raises(InputError, match="such code is not run; .*model_type=bert"):
        build(f"hf:{folder}")
