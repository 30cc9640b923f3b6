"""MoCoOp: its identities with CoOp and with the templates, its loss in loops, names, routing, what
learns."""

import copy
import json
import math

import pytest
import torch
from tests.factories import AT, random_images, tokenizer
from tests.methods.adapt.helpers import CLIP_B16, NAMES, learnt, method
from torch.nn.functional import cross_entropy, normalize

from diptych.data.batch import Batch, Images
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.adapt.mocoop.mixture import MixtureModel, mixing
from diptych.methods.make import Make
from diptych.methods.registry import method_class
from diptych.training import optim
from diptych.training.config import resolve

GROUPS = {"plain": ["a {}."], "this": ["the {}.", "that {}."], "line": ["{} on a line."]}


def mocoop(groups=None, **config):
    return method("mocoop", templates=groups or GROUPS, **config)


def batch_of(count=6):
    return Batch(
        images={"main": Images(random_images(count)[:, None])},
        fields={"class": torch.arange(count) % len(NAMES)},
        keys=tuple(map(str, range(count))),
    )


def losses(made, count=6):
    batch = batch_of(count)
    return made.loss(made.encode(batch, AT), batch, AT)


def said(made, prompts, correction=None):
    """The texts of whole prompts, one by one."""
    encoder, words = made.model.encoder, made.model.tokenizer
    rows = []
    for prompt in prompts:
        [ids] = words.encode([prompt])
        pooled = encoder.encode_text(torch.tensor([ids]), torch.tensor([len(ids)])).pooled
        rows.append(encoder.project_text(pooled)[0] + (0 if correction is None else correction))
    return normalize(torch.stack(rows), dim=1)


