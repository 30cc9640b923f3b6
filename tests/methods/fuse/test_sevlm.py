"""SEVLM: the losses against the published figures and a slow reference, the VAD of words and what may
know it, views, and what a run stores."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import make_method, random_images, small_make
from tests.methods.fuse.sevlm_helpers import AT, LM, SAID, batch, felt, lively, made, saved, words

from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import BadSample, Sample, Text
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.fuse.sevlm.losses import (
    ConsistencyHead,
    affect_errors,
    consistency_loss,
    deranged,
)
from diptych.methods.fuse.sevlm.views import PairedView, Phrasing
from diptych.methods.make import Make
from diptych.rng import generator

# ---- the losses


def test_the_consistency_loss_is_the_published_one():
    ones = torch.ones(3, 2, dtype=torch.float64)
    assert float(consistency_loss(ones, ones, ones)) == pytest.approx(math.log(3), abs=1e-12)
    found = consistency_loss(2 * ones, ones, 0 * ones)
    assert float(found) == pytest.approx(0.407606, abs=1e-6)
    assert float(consistency_loss(1e4 * ones, ones, ones)) == 0  # the published form overflows
    assert float(consistency_loss(0 * ones, 1e4 * ones, ones)) == pytest.approx(1e4)


def test_affect_counts_known_words_alone():
    predicted = torch.tensor([[[0.5, 0.5, 0.5], [0.2, 0.1, 0.0], [9.0, 9.0, 9.0]]])
    target = torch.tensor([[[0.7, 0.4, 0.5], [0.2, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    every = torch.ones(1, 3, dtype=torch.bool)
    errors, count = affect_errors(predicted, target, every)
    assert int(count) == 2
    assert float(errors / (3 * count)) == pytest.approx(0.01, abs=1e-7)
    errors, count = affect_errors(predicted, target, every & torch.tensor([False, True, True]))
    assert float(errors / (3 * count)) == pytest.approx(0.01 / 3, abs=1e-7)
    errors, count = affect_errors(predicted, torch.zeros_like(target), every)
    assert (float(errors), int(count)) == (0, 0)


def test_the_head_has_the_published_size():
    head = ConsistencyHead(768, 768)
    assert sum(parameter.numel() for parameter in head.parameters()) == 3_542_785


@given(st.integers(2, 40), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_another_images_explanation_is_never_the_own(count, seed):
    order = deranged(count, generator(seed, "test"))
    assert sorted(order.tolist()) == list(range(count))
    assert all(at != other for at, other in enumerate(order.tolist()))


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def linear(layer, x):
    return [dot(row, x) + float(b) for row, b in zip(layer.weight, layer.bias, strict=True)]


def norm(layer, x):
    mean = sum(x) / len(x)
    spread = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + layer.eps)
    rows = zip(x, layer.weight, layer.bias, strict=True)
    return [(v - mean) / spread * float(w) + float(b) for v, w, b in rows]


def plus(a, b):
    return [float(x) + float(y) for x, y in zip(a, b, strict=True)]


def encoded(vad, values, causal):
    """The VAD encoder, token by token."""
    x = [norm(vad.norm, plus(value, vad.positions[t])) for t, value in enumerate(values)]
    for layer in vad.layers:
        found = []
        for t in range(len(x)):
            seen = x[: t + 1] if causal else x
            q = linear(layer.q, x[t])
            scores = [math.exp(dot(q, linear(layer.k, other)) / math.sqrt(3)) for other in seen]
            mixed = [0.0, 0.0, 0.0]
            for score, other in zip(scores, seen, strict=True):
                mixed = plus(mixed, [score / sum(scores) * v for v in linear(layer.v, other)])
            h = norm(layer.norm1, plus(x[t], mixed))
            hidden = [max(v, 0.0) for v in linear(layer.mlp[0], h)]
            h = norm(layer.norm2, plus(h, linear(layer.mlp[2], hidden)))
            found.append(plus(x[t], h))
        x = found
    return x


def read(method, ids, patches, split):
    """The decoder's tokens (L, D) of one text: what goes into the blocks is computed by hand."""
    lm = method.model.lm
    V = lm.table.num_embeddings - 2
    e = encoded(lm.vad, [lm.lexicon[i] for i in ids], causal=lm.vad.causal)
    rows = []
    for t, i in enumerate(ids):
        segment = lm.table.weight[V + 1 if t >= split - 1 else V]
        h = plus(plus(lm.table.weight[i], lm.tower.positions[t]), segment)
        rows.append(linear(lm.fuse, [*h, *e[t]]) if t >= split else h)
    x = torch.tensor(rows, dtype=torch.float64)[None]
    return lm.tower.norm(lm.tower.blocks(x, memory=patches[None]))[0]


