"""Success rates: what was right and is wrong, whoever makes the change and whoever suffers it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Fake, Rows, row, vectors
from tests.factories import make_method

from diptych.data.images import Preprocess
from diptych.data.sample import Field, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.attack import rates, success
from diptych.methods.make import NO_TOWER
from diptych.models.model import Model

EYE = np.eye(6)
SOURCE = Rows([row(str(at), at, f"number {at}") for at in range(6)])
ASKED = {name: Field(kind="text") for name in ("texts.question", "texts.answer")}


class Shift(Fake):
    """Changes images of the numbers `images`, and texts of the numbers `texts`, to number 5."""

    def __init__(self, images=(), texts=()):
        super().__init__(EYE)
        self.of_images = set(images)
        self.of_texts = {f"number {at}" for at in texts}

    def apply(self, images=(), texts=(), *, batch_size=64):
        changed = torch.as_tensor(images).clone()
        for image in changed:
            if int(image[0, 0, 0]) in self.of_images:
                image[0] = 5
        return changed, ["number 5" if text in self.of_texts else text for text in texts]


def test_success_counts_what_was_right_and_is_wrong():
    queries = np.arange(1, 10)
    before, after = np.isin(queries, [1, 2, 3, 5, 8]), np.isin(queries, [2, 5, 9])
    assert 100 * success(before, after) == pytest.approx(60.0)
    assert rates({"t2i": np.array([1, 4])}, {"t2i": np.array([6, 1])}, (1, 5)) == {
        "t2i_asr1": 1.0,
        "t2i_asr5": 0.5,
    }


def test_images_and_texts_are_changed_together_and_alone():
    found = evaluate(Shift(images=[0, 1], texts=[1, 2]), SOURCE, ["attack"], ks=(1,))["attack"]
    # the images 0 and 1 show number 5 now; so the text 5 has three images that tie
    assert found["by_changed"]["images"] == {"i2t_asr1": 2 / 6, "t2i_asr1": 3 / 6}
    assert found["by_changed"]["texts"] == {"i2t_asr1": 3 / 6, "t2i_asr1": 2 / 6}
    assert found["i2t_r1"] == 1
    assert found["n"] == found["texts"] == 6
    assert found["i2t_asr1"] == found["by_changed"]["both"]["i2t_asr1"]
    assert found["i2t_r1_after"] == pytest.approx(1 - found["i2t_asr1"])
    assert found["changed_texts"] == 2 / 6
    assert found["largest_change"] == 5


def by_match(victim, shown, said):
    """Ranks of each direction by `match` alone, for the numbers that images show and texts name."""
    images = victim.matcher[shown]
    texts = victim.matcher[said]
    found = {"i2t": [], "t2i": []}
    for at in range(6):
        of_image = (images[at] * texts).sum(1)
        of_text = (images * texts[at]).sum(1)
        for name, scores in (("i2t", of_image), ("t2i", of_text)):
            wrong = [float(scores[other]) for other in range(6) if other != at]
            found[name].append(1 + sum(score >= float(scores[at]) for score in wrong))
    return {name: np.array(rank) for name, rank in found.items()}


def test_reranking_is_by_the_victims_match_of_what_is_changed():
    change = Shift(images=[0, 1], texts=[1, 2])
    victim = Fake(vectors(0, 6))
    victim.matcher = torch.nn.functional.normalize(torch.from_numpy(vectors(1, 6)), dim=1)
    plain, images, texts = list(range(6)), [5, 5, 2, 3, 4, 5], [0, 5, 5, 3, 4, 5]
    settings = {"victim": victim, "ks": (1, 2)}
    found = evaluate(change, SOURCE, ["attack"], rerank=6, **settings)["attack"]
    before = by_match(victim, plain, plain)
    for name, shown, said in (
        ("images", images, plain),
        ("texts", plain, texts),
        ("both", images, texts),
    ):
        after = by_match(victim, shown, said)
        for direction, rank in after.items():
            for k in (1, 2):
                wanted = success(before[direction] <= k, rank <= k)
                assert found["by_changed"][name][f"reranked_{direction}_asr{k}"] == wanted
    assert found["reranked_t2i_r1_after"] == (rank <= 1).mean() < found["reranked_t2i_r1"] == 1
    assert found["reranked_i2t_asr1"] == found["by_changed"]["both"]["reranked_i2t_asr1"]
    one = evaluate(change, SOURCE, ["attack"], rerank=1, **settings)["attack"]
    none = evaluate(change, SOURCE, ["attack"], **settings)["attack"]
    assert one["reranked_i2t_asr1"] == none["i2t_asr1"], "one candidate has one order"
    assert "reranked_i2t_asr1" not in none
    assert one["protocol"] != none["protocol"]


def test_another_victim_is_judged_by_its_own_errors():
    change = Shift(images=[0, 1])
    blind = Fake(np.concatenate([EYE[:2], EYE[2:]]) @ np.diag([1, 1, 1, 1, 1, 1]))
    blind.embed_images = lambda images, batch_size: torch.eye(6)[
        torch.where(images[:, 0, 0, 0] == 5, images[:, 1, 0, 0], images[:, 0, 0, 0]).long()
    ]
    own = evaluate(change, SOURCE, ["attack"])["attack"]
    other = evaluate(change, SOURCE, ["attack"], victim=blind)["attack"]
    assert own["i2t_asr1"] > 0
    assert other["protocol"] == own["protocol"], "two fakes have one identity"
    assert other["i2t_r1"] < 1, "it takes 5 for 0"


def test_captions_and_answers_are_judged_as_their_suites_do():
    victim = Shift(images=[0, 1])
    victim.written = lambda number, prompt: f"number {number}" if number != 3 else "nothing"
    found = evaluate(victim, SOURCE, ["attack"], task="captions")["attack"]
    assert found["asr"] == pytest.approx(2 / 5)
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["accuracy_after"] == pytest.approx(3 / 6)
    assert found["cider_after"] < found["cider"]
    samples = [
        replace(
            row(str(at), at),
            texts=[Text(text="which?", role="question"), Text(text=f"{at}", role="answer")],
        )
        for at in range(4)
    ]
    victim.written = lambda number, prompt: f"{number}" if prompt == "which?" else ""
    asked = Rows(samples, fields=ASKED)
    found = evaluate(victim, asked, ["attack"], task="answers")["attack"]
    assert found["n"] == 4
    assert found["exact"] == 1
    assert found["asr"] == found["exact_after"] == 0.5


def test_what_cannot_be_attacked_is_said_in_one_line():
    change = Shift()
    for settings, message in (
        ({"victim": object()}, "a victim needs a model with preprocess, which object has not"),
        ({"task": "painting"}, "unknown task of an attack 'painting'"),
        ({"task": "answers"}, "rows has no texts of role question and answer"),
        ({"role": "long"}, "unknown role of the texts"),
        ({"rerank": 4, "task": "captions"}, "retrieval alone reorders"),
        ({"rerank": -1}, "rerank is -1"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(change, SOURCE, ["attack"], **settings)
    with pytest.raises(InputError, match="attack needs a model with apply, which Fake has not"):
        evaluate(Fake(EYE), SOURCE, ["attack"])
    wrong = Fake(np.roll(EYE, 1, axis=0))
    wrong.embed_texts = lambda texts: torch.eye(6)[[int(text[-1]) for text in texts]]
    with pytest.raises(InputError, match="gets nothing of rows right before the attack"):
        evaluate(change, SOURCE, ["attack"], victim=wrong)


def test_a_victim_without_a_text_tower_is_refused():
    encoder = make_method("simclr", text=NO_TOWER).model
    victim = Model(
        encoder, None, Preprocess.from_dict(encoder.image.preprocess.to_dict()), name="v"
    )
    with pytest.raises(InputError, match="the victim v has no text tower, so no text can be moved"):
        evaluate(Shift(), SOURCE, ["attack"], victim=victim)
