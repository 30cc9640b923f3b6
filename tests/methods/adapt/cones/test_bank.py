"""Concepts in the place of a text tower's output: identities, what is stored, which names can be
given."""

import pytest
import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import method
from torch.nn.functional import cross_entropy, normalize

from diptych.errors import InputError
from diptych.methods.adapt.cones.bank import ConceptBank, ConceptClassifier, Rows, TextSide, padded
from diptych.models.classifier import Classifier

NAMES = ("red circle", "blue square", "bar")


def encoder_of():
    made = method("coop")
    return made.model.encoder.eval(), made.model.tokenizer


def begun(form="pooled", names=NAMES, count=None):
    encoder, words = encoder_of()
    model = ConceptClassifier(encoder, words).eval()
    model.learn(TextSide(encoder, words, model.template).concepts(names, form, count))
    return model


def test_concepts_that_begin_as_names_are_zero_shot_to_the_bit():
    encoder, words = encoder_of()
    plain = Classifier(encoder, words).eval()
    plain.set_classes(NAMES)
    with torch.no_grad():
        wanted = plain(random_images())
        model = ConceptClassifier(encoder, words).eval()
        model.learn(TextSide(encoder, words, model.template).concepts(NAMES, "pooled"))
        assert torch.equal(model(random_images()), wanted)
        model.leave_text()
        assert encoder.text is None
        assert torch.equal(model(random_images()), wanted)


def logits_and_loss(E, x, y, s):
    logits = s * x @ normalize(E, dim=-1).T
    return logits, cross_entropy(logits, y)


def test_the_gradient_is_the_sheets_and_orthogonal_to_its_concept():
    E = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    x = torch.tensor([[1.0, 1.0]]) / 2**0.5
    logits, loss = logits_and_loss(E, x, torch.tensor([0]), 10.0)
    loss.backward()
    torch.testing.assert_close(logits, torch.full((1, 2), 7.071068))
    assert loss.item() == pytest.approx(0.693147, abs=1e-6)
    torch.testing.assert_close(
        E.grad, torch.tensor([[0.0, -3.535534], [1.767767, 0.0]]), atol=1e-5, rtol=0
    )


def test_the_models_gradient_is_the_formulas():
    """dL/dE_c = s (p_c - y_c) (I - w_c w_c^T) x / ||E_c||, of a mean over images."""
    model = begun().double()
    x, y = random_images(), torch.tensor([0, 2, 1, 1])
    cross_entropy(model(x), y).backward()
    with torch.no_grad():
        E, s = model.bank.vectors, float(model.encoder.logit_scale())
        features, w = model.image_features(x), normalize(E, dim=1)
        p = (s * features @ w.T).softmax(1) - torch.nn.functional.one_hot(y, 3)
        wanted = torch.zeros_like(E)
        for c in range(3):
            along = torch.eye(E.shape[1]) - torch.outer(w[c], w[c])
            for i in range(4):
                wanted[c] += s * p[i, c] * along.double() @ features[i] / E[c].norm() / 4
        torch.testing.assert_close(model.bank.vectors.grad, wanted)
        torch.testing.assert_close((wanted * E).sum(1), torch.zeros(3).double(), atol=1e-9, rtol=0)
    assert all(p.grad is None for p in model.encoder.text.parameters())


def test_a_longer_concept_gives_the_same_logits_and_a_smaller_gradient():
    model, y = begun(), torch.tensor([0, 2, 1, 1])
    cross_entropy(model(random_images()), y).backward()
    first, gradient = model(random_images()).detach(), model.bank.vectors.grad.clone()
    with torch.no_grad():
        model.bank.vectors.mul_(4.0)
    model.zero_grad()
    cross_entropy(model(random_images()), y).backward()
    torch.testing.assert_close(model(random_images()).detach(), first, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.bank.vectors.grad, gradient / 4, rtol=1e-4, atol=1e-7)


def test_of_one_image_a_class_the_minimum_lies_beside_the_image():
    """C = 3, s = 5: E_c = x_c has loss .013386, the minimiser x_c - mean(x) .004371 at a cosine of
    .816497."""
    x, y, s = torch.eye(3), torch.arange(3), 5.0
    assert logits_and_loss(x, x, y, s)[1].item() == pytest.approx(0.013386, abs=1e-6)
    E = x.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [E], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = logits_and_loss(E, x, y, s)[1]
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() == pytest.approx(0.004371, abs=1e-6)
    cosine = (normalize(E.detach(), dim=1) * x).sum(1)
    torch.testing.assert_close(cosine, torch.full((3,), 0.816497), atol=1e-3, rtol=0)


def test_as_many_numbers_are_learnt_as_the_sheet_says():
    assert begun().bank.vectors.numel() == 3 * 32
    words = encoder_of()[1]
    named = begun("name").bank
    assert named.vectors.numel() == 32 * sum(
        len(words.ids("a photo of a " + name)) - len(words.ids("a photo of a")) for name in NAMES
    )
    assert begun("name", count=4).bank.vectors.numel() == 3 * 4 * 32
    bank = ConceptBank(768)
    bank.fill({"a prompt": Rows(torch.zeros(77, 768), [True] * 77)})
    assert bank.vectors.numel() == 59_136