def score(head, *parts):
    x = torch.cat(parts).tolist()
    layers = [layer for layer in head.mlp if isinstance(layer, torch.nn.Linear)]
    for layer in layers[:-1]:
        x = [max(v, 0.0) for v in linear(layer, x)]
    return linear(layers[-1], x)[0]


@torch.no_grad()
def test_a_step_is_that_of_the_paper_loop_by_loop():
    method = lively(made())
    source = felt(3)
    given_batch = batch(method, source)
    model = method.model
    tokens = words()
    logs, count, errors, known = 0.0, 0, 0.0, 0
    v, m, x = [], [], []
    for at in range(3):
        seen = model.encoder.image(given_batch.image.flat[at : at + 1])
        patches = seen.tokens[0, seen.prefix :]
        v.append(patches.mean(0))
        for slot in range(2):
            emotion, text = SAID[(at + slot) % 4]
            before = tokens.ids(f"the emotion is {emotion} because")
            ids = [1, *before, *tokens.ids(text), 2]
            split = 1 + len(before)
            assert given_batch.text.ids[at, slot, : len(ids)].tolist() == ids
            hidden = read(method, ids, patches, split)
            for t in range(1, len(ids)):
                scores = model.lm.table.weight @ hidden[t - 1]
                logs += float(scores[ids[t]] - scores.exp().sum().log())
                count += 1
                target = model.lm.lexicon[ids[t]].tolist()
                if t >= split and any(target):
                    told = linear(method.predictor, hidden[t - 1].tolist())
                    errors += sum((a - b) ** 2 for a, b in zip(told, target, strict=True))
                    known += 1
            m.append(hidden[:split].mean(0))
            x.append(hidden[split:].mean(0))
    others = deranged(3, generator(AT.seed, "derangement", AT.stage, AT.step))
    total = 0.0
    for row in range(6):
        at, slot = divmod(row, 2)
        rivals = (x[row], x[2 * at + 1 - slot], x[2 * int(others[at]) + slot])
        right, *wrong = (score(model.consistency, v[at], m[row], other) for other in rivals)
        total -= right - math.log(sum(math.exp(each) for each in (right, *wrong)))
    assert known >= 6
    losses = method.loss(method.encode(given_batch, AT), given_batch, AT)
    assert float(losses.terms["words"]) == pytest.approx(-logs / count, abs=1e-9)
    assert float(losses.terms["vad"]) == pytest.approx(errors / (3 * known), abs=1e-9)
    assert float(losses.terms["contrastive"]) == pytest.approx(total / 6, abs=1e-9)


