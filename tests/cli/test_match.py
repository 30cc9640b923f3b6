"""`diptych match`, `search --rerank` and what else the command line makes of a run that matches."""

import json

import pytest
from tests.cli.helpers import make_folder

from diptych.cli import main
from diptych.methods.store import load

PARTS = (
    "--image-tower=vit:image_size=32:patch=16:width=32:depth=1:heads=2",
    "--text-tower=text:width=32:depth=1:heads=2:causal=false:pooling=first",
    "--tokenizer=bpe:vocab_size=320:context=24:special=mask",
    "--embed-dim=16", "--batch-size=8", "--steps=3", "--method.queue=16",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps, beside its images."""
    photos = make_folder(tmp_path_factory.mktemp("matched") / "photos", 9)
    out = photos.with_name("run")
    assert main(["train", "albef", "--data", str(photos), "--out", str(out), *PARTS, "--quiet"]) == 0  # fmt: skip
    return out


def test_every_text_is_scored_with_its_image(run, diptych):
    photos = run.with_name("photos")
    found = json.loads(diptych("match", run, photos, "--json").out)["pairs"]
    assert [each["key"] for each in found[:2]] == ["00.png", "01.png"]
    model = load(run)
    paths = [photos / each["key"] for each in found]
    texts = [each["text"] for each in found]
    assert [each["score"] for each in found] == pytest.approx(
        model.match(paths, texts).tolist(), abs=1e-5
    )
    assert [each["probability"] for each in found] == pytest.approx(
        model.match(paths, texts, probability=True).tolist(), abs=1e-5
    )
    assert "probability" in diptych("match", run, photos).out


def test_found_images_are_ordered_anew(run, diptych, refused, tmp_path):
    photos = run.with_name("photos")
    assert diptych("embed", run, photos, "--out", tmp_path / "emb").code == 0
    asked = "a red thing"
    plain = json.loads(diptych("search", tmp_path / "emb", asked, "-k", 5, "--json").out)
    hits = json.loads(
        diptych("search", tmp_path / "emb", asked, "-k", 3, "--rerank", 5, "--json").out
    )
    scores = load(run).match([photos / hit["key"] for hit in plain], [asked] * 5).tolist()
    order = sorted(range(5), key=lambda at: -scores[at])[:3]
    assert [hit["key"] for hit in hits] == [plain[at]["key"] for at in order]
    assert [hit["match"] for hit in hits] == pytest.approx([scores[at] for at in order], abs=1e-5)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert "match" not in plain[0]
    shown = diptych("search", tmp_path / "emb", asked, "-k", 2, "--rerank", 2).out
    assert "2 images matched in" in shown
    assert "match" in shown.splitlines()[2]
    line = refused("search", tmp_path / "emb", asked, "--rerank", 2)
    assert "rerank 10 or more" in line
    line = refused("search", tmp_path / "emb", "--image", photos / "00.png", "--rerank", 20)
    assert "words alone" in line
    (photos / "00.png").rename(photos / "moved")
    try:
        line = refused("search", tmp_path / "emb", asked, "-k", 9, "--rerank", 9)
    finally:
        (photos / "moved").rename(photos / "00.png")
    assert "embed the source again" in line


def test_a_sentence_is_found_in_an_image(run, diptych, tmp_path):
    image = run.with_name("photos") / "00.png"
    found = json.loads(diptych("ground", run, image, "a red thing", "--json").out)
    assert len(found["gradients"]) == found["grid"][0] == 2
    assert "cosines" not in found
    written = diptych("ground", run, image, "a red thing", "--out", tmp_path / "heat.png")
    assert "gradient" in written.out


def test_answers_come_from_a_list(run, diptych, refused, tmp_path):
    asked = tmp_path / "asked.csv"
    photos = run.with_name("photos")
    rows = [f"{photos / f'{at:02d}.png'},is it red?,{('yes', 'no')[at % 2]}" for at in range(9)]
    asked.write_text("\n".join(["image,question,answer", *rows]))
    source = str(asked)
    out = tmp_path / "answers"
    made = ("--steps=2", "--batch-size=4", "--method.task=answers", "--quiet")
    assert diptych("train", "albef", "--init", run, "--data", source, "--out", out, *made).code == 0
    (tmp_path / "list.txt").write_text("yes\n\nno\n")
    listed = ("--images", photos, "--among", tmp_path / "list.txt", "--json")
    found = json.loads(diptych("generate", out, "is it red?", *listed).out)
    assert {each["text"] for each in found} <= {"yes", "no"}
    assert len(found) == 9
    exact = json.loads(
        diptych("evaluate", out, "--data", source, "--suite", "answers", "--json").out
    )
    assert 0 <= exact["answers"]["exact"] <= 1
    line = refused("generate", out, "is it red?", "--images", photos, "--among", tmp_path / "no")
    assert "name one with an answer a line" in line
    assert "ask one" in refused("generate", out, "--images", photos)


def test_statements_about_two_images_are_judged(run, diptych, refused, tmp_path):
    photos = run.with_name("photos")
    pairs = [(photos / f"{at:02d}.png", photos / f"{8 - at:02d}.png") for at in range(9)]
    rows = [f"{a},{b},both are red,{('true', 'false')[at % 2]}" for at, (a, b) in enumerate(pairs)]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(["left,right,question,answer", *rows]))
    source = f"{table}:image=left+right"
    out = tmp_path / "judged"
    made = ("--steps=2", "--batch-size=4", "--method.task=classes", "--method.images=2", "--quiet")
    assert diptych("train", "albef", "--init", run, "--data", source, "--out", out, *made).code == 0
    found = json.loads(
        diptych("generate", out, "--images", source, "--role", "question", "--json").out
    )
    assert {each["text"] for each in found} <= {"true", "false"}
    assert len(found) == 9
    both = ",".join(map(str, pairs[0]))
    one = json.loads(diptych("generate", out, "both are red", "--images", both, "--json").out)
    assert one[0]["text"] == found[0]["text"]
    told = json.loads(
        diptych("evaluate", out, "--data", source, "--suite", "answers", "--json").out
    )
    assert told["answers"]["n"] == 9
    assert "no-image" in refused("generate", out, "both are red", "--images", photos)
    line = refused("generate", out, "one is red", "--images", source, "--role", "question")
    assert "leave out --role or 'one is red'" in line