def test_rows_are_the_towers_tokens_and_those_that_stay_are_not_learnt():
    encoder, words = encoder_of()
    side = TextSide(encoder, words, "a photo of a {}.")
    whole = side.concepts(NAMES, "prompt")
    rows, mask = side.tokens(words.encode([f"a photo of a {name}." for name in NAMES]))
    bank = ConceptBank(32)
    bank.fill(whole)
    values, there = bank.as_text_embeddings()
    assert torch.equal(there, mask)
    assert torch.equal(values[mask], rows[mask])
    assert bool((values[~mask] == 0).all())
    named = side.concepts(NAMES, "name")
    for name in NAMES:
        learnt = torch.tensor(whole[name].learnt)
        assert torch.equal(whole[name].values[learnt], named[name].values)
        before = len(words.before) + len(words.ids("a photo of a"))
        assert not learnt[:before].any()
        assert not learnt[-1]
        assert learnt[before]
    with torch.no_grad():
        bank.vectors.add_(1)
    learnt = torch.tensor([flag for name in NAMES for flag in whole[name].learnt])
    changed = (bank.as_text_embeddings()[0] != values).any(-1)[mask]
    assert torch.equal(changed, learnt)


def test_rows_begin_anew_behind_the_last_token():
    encoder, words = encoder_of()
    side = TextSide(encoder, words, "a photo of a {}.")
    [own] = side.concepts(["red circle"], "name").values()
    [five] = side.concepts(["red circle"], "name", 5).values()
    assert torch.equal(five.values, own.values[torch.arange(5) % len(own.values)])


def test_norms_are_kept_where_asked():
    bank = begun().bank
    norms = bank.vectors.detach().norm(dim=1)
    with torch.no_grad():
        bank.vectors.mul_(3).add_(0.5)
    moved = normalize(bank.vectors.detach(), dim=1)
    bank.keep_norms()
    torch.testing.assert_close(bank.vectors.detach().norm(dim=1), norms)
    torch.testing.assert_close(normalize(bank.vectors.detach(), dim=1), moved)


def test_a_bank_alone_goes_through_a_file(tmp_path):
    encoder, words = encoder_of()
    bank = ConceptBank(32)
    bank.fill(TextSide(encoder, words, "a photo of a {}.").concepts(NAMES, "prompt"))
    bank.save(tmp_path / "bank.safetensors")
    again = ConceptBank.load(tmp_path / "bank.safetensors")
    assert again.names == NAMES
    for one, other in zip(again.as_text_embeddings(), bank.as_text_embeddings(), strict=True):
        assert torch.equal(one, other)
    (tmp_path / "other").write_bytes(b"nothing")
    for path in ("other", "missing"):
        with pytest.raises(InputError, match="holds no bank"):
            ConceptBank.load(tmp_path / path)


def test_learnt_concepts_and_ordinary_names_are_classes_together():
    model = begun()
    with torch.no_grad():
        model.bank.vectors.neg_()
        learnt = model.text_features()
        model.set_classes(["a triangle", "bar", "red circle"])
        mixed = model.text_features()
        plain = Classifier(model.encoder, model.tokenizer).eval()
        plain.set_classes(["a triangle"])
        torch.testing.assert_close(
            mixed, torch.stack([plain.text_features()[0], learnt[2], learnt[0]])
        )
    model.leave_text()
    model.set_classes(["bar", "red circle"])
    torch.testing.assert_close(model.text_features(), learnt[[2, 0]])
    with pytest.raises(
        InputError, match=r"'a triangle' is no concept that was learnt .*keep_text true"
    ):
        model.set_classes(["bar", "a triangle"])


def test_means_of_images_are_those_of_each_class():
    model = begun()
    features = normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    means = model.image_means(features, torch.tensor([0, 2, 1, 2, 0]))
    torch.testing.assert_close(means[2], features[[1, 3]].mean(0))
    with pytest.raises(InputError, match="no image is of 'blue square'"):
        model.image_means(features, torch.tensor([0, 2, 0, 2, 0]))


def test_rows_of_several_lengths_are_padded():
    values, mask = padded([torch.ones(2, 3), torch.ones(1, 3)])
    assert values.sum() == 9
    assert mask.tolist() == [[True, True], [True, False]]


def test_a_plain_model_takes_concepts_in_the_texts_place():
    from diptych.models.model import Model

    searched = begun()
    with torch.no_grad():
        searched.bank.vectors.add_(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)))
        wanted = searched(random_images())
    plain = Model(searched.encoder, searched.tokenizer, searched.image.preprocess, name="plain")
    plain.set_classes(NAMES, text_embeddings=searched.bank.as_text_embeddings()[0][:, 0])
    torch.testing.assert_close(plain.class_logits(random_images()), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"\(2, 32\) are no vectors of 3 classes; give \(3, 32\)"):
        plain.set_classes(NAMES, text_embeddings=torch.zeros(2, 32))