@torch.no_grad()
def test_weights_and_controls():
    source = felt(4)
    plain = lively(made())
    losses = plain.loss(plain.encode(batch(plain, source), AT), batch(plain, source), AT)
    heavy = lively(made(vad=2.0, contrastive=0.5))
    other = heavy.loss(heavy.encode(batch(heavy, source), AT), batch(heavy, source), AT)
    assert float(other.terms["vad"]) == pytest.approx(2 * float(losses.terms["vad"]))
    assert float(other.terms["contrastive"]) == pytest.approx(
        0.5 * float(losses.terms["contrastive"])
    )
    words_alone = made(lexicon=None, contrastive=0.0)
    found = words_alone.loss(words_alone.encode(batch(words_alone, source), AT), None, AT)
    assert set(found.terms) == {"words"}
    assert (
        words_alone.predictor is words_alone.model.lm.vad is words_alone.model.consistency is None
    )
    assert [stage.lr_scale for stage in words_alone.stages()] == [{}]
    features = plain.encode(batch(plain, source), AT)
    copied = lively(made(partner="copy"))
    right, partner, _ = copied.scores(features, deranged(4, generator(0)))
    assert torch.equal(right, partner)
    right, partner, _ = plain.scores(features, deranged(4, generator(0)))
    assert not torch.allclose(right, partner)
    swapped = {**features, "explanation": features["explanation"].flip(1)}
    again, back, _ = plain.scores(swapped, deranged(4, generator(0)))
    assert torch.equal(again, partner)
    assert torch.equal(back, right)  # to swap twice is to swap not at all


@torch.no_grad()
def test_texts_without_affect_have_no_loss_of_it():
    method = made()
    given_batch = batch(method, felt(2))
    features = method.encode(given_batch, AT)
    features |= {"errors": features["errors"] * 0, "affect": features["affect"] * 0}
    assert float(method.loss(features, given_batch, AT).terms["vad"]) == 0


def test_gradients_reach_every_part_but_the_image_tower():
    method = made()
    given_batch = batch(method, felt(4))
    method.loss(method.encode(given_batch, AT), given_batch, AT).total.backward()
    without = {name.split(".")[1] for name, p in method.named_parameters() if p.grad is None}
    assert without == {"encoder"}
    [stage] = method.stages()
    assert stage.lr_scale == {"model.lm.vad": 2.0}


# ---- what may know which affect


def states(method, changed=None, component=0):
    """The decoder's tokens of a text, of which the VAD at one place is changed in one component."""
    ids = torch.tensor(
        [[1, *words().ids("the emotion is awe because the golden skies look majestic")]]
    )
    lm = method.model.lm
    values = lm.values(ids).clone()
    if changed is not None:
        values[0, changed] += torch.eye(3)[component] if component < 3 else torch.ones(3)
    memory = torch.linspace(-1, 1, 4 * 32, dtype=torch.float64).view(1, 4, 32)
    lm.values = lambda _: values
    found = lm(ids, memory=memory)[0]
    del lm.values
    return found


@torch.no_grad()
def test_no_token_knows_the_affect_of_later_words():
    causal = lively(made())
    ahead = lively(made(causal_vad=False))
    last = len(states(causal)) - 1
    assert last == 10
    for method in (causal, ahead):
        for place in range(last + 1):
            moved = (states(method, place) - states(method)).abs().amax(1) > 1e-9
            assert not moved[:6].any()  # neither the opening nor the emotion
            first = place if method is causal else 6
            assert not moved[: max(first, 6)].any()
            assert bool(moved[max(first, 6) :].any())
    assert (states(causal, last) - states(causal))[:last].abs().max() < 1e-12
    assert (states(ahead, last) - states(ahead))[6:last].abs().min() > 0
    for method in (causal, ahead):  # the first norm takes away what all three share
        assert (states(method, last, component=3) - states(method)).abs().max() < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_decoding_reads_what_one_pass_over_each_beginning_reads(causal):
    lm = lively(made(causal_vad=causal)).model.lm
    ids = torch.tensor([[1, *words().ids("the emotion is fear because the dark storm")]])
    memory = torch.linspace(-1, 1, 4 * 32, dtype=torch.float64).view(1, 4, 32)
    state = lm.start(ids[:, :3], memory=memory)
    for end in range(3, ids.shape[1]):
        assert torch.allclose(
            state.hidden[:, -1], lm(ids[:, :end], memory=memory)[:, -1], atol=1e-10
        )
        state = lm.next(state, ids[:, end])
    padded = torch.cat([ids[:, :5], torch.zeros(1, 2, dtype=torch.long)], 1)
    mask = torch.arange(7)[None] < 5
    state = lm.start(padded, mask, memory)
    alone = lm.start(ids[:, :5], memory=memory)
    for end in range(5, ids.shape[1]):
        assert torch.allclose(state.logits, alone.logits, atol=1e-5)
        state = lm.next(state, ids[:, end])
        alone = lm.next(alone, ids[:, end])