def alter(made, seed=3):
    """Move all that learns away from where it began."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (made.model.context, made.model.correction, made.model.router.weight):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def test_the_sheets_two_groups_and_their_weights():
    weights = mixing(torch.tensor([[0.2, 1.0, -0.5, 0.6]]), 2)
    assert weights[0].tolist() == pytest.approx([0, 0.598688, 0, 0.401312], abs=1e-6)
    assert weights.norm().item() == pytest.approx(
        0.720749, abs=1e-6
    )  # of two orthonormal texts: not made unit
    whole = torch.randn(3, 4)
    torch.testing.assert_close(mixing(whole, 4), whole.softmax(1))


def test_soft_prompts_begin_as_the_first_template_of_their_group_stop_included():
    made = mocoop()
    with torch.no_grad():
        texts = made.model.text_features()
        for group, templates in zip(texts, GROUPS.values(), strict=True):
            expected = said(made, [templates[0].replace("{}", name) for name in NAMES])
            torch.testing.assert_close(group, expected, atol=1e-5, rtol=1e-5)
        hard = made.model.prototypes()
    torch.testing.assert_close(
        texts[[0, 2]], hard[[0, 2]], atol=1e-5, rtol=1e-5
    )  # groups of one template: t = p
    both = torch.stack(
        [said(made, [t.replace("{}", name) for name in NAMES]) for t in GROUPS["this"]]
    )
    torch.testing.assert_close(hard[1], normalize(both.mean(0), dim=1), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(texts[1], hard[1], atol=1e-3)


def test_the_correction_is_added_before_texts_are_made_unit():
    made = alter(mocoop()).eval()
    plain = mocoop().eval()
    plain.model.context.data.copy_(made.model.context)
    model = plain.model
    which = torch.arange(len(model.ids))
    pooled = model.encoder.encode_text(
        None, model.lengths, embeddings=model.embeddings(model.context, which)
    ).pooled
    raw = model.encoder.project_text(pooled)
    assert (raw.norm(dim=1) - 1).abs().min() > 0.1, "unit already: the order would not show"
    found = made.model.text_features()
    torch.testing.assert_close(found.flatten(0, 1), normalize(raw + made.model.correction, dim=1))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(found.shape[:2]))


def test_vectors_take_the_place_of_words_on_both_sides_and_of_no_other():
    model, words = mocoop().model, tokenizer()
    counts = [len(words.ids("a")), len(words.ids("the")), len(words.ids("on a line"))]
    assert model.context.shape == (sum(counts), 32)
    rows, first = model.slots.unflatten(0, (3, len(NAMES))), 0
    for group, (count, template) in enumerate(
        zip(counts, ("a {}.", "the {}.", "{} on a line."), strict=True)
    ):
        for slots, ids, name in zip(
            rows[group], model.ids.unflatten(0, (3, -1))[group], NAMES, strict=True
        ):
            assert [int(slot) for slot in slots if slot >= 0] == list(range(first, first + count))
            kept = [
                int(token)
                for token, slot in zip(ids, slots, strict=True)
                if slot < 0 and int(token) != words.pad
            ]
            named = words.ids(f"a {name}.")[len(words.ids("a")) :]
            assert kept == [*words.before, *named, *words.after], template
        first += count


def test_one_group_is_coop_from_the_same_template():
    one = mocoop({"one": ["a {} on a line."]}, k=1, text=0.0, gate=0.0, norms=0.0)
    coop = method("coop", template="a {} on a line.", position="around")
    assert learnt(coop) == one.model.context.numel()
    batch = batch_of()
    theirs = coop.loss(coop.encode(batch, AT), batch, AT).total
    ours = losses(one).total
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(
        one.model.context.grad, coop.model.context.grad, atol=1e-3, rtol=1e-3
    )


def test_equal_prompts_are_one_whatever_the_router_says():
    same = alter(mocoop({name: ["a {}."] for name in "abc"}))
    with torch.no_grad():
        same.model.context.copy_(same.model.context[:1].expand_as(same.model.context))
        texts = same.model.text_features()
        expected = (
            same.model.encoder.logit_scale()
            * same.model.image_features(random_images())
            @ texts[0].T
        )
        torch.testing.assert_close(same.model(random_images()), expected, atol=1e-4, rtol=1e-4)


def test_the_order_of_groups_changes_no_logit():
    made = alter(mocoop())
    order = [2, 0, 1]
    turned = mocoop({list(GROUPS)[at]: list(GROUPS.values())[at] for at in order})
    with torch.no_grad():
        firsts = [template.first for template in made.model.templates]
        parts = made.model.context.split([template.n_ctx for template in made.model.templates])
        turned.model.context.copy_(torch.cat([parts[at] for at in order]))
        turned.model.correction.copy_(made.model.correction)
        turned.model.router.weight.copy_(made.model.router.weight[order])
        turned.model.router.bias.copy_(made.model.router.bias[order])
        torch.testing.assert_close(
            turned.model(random_images()), made.model(random_images()), atol=1e-4, rtol=1e-4
        )
    assert firsts[0] == 0
    assert losses(turned).total.item() == pytest.approx(losses(made).total.item(), rel=1e-4)


def test_all_groups_are_the_soft_ensemble_of_their_texts():
    made = alter(mocoop(k=3))
    with torch.no_grad():
        x, texts = made.model.image_features(random_images()), made.model.text_features()
        mixture = torch.einsum("ng,gce->nce", made.model.router(x).softmax(1), texts)
        expected = made.model.encoder.logit_scale() * torch.einsum("ne,nce->nc", x, mixture)
        torch.testing.assert_close(made.model(random_images()), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            made.model.class_features(random_images()), mixture, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(("count", "temperature"), [(6, None), (6, 0.1), (2, None)])
def test_the_loss_is_that_of_loops(count, temperature):
    made = alter(mocoop(text_temperature=temperature, text=3.0, gate=0.5))
    found, model = losses(made, count), made.model
    with torch.no_grad():
        x, r, t, p = (
            part.double()
            for part in (
                model.image_features(random_images(count)),
                model.router(model.image_features(random_images(count))),
                model.group_features(),
                model.prototypes(),
            )
        )
    s, C = float(model.encoder.logit_scale()), len(NAMES)
    chosen = {g for b in range(count) for g in r[b].topk(2).indices.tolist()}
    classes = gate = text = 0.0
    for b in range(count):
        y, (first, second) = b % C, r[b].topk(2).indices.tolist()
        a = math.exp(r[b, first]) / (math.exp(r[b, first]) + math.exp(r[b, second]))
        logits = [s * float(x[b] @ (a * t[first, c] + (1 - a) * t[second, c])) for c in range(C)]
        classes += math.log(sum(math.exp(value - logits[y]) for value in logits))
        q = torch.stack([x[b] @ p[g, y] for g in range(3)])
        q[q.topk(2).indices] += 10
        gate -= float(q.softmax(0) @ r[b].log_softmax(0))
    for g in range(3):
        for c in range(C):
            row = t[g, c] if count >= 4 or g in chosen else torch.zeros_like(t[g, c])
            logits = p[g] @ row / (temperature or 1)
            text += float(logits.logsumexp(0) - logits[c])
    terms = {name: value.item() for name, value in found.terms.items()}
    expected = {"classes": classes / count, "text": 3 * text / (3 * C), "gate": 0.5 * gate / count}
    assert terms == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_group_that_few_images_did_not_choose_gets_no_gradient():
    made = mocoop()
    with torch.no_grad():
        made.model.router.bias.copy_(torch.tensor([9.0, 0.0, 9.0]))
    for count, still in ((2, True), (4, False)):
        made.zero_grad()
        losses(made, count).total.backward()
        template = made.model.templates[1]
        gradient = made.model.context.grad[template.first : template.first + template.n_ctx]
        assert bool((gradient == 0).all()) == still


def test_the_target_of_the_gate_carries_no_gradient_and_its_scores_do():
    made = mocoop(text=0.0)
    batch = batch_of()
    features = made.encode(batch, AT)
    image = features["image"].detach().requires_grad_()
    made.loss({"image": image}, batch, AT).terms["gate"].backward()
    scores, near = (
        made.model.router(image),
        torch.einsum("be,gbe->bg", image, made.model.prototypes()[:, [0, 1, 2] * 2]),
    )
    target = (
        (near + 10 * torch.zeros_like(near).scatter(1, near.topk(2, dim=1).indices, 1))
        .softmax(1)
        .detach()
    )
    [expected] = torch.autograd.grad(cross_entropy(scores, target), image)
    torch.testing.assert_close(image.grad, expected, atol=1e-6, rtol=1e-4)


def test_names_of_other_classes_teach_the_texts_alone():
    made = mocoop(names="green triangle, red circle")
    assert made.model.classes == NAMES
    assert made.model.names == (*NAMES, "green triangle")
    assert made.model(random_images()).shape == (4, 3)
    assert made.model.prototypes().shape == (3, 4, 32)
    plain = mocoop()
    torch.testing.assert_close(
        made.model(random_images()), plain.model(random_images()), atol=1e-4, rtol=1e-4
    )
    ours, theirs = losses(made).terms, losses(plain).terms
    for name in ("classes", "gate"):
        assert ours[name].item() == pytest.approx(theirs[name].item(), abs=1e-4)
    assert ours["text"].item() != pytest.approx(theirs["text"].item(), abs=1e-3)


def test_new_names_have_the_same_prompts_and_prototypes_of_their_own():
    made = alter(mocoop())
    before = made.model.prototypes()
    assert made.model.prototypes() is before  # once for a set of names
    made.model.set_classes(["green bar", "red circle"])
    with torch.no_grad():
        assert made.model(random_images()).shape == (4, 2)
        one = alter(mocoop(), seed=3)
        torch.testing.assert_close(
            made.model.text_features()[:, 1], one.model.text_features()[:, 0], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            made.model.prototypes()[:, 1], before[:, 0], atol=1e-5, rtol=1e-5
        )
    assert not made.model.prototypes().requires_grad


def test_what_learns_and_at_which_rate():
    made = mocoop()
    [stage] = made.stages()
    optim.freeze(made, stage.lr_scale)
    groups = optim.build(made, made.presets["small"].recipe, stage.lr_scale).param_groups
    rates = {
        name.removeprefix("model."): group["multiplier"]
        for group in groups
        for name in group["names"]
    }
    norms = {
        f"encoder.image.transformer.layers.{at}.norm{one}.{part}"
        for at in range(3)
        for one in (1, 2)
        for part in ("weight", "bias")
    }
    own = {"context", "correction", "router.weight", "router.bias"}
    assert rates == {**dict.fromkeys(norms, 0.1), **dict.fromkeys(own, 1.0)}
    still = mocoop(norms=0.0)
    optim.freeze(still, still.stages()[0].lr_scale)
    assert {name for name, p in still.model.named_parameters() if p.requires_grad} == own
    assert losses(made).total.item() == pytest.approx(losses(still).total.item(), rel=1e-5)


def test_as_many_numbers_are_learnt_as_the_sheet_says():
    """ViT-B/16, four groups: their words, w, the router; and two norms in each of twelve blocks."""
    with torch.device("meta"):
        cls, words = method_class("mocoop"), build("clip")
        made = cls(cls.configure({}), Make(**CLIP_B16, tokenizer=words))
    soft = sum(
        len(words.ids(text))
        for text in (
            "a photo of a",
            "a photo of many",
            "a low resolution photo of a",
            "a good photo of a",
        )
    )
    assert soft == 4 + 4 + 6 + 5
    assert learnt(made) == soft * 512 + 512 + (512 * 4 + 4) + 12 * 2 * 2 * 768


def test_images_keep_all_their_patches_while_the_norms_learn():
    made = method(
        "mocoop",
        templates=GROUPS,
        image="vit:image_size=32:patch=8:width=64:depth=2:pre_norm=true:patch_dropout=0.5",
    )
    calm = made.encode(batch_of(), AT)["image"]
    torch.testing.assert_close(made.train().encode(batch_of(), AT)["image"], calm)


def test_images_are_told_their_groups():
    made = alter(mocoop())
    model = MixtureModel(made.model, made.model.image.preprocess, name="here")
    found, weights = model.route(random_images()), made.model.route(random_images())
    for reported, row in zip(found, weights, strict=True):
        assert len(reported) == 2
        assert reported[0][1] >= reported[1][1] > 0
        assert sum(share for _, share in reported) == pytest.approx(1, abs=1e-6)
        assert dict(reported) == pytest.approx(
            {name: w for name, w in zip(GROUPS, row.tolist(), strict=True) if w}
        )
    assert copy.copy(model).class_logits(random_images()).shape == (4, 3)


def test_a_run_keeps_the_templates_and_not_the_name_of_their_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GROUPS))
    config = resolve("mocoop", {"train": "scenes"}, init="tiny", config={"templates": str(path)})
    assert config.config["templates"] == GROUPS
    bank = resolve("mocoop", {"train": "scenes"}, init="tiny")
    assert list(bank.config["templates"]) == ["plain", "many", "poor", "good"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"k": 4}, "k is 4 and there are 3 groups"),
        ({"k": 0}, "'k' of method MoCoOp is 0"),
        ({"text": -1.0}, "'text' of method MoCoOp is -1.0"),
        ({"text_temperature": 0.0}, "'text_temperature' of method MoCoOp is 0.0"),
        ({"groups": {"one": ["a {}."], "two": []}}, "group 'two' of the templates: no template"),
        ({"groups": {"one": "a {}."}}, "no groups of templates"),
        ({"groups": {"one": ["{}."]}, "k": 1}, "nothing to learn"),
        ({"image": "conv:image_size=32:widths=(16,32):depths=(1,1)"}, "set norms=0"),
        (
            {
                "groups": {"one": ["a {}.", "a {} which is very, very, very far away from here."]},
                "k": 1,
            },
            "does not fit",
        ),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        losses(mocoop(**config))


@pytest.mark.parametrize(
    ("learnt_from", "said"),
    [("two things", "share a token with it"), ("two circles", "have other tokens than elsewhere")],
)
def test_words_that_grow_together_with_the_name_are_told(learnt_from, said):
    words = build("bpe:vocab_size=300:context=24", ["a thing", "a circle", learnt_from] * 9)
    with pytest.raises(InputError, match=f"{said}; put a blank between"):
        mocoop({"one": ["a {}s."]}, k=1, words=words, classes=("circle", "bar"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"position": "around", "n_ctx": 3}, "leave n_ctx out"),
        ({"position": "around", "template": "{}."}, "nothing to learn"),
    ],
)
def test_coop_around_a_name_is_told_what_it_cannot_do(config, said):
    with pytest.raises(InputError, match=said):
        method("coop", **config)
