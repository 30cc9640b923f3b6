"""An encoder of texts alone in sentence-transformers: what is exported embeds alike there, and the
suite `sts` measures what its evaluator does."""

import pytest

import diptych
from diptych.cli import main
from diptych.data.sources import open_source
from diptych.evaluation import evaluate

TOWER = "text:width=32:depth=2:heads=2:causal=false:pooling={}:dropout=0.1"


@pytest.mark.parametrize(
    ("method", "pooling", "options"),
    [("simcse", "mean", {}), ("whitened_cse", "first", {"groups": 8})],
)
def test_suite_sts_equals_its_evaluator(method, pooling, options, tmp_path, capsys):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    data = tmp_path / "sentences.txt"
    source = open_source("sentences:count=48")
    data.write_text("\n".join(source[i].captions()[0] for i in range(48)), encoding="utf-8")
    run = tmp_path / "run"
    model = diptych.train(
        method,
        str(data),
        run,
        text_tower=TOWER.format(pooling),
        embed_dim=32,
        tokenizer="bpe:vocab_size=512:context=48",
        steps=3,
        batch_size=16,
        quiet=True,
        config=options,
    ).model
    assert (
        main(["export", str(run), "--to", "sentence-transformers", "--out", str(tmp_path / "st")])
        == 0
    )
    theirs = SentenceTransformer(str(tmp_path / "st"), device="cpu")
    pairs = open_source("sentences:count=60:seed=3:pair=graded")
    samples = [pairs[i] for i in range(len(pairs))]
    sides = [[sample.captions(role)[0] for sample in samples] for role in ("caption", "pair")]
    scores = [sample.labels["similarity"] for sample in samples]
    expected = EmbeddingSimilarityEvaluator(*sides, scores, main_similarity="cosine")(theirs)
    found = evaluate(model, pairs, ["sts"])["sts"]
    assert found["pearson"] == pytest.approx(expected["pearson_cosine"], abs=1e-5)
    assert found["spearman"] == pytest.approx(expected["spearman_cosine"], abs=2e-3)
