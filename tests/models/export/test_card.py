"""The card of an exported model, as the hub reads it."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from tests.models.export.models import BPE, CLIP, WORDS, make

from diptych.models.export import export
from diptych.models.export._card import card
from diptych.models.pretrained.files import licence

RECORD = {
    "method": "clip",
    "added": ["multi_view:weight=0.5"],
    "data": {"train": "photos/", "web": "web.tar"},
    "init": "hf:openai/clip-vit-base-patch32",
    "steps": 300,
    "seed": 0,
    "recipe": {"optimizer": "adamw", "lr": 3e-5, "clip": None},
    "damaged": {"truncated": 2},
    "validation": {
        "source": "val/",
        "suite": "retrieval",
        "step": 200,
        "scores": {"i2t_r1": 0.5, "t2i_r1": 0.25},
    },
}


def made(record: dict[str, Any], image: Any = CLIP) -> Any:
    model = make(image, WORDS, BPE)
    model.record = record
    return model


def test_the_hub_reads_the_front_matter():
    text = card(made(RECORD), "hf", "mine", {"images": 1e-7, "texts": 0.0}, ["a note"])
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == (
        "transformers",
        "zero-shot-image-classification",
    )
    assert data.base_model == "openai/clip-vit-base-patch32"
    assert data.tags == ["diptych", "clip"]
    assert data.license is None
    found = {each.metric_type: each.metric_value for each in data.eval_results}
    assert found == {"i2t_r1": 0.5, "t2i_r1": 0.25}
    assert {each.dataset_name for each in data.eval_results} == {"val/"}


def test_the_text_has_data_recipe_scores_with_their_protocol_and_differences():
    text = card(made(RECORD), "hf", "mine", {"images": 1e-7, "texts": 0.0}, ["a note"])
    for part in (
        "- method: clip, multi_view:weight=0.5",
        "- start: hf:openai/clip-vit-base-patch32",
        "- data (web): `web.tar`",
        "- recipe: optimizer adamw, lr 3e-05\n",
        '- damaged samples: {"truncated": 2}',
        "Suite `retrieval` of diptych on `val/`, at step 200.",
        "| i2t_r1 | 0.5000 |",
        "Not known. Add that of the data",
        "images 1.0e-07, texts 0.0e+00",
        "Note: a note.",
    ):
        assert part in text, part


def test_what_is_not_known_is_left_out():
    text = card(made({}, image=None), "sentence-transformers", "mine", {"texts": 0.0}, [])
    data = ModelCard(text).data
    assert data.pipeline_tag == "sentence-similarity"
    assert data.eval_results is None
    assert "## Training" not in text
    assert "## Scores" not in text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("---\ntags:\n- a\nlicense: apache-2.0\n---\n# A\n", "apache-2.0"),
        ("---\nlicense: 'mit'\n---\n", "mit"),
        ("---\ntags: [a]\n---\nlicense: mit\n---\n", None),
        ("# A\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_a_licence_is_that_of_the_front_matter(text: str, name: str | None, tmp_path: Path):
    (tmp_path / "README.md").write_text(text)
    assert licence(tmp_path) == name


def test_no_readme_is_no_licence(tmp_path: Path):
    assert licence(tmp_path) is None


def test_every_exported_folder_has_one_and_passes_its_licence_on(tmp_path: Path):
    from diptych.methods.store import load

    first = export(made({"licence": "cc-by-4.0"}), "hf", tmp_path / "first").folder
    model = load(f"hf:{first}")
    assert model.record["licence"] == "cc-by-4.0"
    second = export(model, "sentence-transformers", tmp_path / "second").folder
    assert ModelCard.load(second / "README.md").data.license == "cc-by-4.0"
