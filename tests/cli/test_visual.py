"""From pages to labels, a run, its scores of one's own texts and its numbers, all on the command
line."""

import json

import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.methods.store import load

IDEAS = ("nobody knows why", "it is a matter of principle", "the plan has no chance", "people hope for the best",
         "a promise is a promise", "of course they have the right")  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twenty pages of a scene, its caption, and two sentences that speak of nothing."""
    folder = tmp_path_factory.mktemp("corpus")
    source = open_source("scenes:count=20:number=1:texts=caption:seed=9")
    lines = []
    for at in range(len(source)):
        source[at].images["main"].decode().save(folder / f"{at}.png")
        lines.append({"image": f"{at}.png", "page_id": f"page {at}"})
        said = (*source[at].captions(), IDEAS[at % 6], f"{IDEAS[(at + 1) % 6]}, number {at}")
        lines += [{"text": text, "page_id": f"page {at}"} for text in said]
    (folder / "pages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


def label(diptych, corpus, out):
    return diptych(
        "data",
        "label",
        corpus / "pages.jsonl",
        "--model",
        "tiny",
        "--positive",
        "33%",
        "--negative",
        "50%",
        "--out",
        out,
    )


def train(diptych, table, out, *words):
    data = ("--data", table, "--init", "tiny", "--quiet", "--steps", "6", "--batch-size", "16")
    return diptych("train", "visualness", *data, *words, "--out", out)


@pytest.fixture
def run(diptych, corpus):
    """A run, made once."""
    out = corpus / "run"
    if not out.exists():
        assert label(diptych, corpus, corpus / "auto.jsonl").code == 0
        table = corpus / "auto.jsonl"
        called = train(
            diptych,
            f"train={table},human={table},calibrate={table}",
            out,
            "--method.label",
            "label",
            "--val",
            table,
        )
        assert called.code == 0, called
        assert "validation: " in called.err
        assert "auroc" in called.err
        assert f"diptych visual {out} TEXTS.txt" in called.out
    return out


def test_sentences_of_pages_are_labelled_into_a_table(diptych, corpus, tmp_path):
    called = label(diptych, corpus, tmp_path / "auto.jsonl")
    assert called.code == 0, called
    assert "60 sentences of 20 pages" in called.out
    rows = [json.loads(line) for line in (tmp_path / "auto.jsonl").read_text("utf-8").splitlines()]
    assert sum(row["label"] for row in rows) == 20
    assert f"{len(rows)} sentences; train with" in called.out
    back = open_source(str(tmp_path / "auto.jsonl"))
    with_image = [index for index in range(len(back)) if back[index].images]
    assert all(back[index].images["main"].decode().size == (64, 64) for index in with_image)


def test_documents_become_a_table_that_is_labelled(diptych, corpus, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for at in (0, 1):
        (folder / f"{at}.png").write_bytes((corpus / f"{at}.png").read_bytes())
        text = f"<p>A red cat. {IDEAS[at]}.<img src={at}.png><img src=../{at}.png>"
        (folder / f"{at}.html").write_text(text, "utf-8")
    (folder / "bad.pdf").write_bytes(b"no document")
    called = diptych("data", "pages", folder, "--out", tmp_path / "pages.jsonl")
    assert called.code == 0, called
    assert "left out: images outside of the folder" in called.out
    assert "1 documents cannot be read and are left out: bad.pdf (damaged)" in called.out
    words = ("--model", "tiny", "--positive", "50%", "--negative", "50%")
    called = diptych(
        "data", "label", tmp_path / "pages.jsonl", *words, "--out", tmp_path / "auto.jsonl"
    )
    assert called.code == 0, called
    assert "4 sentences of 2 pages" in called.out


def test_ratings_of_people_become_labels(diptych, refused, tmp_path):
    lines = [
        "text,image,a,b,c",
        "A red cat.,0.png,7,6,5",
        "A dog.,,7,5,2",
        "Why.,1.png,1,2,2",
        "So.,,4,4,4",
    ]
    (tmp_path / "ratings.csv").write_text("\n".join(lines), "utf-8")
    called = diptych("data", "ratings", tmp_path / "ratings.csv", "--out", tmp_path / "human.jsonl")
    assert called.code == 0, called
    assert "4 sentences rated by 3 people" in called.out
    assert "Krippendorff's alpha 0." in called.out
    assert "1 visual ones have no image" in called.out
    rows = [json.loads(line) for line in (tmp_path / "human.jsonl").read_text("utf-8").splitlines()]
    assert rows == [
        {"text": "A red cat.", "image": "0.png", "label": 1},
        {"text": "A dog.", "image": None, "label": 1},
        {"text": "Why.", "image": None, "label": 0},
    ]
    words = ("data", "ratings", tmp_path / "ratings.csv", "--out", tmp_path / "h.jsonl", "--votes")
    assert "1 votes of 3 are no majority; give 2 to 3" in refused(*words, "1")


def test_a_run_tells_which_texts_are_visual(diptych, run, tmp_path):
    texts = ["a small red cat on grass", *IDEAS[:2]]
    (tmp_path / "texts.txt").write_text("\n".join([*texts, "", " "]), "utf-8")
    reported = json.loads(diptych("visual", run, tmp_path / "texts.txt", "--json").out)
    model = load(run)
    assert [each["text"] for each in reported["texts"]] == texts
    assert [each["score"] for each in reported["texts"]] == pytest.approx(
        model.score(texts).tolist()
    )
    assert [each["visual"] for each in reported["texts"]] == model.is_visual(texts).tolist()
    assert reported["threshold"] == model.threshold
    shown = diptych("visual", run, texts[0], "--threshold", "-0.5").out
    assert texts[0] in shown
    assert "1 of 1 are above -0.500" in shown


def test_the_threshold_may_be_found_anew_for_any_model(diptych, run, corpus, monkeypatch):
    monkeypatch.setattr("diptych.cli.visual._SHOWN", 1)
    reported = json.loads(
        diptych("visual", "tiny", "a cat", "--val", corpus / "auto.jsonl", "--json").out
    )
    assert 0 < reported["threshold"] < 2
    before = (run / "model.json").read_text()
    called = diptych(
        "visual",
        run,
        "a cat",
        "--val",
        corpus / "auto.jsonl",
        "--label",
        "label",
        "--role",
        "caption",
    )
    assert called.code == 0, called
    assert (run / "model.json").read_text() == before


def test_the_run_is_measured_embeds_and_is_started_from_as_any_other(
    diptych, run, corpus, tmp_path
):
    called = diptych(
        "evaluate", run, "--data", corpus / "auto.jsonl", "--suite", "visualness,retrieval"
    )
    assert called.code == 0, called
    visualness, retrieval = called.out.split("retrieval on ")
    assert "visual" in visualness.splitlines()[0]
    for name in ("macro_f1", "macro_precision", "macro_recall", "accuracy", "auroc", "threshold"):
        assert name in visualness
    assert "no-image" in retrieval
    assert "t2i_mrr" in retrieval
    plain = diptych(
        "evaluate",
        "tiny",
        "--data",
        corpus / "auto.jsonl",
        "--train",
        corpus / "auto.jsonl",
        "--suite",
        "visualness",
        "--json",
    )
    assert "macro_f1" in json.loads(plain.out)["visualness"]
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photos" / "a.png")
    assert diptych("embed", run, tmp_path / "photos", "--out", tmp_path / "emb").code == 0
    assert "a" in diptych("search", tmp_path / "emb", "a red thing").out
    again = train(diptych, corpus / "auto.jsonl", tmp_path / "again", "--init", run)
    assert again.code == 0, again
    assert load(tmp_path / "again").threshold is None


def test_the_attention_to_each_word_is_shown_of_any_model(diptych, refused, tmp_path):
    (tmp_path / "texts.txt").write_text("two dogs on a beach\nnobody knows why\n", "utf-8")
    called = diptych("visual", "tiny", tmp_path / "texts.txt", "--words")
    assert called.code == 0, called
    assert "beach" in called.out
    reported = json.loads(
        diptych("visual", "tiny", tmp_path / "texts.txt", "--words", "--json").out
    )
    words = reported["texts"][1]["words"]
    assert [each["word"] for each in words] == ["nobody", "knows", "why"]
    assert sum(each["share"] for each in words) == pytest.approx(1)
    refusal = refused("visual", "tiny-lm", "a cat", "--words")
    assert "no text tower whose attention can be read" in refusal


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("visual",), "has no model or no texts"),
        (("visual", "tiny", "a cat"), "has no threshold; give --threshold"),
        (("visual", "{run}", "texts.txt"), "texts.txt: there is no such file"),
        (("visual", "{run}", "a cat", "--label", "x"), "--label is of the texts of --val"),
        (("visual", "{run}", "a cat", "--threshold", "1", "--val", "{auto}"), "leave one out"),
        (
            ("visual", "{run}", "a cat", "--val", "{auto}", "--label", "labl"),
            "did you mean 'label'",
        ),
        (("data", "label", "{pages}", "--out", "x.jsonl"), "has no model to compare with"),
        (("data", "label", "{pages}", "--model", "tiny", "--out", "x.csv"), "give --out x.jsonl"),
        (
            ("visual", "{run}", "a cat", "--words", "--threshold", "1"),
            "--words scores no text; leave --threshold out",
        ),
        (
            (
                "data",
                "label",
                "{pages}",
                "--model",
                "tiny",
                "--positive",
                "lots",
                "--out",
                "x.jsonl",
            ),
            "'lots' is no thr",
        ),
        (
            ("data", "filter", "{pages}", "--model", "tiny", "--out", "x.npz"),
            "--model goes with `data curate`, `data vary`, `data label`, `data interleave`, "
            "`data rewrite`, `data contrast` and `data refine`",
        ),
        (("train", "visualness", "--data", "{auto}", "--out", "x"), "name one with --init"),
    ],
)
def test_bad_words_are_told_in_one_line(words, message, run, corpus, refused):
    names = {"{run}": run, "{auto}": corpus / "auto.jsonl", "{pages}": corpus / "pages.jsonl"}
    assert message in refused(*(names.get(word, word) for word in words))


def test_a_run_without_a_threshold_says_how_to_get_one(diptych, refused, corpus, run, tmp_path):
    assert train(diptych, corpus / "auto.jsonl", tmp_path / "bare").code == 0
    assert "texts whose kind is known" in refused("visual", tmp_path / "bare", "a cat")
