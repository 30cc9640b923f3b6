"""Agreement: a model whose emotions and explanations are known."""

from dataclasses import replace

import pytest
from tests.evaluation.helpers import Rows
from tests.factories import make_method

from diptych.data.emotions import FIELDS
from diptych.data.images import Preprocess
from diptych.data.sample import Field, Sample, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.testing import Toy

WHY = {
    "awe": ("the vast sky amazes", "vast and grand", "the grand sky"),
    "fear": ("a dark storm", "dark and dangerous", "the storm is dangerous"),
}


def source(count=6):
    """Of even images all feel awe but one, of odd ones fear; the last one is divided."""
    rows = []
    for at in range(count):
        names = ("awe", "awe", "fear") if at % 2 == 0 else ("fear", "fear", "awe")
        if at == count - 1:
            names = ("awe", "fear")
        texts = []
        for number, emotion in enumerate(names):
            texts.append(Text(text=emotion.title(), role="emotion"))
            texts.append(Text(text=WHY[emotion][number], role="explanation"))
        image = Toy(count)[at].images["main"]
        rows.append(Sample(key=f"{at}", source="", images={"main": image}, texts=texts))
    return Rows(rows, fields={name: Field(kind="text") for name in FIELDS})


class Known:
    """Writes given texts, in the order of the images."""

    name = "known"
    precision = "float32"
    preprocess = Preprocess(size=8)

    def __init__(self, texts):
        self.texts = list(texts)

    def generate(self, images, *, batch_size=64):
        return [self.texts.pop(0) for _ in images]


def judged(*texts, **settings):
    return evaluate(Known(texts), source(), ["agreement"], **settings)["agreement"]


def test_emotions_are_right_and_explanations_agree():
    found = judged(
        "awe because the vast sky amazes",  # right, and agrees
        "awe because a dark storm",  # wrong, and disagrees
        "fear because dark and dangerous",  # wrong, and agrees
        "Fear because the grand sky",  # right, and disagrees
        "awe",  # right, and says nothing
        "fear because the vast sky amazes",  # no majority
    )
    assert found["n"] == 6
    assert found["judged"] == 5
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["agreement"] == pytest.approx(2 / 6)
    assert found["unsaid"] == 1
    assert found["unique"] == pytest.approx(5 / 6)
    assert found["classifier"] == 1
    assert found["chance_accuracy"] == pytest.approx(3 / 5)
    # the explanations of the next images: storm, danger, sky, nothing, sky, sky
    assert found["chance_agreement"] == pytest.approx(1 / 6)
    assert found["bleu1"] < 1
    assert found["written"]["3"] == "Fear because the grand sky"


def test_references_themselves_have_the_best_overlap():
    texts = [f"awe because {WHY['awe'][at % 2 * 2]}" for at in range(5)]
    found = judged(*texts, "awe because the vast sky amazes")
    assert found["bleu4"] == pytest.approx(1)
    assert found["rouge_l"] == pytest.approx(1)
    assert "meteor_stem" not in found
    found = judged(*texts, "awe because the vast sky amazes", meteor=True)
    lengths = [4, 3, 4, 3, 4, 4]  # words of the explanations, each one chunk
    expected = sum(1 - 0.5 / length**3 for length in lengths) / 6
    assert found["meteor_stem"] == pytest.approx(expected)
    assert found["chance_meteor_stem"] < expected


def test_the_classifier_may_learn_from_other_explanations():
    texts = ["awe because a dark storm"] * 6
    swap = {"Awe": "Fear", "Fear": "Awe"}
    rows = []
    for at in range(6):
        row = source()[at]
        said = [replace(text, text=swap.get(text.text, text.text)) for text in row.texts]
        rows.append(replace(row, texts=said))
    swapped = Rows(rows, fields=source().schema())
    assert judged(*texts)["agreement"] == 0
    found = judged(*texts, train=swapped)
    assert found["agreement"] == 1
    assert found["classifier"] == 0
    assert found["protocol"] != judged(*texts)["protocol"]


def test_another_joint():
    found = judged(*["awe, for the vast sky amazes"] * 6, joint=", for")
    assert found["unsaid"] == 6  # a joint is a word
    found = judged(*["awe as the vast sky amazes"] * 6, joint="as")
    assert found["unsaid"] == 0


def test_a_trained_model_is_measured():
    lm = "text:width=32:depth=1:heads=2"
    method = make_method("sevlm", lm=lm, opening="", joint="|", max_tokens=3)
    model = method.model.eval().to_model(method.make.tokenizer, method.model.image.preprocess, "m")
    found = evaluate(model, source(), ["agreement"])["agreement"]
    assert found["n"] == 6
    assert 0 <= found["agreement"] <= 1


def test_bad_input():
    with pytest.raises(InputError, match=r"agreement needs texts\.emotion"):
        evaluate(Known([]), Toy(4), ["agreement"])
    first = source()[0]
    awe = Rows([replace(first, texts=first.texts[:2])], fields=source().schema())
    with pytest.raises(InputError, match="are of 1 emotions, and agreement needs two"):
        evaluate(Known(["awe because x"]), awe, ["agreement"])
    with pytest.raises(InputError, match="has no texts of role emotion"):
        judged(train=Toy(4))