@torch.no_grad()
def test_the_probability_of_a_text_is_that_of_decoding_it():
    for causal in (True, False):
        method = lively(made(causal_vad=causal))
        lm = method.model.lm
        ids = torch.tensor([[1, *words().ids("the emotion is fear because the dark storm"), 2]])
        memory = torch.linspace(-1, 1, 4 * 32, dtype=torch.float64).view(1, 4, 32)
        found = lm.log_prob(ids, torch.tensor([ids.shape[1]]), memory=memory)
        expected = 0.0
        for end in range(1, ids.shape[1]):
            logits = lm.logits(lm(ids[:, :end], memory=memory)[0, -1])
            expected += float(logits.log_softmax(-1)[ids[0, end]])
        assert float(found) == pytest.approx(expected, abs=1e-9)
        at_once = lm.log_probs_of(lm(ids, memory=memory), ids, torch.tensor([ids.shape[1]])).sum()
        assert (abs(float(at_once) - expected) < 1e-9) == causal  # the leak


# ---- parts of a text


@torch.no_grad()
def test_explanations_begin_behind_the_first_joint_or_at_a_fixed_place():
    tokens = words()
    method = made()
    rows = [f"the emotion is {emotion} because {text}" for emotion, text in SAID[:2]]
    for row in rows:
        ids = torch.tensor([[1, *tokens.ids(row)]])
        joint = ids[0].tolist().index(*tokens.ids("because"))
        segment, explains = method.model.lm.parts(ids)
        assert int(segment.int().argmax()) == joint
        assert int(explains.int().argmax()) == joint + 1
        assert bool(segment[0, joint:].all())
        fixed = made(split=6).model.lm
        segment, explains = fixed.parts(ids)
        assert (int(segment.int().argmax()), int(explains.int().argmax())) == (5, 6)
    several = made(joint="because of the").model.lm
    ids = torch.tensor([[1, *tokens.ids("the emotion is awe because because of the red")]])
    assert several.parts(ids)[1].sum() == 1
    assert several.parts(ids[:, :2])[1].sum() == 0
    mask = torch.arange(8)[None] >= torch.tensor([[2]])
    assert fixed.parts(torch.zeros(1, 8, dtype=torch.long), mask)[1].sum() == 0


@torch.no_grad()
def test_padding_changes_nothing_but_where_the_release_counts_it():
    source = felt(4)
    plain = lively(made())
    given_batch = batch(plain, source)
    longer = given_batch.map(lambda t: torch.nn.functional.pad(t, (0, 5)) if t.ndim == 3 else t)
    one, other = plain.encode(given_batch, AT), plain.encode(longer, AT)
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=1e-9), name
    counted = lively(made(pads=True, length=30))
    ids, _ = given_batch.text.flat
    ids = torch.nn.functional.pad(ids, (0, 30 - ids.shape[1]))
    memory = counted.model.see(given_batch.image.flat).repeat_interleave(2, 0)
    hidden = counted.model.lm(ids, memory=memory)
    found = counted.encode(given_batch, AT)["explanation"].flatten(0, 1)
    for row in range(8):
        joint = ids[row].tolist().index(*words().ids("because"))
        assert torch.allclose(found[row], hidden[row, joint + 1 :].mean(0))


def view(length=30):
    return PairedView(phrasing=Phrasing(tokenizer=words()), length=length)


def test_the_two_texts_of_a_sample_have_different_emotions():
    source = felt(4)
    tokens = words()
    drawn = set()
    for epoch in range(60):
        rows = view()(source[1], generator(epoch, "view"), 0.5)["texts.main"]
        said = [tokens.decode(row[1:-1]) for row in rows]
        emotions = [text.removeprefix("the emotion is ").split(" because ")[0] for text in said]
        assert len(set(emotions)) == 2
        drawn.add(tuple(said))
    assert len(drawn) == 6  # of three emotions
    first = view()(source[1], generator(0), None)["texts.main"]
    assert first == view()(source[1], generator(1), None)["texts.main"]
    one = [Text(text="awe", role="emotion"), Text(text="vast", role="explanation")]
    with pytest.raises(BadSample, match="no two different emotions"):
        view()(Sample(key="a", source="", texts=one * 2), generator(0), 0.5)


def test_a_text_that_is_cut_has_no_end():
    whole, other = view()(felt(4)[0], generator(0), None)["texts.main"]
    assert (whole[0], whole[-1]) == (1, 2)
    cut, _ = view(len(other) - 1)(felt(4)[0], generator(0), None)["texts.main"]
    assert cut == whole[: len(cut)]
    assert 2 not in view(len(other) - 1)(felt(4)[0], generator(0), None)["texts.main"][1]
    with pytest.raises(BadSample, match="no-room"):
        view(6)(felt(4)[0], generator(0), None)


# ---- what a run stores


@torch.no_grad()
def test_a_run_writes_emotions_and_explanations(tmp_path):
    method = make_method("sevlm", 3, words=words(), lm=LM).eval()
    images = random_images(3)
    preprocess = method.model.image.preprocess
    model = method.model.to_model(method.make.tokenizer, preprocess, "mine")
    again = saved(method, tmp_path / "run")
    texts = model.generate(images, max_tokens=5)
    assert again.generate(images, max_tokens=5) == texts
    told = again.explain(images, max_tokens=5)
    assert [each.emotion for each in told] == [again.parts(text)["emotion"] for text in texts]
    given_emotion = again.explain(images, ["awe", "fear", "awe"], max_tokens=4)
    assert [each.emotion for each in given_emotion] == ["awe", "fear", "awe"]
    alone = again.consistency(images[1:2], ["fear"], [given_emotion[1].text])
    assert given_emotion[1].score == pytest.approx(float(alone), abs=1e-5)
    assert torch.allclose(
        again.log_prob(images, ["awe because calm"] * 3),
        model.log_prob(images, ["awe because calm"] * 3),
    )
    assert torch.equal(again.captioner.lm.lexicon, method.model.lm.lexicon)
    assert again.captioner.words == words()


def test_training_goes_on_from_a_run(tmp_path):
    first = make_method("sevlm", 3, words=words(), lm=LM).eval()
    start = saved(first, tmp_path / "run")
    second = make_method("sevlm", 4, make=Make.of(start), lm="tiny-lm")
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, first.model.state_dict()[name]), name
    assert second.model.words == words()
    with pytest.raises(InputError, match="the options that it was trained with"):
        make_method("sevlm", make=Make.of(start), contrastive=0.0)


def test_bad_options():
    with pytest.raises(InputError, match="no token of the language model is a word of the lexicon"):
        make_method("sevlm", words=build("bpe:vocab_size=259:context=24", ["ab"]), lm=LM)
    with pytest.raises(InputError, match="the joint between emotion and explanation is empty"):
        made(joint=" ")
    with pytest.raises(InputError, match="start from a model with an image tower"):
        make_method("sevlm", make=small_make(image="none", words=words()), lm=LM)
    with pytest.raises(InputError, match="lm=tiny is no language model"):
        made(lm="tiny")
    plain = make_method("sevlm", words=words(), lm=LM, contrastive=0.0).eval()
    model = plain.model.to_model(plain.make.tokenizer, plain.model.image.preprocess, "mine")
    assert model.explain(random_images(1), max_tokens=2)[0].score is None
    with pytest.raises(InputError, match="trained without the consistency head"):
        model.consistency(random_images(1), ["awe"], ["calm"])


def test_views_are_drawn_by_the_loader():
    method = made()
    [stage] = method.stages()
    loader = Loader(felt(4), method.views(stage), InOrder(), 4)
    [found] = loader.epoch(0)
    assert found.text.ids.shape[:2] == (4, 2)
    assert set(found.fields) == set()
