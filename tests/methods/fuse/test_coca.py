"""CoCa: both losses against a slow reference, what sees what, sizes and numbers as published, what a
run writes."""

from dataclasses import replace

import pytest
import torch
from tests.factories import AT, make_method, random_images
from tests.methods.fuse.helpers import batch, layers, norm, pooled, published
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from diptych.data.batch import Tokens
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.fuse.coca import CoCa
from diptych.methods.make import Make
from diptych.methods.store import describe, load, save_model, to_model
from diptych.objectives import info_nce

TEXT = "text:width=32:depth=2:heads=2:pooling=cls"
IMAGE = "vit:image_size=32:patch=8:width=48:depth=1:heads=2:cls=1"
QUERIES = f"{IMAGE}:pooling=queries:queries=5:pool_width=32:pool_heads=2"


def method(text=TEXT, image=IMAGE, **config):
    options = {"pooler": "cascade:queries=4:heads=2", "augment": None, **config}
    made = make_method(CoCa, text=text, image=image, **options)
    with torch.no_grad():
        for value in made.parameters():  # norms and biases too
            value.add_(torch.randn_like(value) * 0.05)
    return made.eval()


# ---- the losses against a slow reference


def slow(made, given, cascade=True):
    """The image's vectors, the texts', and the sum and number of caption log-probabilities."""
    encoder, lm = made.model.encoder, made.model.lm
    tokens = encoder.image(given.image.flat).tokens[:, 1:]  # of the patches
    images, texts, total, count = [], [], 0.0, 0
    for row in range(len(given)):
        n = int(given.text.lengths[row, 0])
        ids = given.text.ids[row, 0, :n]
        queries = pooled(encoder.image_pooler.generative, list(tokens[row]))
        [z] = pooled(encoder.image_pooler.contrastive, queries if cascade else list(tokens[row]))
        images.append(encoder.image_projection.weight @ z)
        tower = encoder.text
        stream = [tower.table.weight[id] + tower.positions[at] for at, id in enumerate(ids)]
        stream.append(tower.cls[0] + tower.positions[-1])
        stream = layers(tower.transformer.layers, stream, lambda i, j: j <= i)
        texts.append(encoder.text_projection.weight @ norm(stream[-1], tower.norm))
        upper = layers(lm.decoder.layers, stream[:-1], lambda i, j: j <= i, queries)
        for at in range(n - 1):
            logits = lm.head.weight @ norm(upper[at], lm.norm)
            total = total + logits[ids[at + 1]] - logits.exp().sum().log()
            count += 1
    return normalize(torch.stack(images), dim=1), normalize(torch.stack(texts), dim=1), total, count


@pytest.mark.parametrize("form", ["cascade", "parallel"])
@torch.no_grad()
def test_both_losses_are_those_of_the_sheet(form):
    made = method(pooler=f"{form}:queries=4:heads=2").double()
    given = batch()
    losses = made.loss(made.encode(given, AT), given, AT)
    x, t, log_prob, count = slow(made, given, form == "cascade")
    scale = made.model.encoder.logit_scale()
    contrastive = 0.0
    for a, b in ((x, t), (t, x)):
        for i in range(len(a)):
            row = torch.stack([(scale * (a[i] @ b[j])).exp() for j in range(len(b))])
            contrastive -= float((row[i] / row.sum()).log()) / len(a)
    assert losses.terms["contrastive"].item() == pytest.approx(contrastive, rel=1e-9)
    assert losses.terms["caption"].item() == pytest.approx(-2 * float(log_prob) / count, rel=1e-9)
    assert count == 6 + 3 + 4  # an end counts, a start and pads do not


def test_the_gradient_of_the_loss_is_that_of_differences():
    made = method().double()
    given = batch()
    features = {name: value.detach() for name, value in made.encode(given, AT).items()}

    def loss(image, text, log_prob):
        found = {**features, "image": image, "text": text, "log_prob": log_prob}
        return made.loss(found, given, AT).total

    inputs = [features[name].requires_grad_() for name in ("image", "text", "log_prob")]
    assert torch.autograd.gradcheck(loss, inputs)


def test_of_several_texts_an_image_the_losses_are_the_means():
    made = method(role="caption;long")
    given = batch()
    other = Tokens(given.text.ids.flip(0), given.text.lengths.flip(0))
    both = replace(given, texts={"main": given.text, "main2": other})
    losses = made.loss(made.encode(both, AT), both, AT)
    one = method()
    each = []
    for tokens in (given.text, other):
        alone = replace(given, texts={"main": tokens})
        each.append(one.loss(one.encode(alone, AT), alone, AT).terms)
    for name in ("contrastive", "caption"):
        mean = (each[0][name] + each[1][name]).item() / 2
        assert losses.terms[name].item() == pytest.approx(mean, rel=1e-5)


def test_without_captions_it_is_clip_summed_over_both_directions():
    made = method(caption=0.0)
    given = batch()
    features = made.encode(given, AT)
    losses = made.loss(features, given, AT)
    assert features.keys() == {"image", "text"}
    clip = make_method("clip").terms(features["image"], features["text"])["contrastive"]
    scale = made.model.encoder.logit_scale()
    clip = info_nce(features["image"], features["text"], scale)
    assert losses.total.item() == pytest.approx(2 * clip.item(), rel=1e-6)
    assert not any(value.requires_grad for value in made.model.lm.parameters())
    mean = method(caption=0.0, directions="mean").loss(features, given, AT)
    assert mean.total.item() == pytest.approx(clip.item(), rel=1e-6)


# ---- what sees what


FORMS = {"joint": {}, "apart": {"decoder": "apart", "pooler": "none", "image": QUERIES}}


def outcome(made, pixels, ids, lengths):
    """Image vectors, text vectors, and the logits after each token."""
    encoder, lm = made.model.encoder, made.model.lm
    image = encoder.encode_image(pixels)
    return (
        encoder.image_vectors(image),
        made.model.read(ids, lengths, None)[0],
        lm.logits(lm(ids, memory=image.memory)),
    )


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_causality_and_what_each_side_reads(form):
    made = method(**FORMS[form])
    pixels = random_images(2)
    ids = torch.randint(4, 60, (2, 6), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([6, 6])
    x, t, logits = outcome(made, pixels, ids, lengths)
    for place in range(6):
        other = ids.clone()
        other[:, place] += 1
        same_x, moved, later = outcome(made, pixels, other, lengths)
        assert torch.equal(later[:, :place], logits[:, :place])
        assert not torch.isclose(later[:, place], logits[:, place]).all()
        assert torch.equal(same_x, x)
        assert not torch.isclose(moved, t).all()
    _, same_t, other = outcome(made, 255 - pixels, ids, lengths)
    assert torch.equal(same_t, t)
    assert not torch.isclose(other[:, 0], logits[:, 0]).all()
    # pads reach neither the learned token at the end nor the captions
    padded = torch.nn.functional.pad(ids, (0, 3), value=9)
    _, same_t, same = outcome(made, pixels, padded, lengths)
    torch.testing.assert_close(same_t, t)
    torch.testing.assert_close(same[:, :6], logits)
    with torch.no_grad():
        made.model.encoder.text.cls.add_(torch.randn(32))
    _, moved, same = outcome(made, pixels, ids, lengths)
    assert not torch.isclose(moved, t).all()
    assert torch.equal(same, logits)  # the upper half does not read it


def test_the_text_tower_runs_once_a_step(monkeypatch):
    made = method()
    calls = []
    run = made.model.encoder.text.transformer.forward
    monkeypatch.setattr(
        made.model.encoder.text.transformer,
        "forward",
        lambda *args, **how: calls.append(1) or run(*args, **how),
    )
    made.encode(batch(), AT)
    assert calls == [1]


@pytest.mark.parametrize(
    "options",
    [
        {"pooler": "parallel:queries=4", "caption": 0.0},
        {"image": IMAGE.replace("cls=1", "cls=0:pooling=map")},
        {"contrastive": 0.0},
        {"caption": 0.0, **FORMS["apart"]},
    ],
)
def test_what_nothing_reads_is_frozen(options):
    made = method(**options)
    made.loss(made.encode(batch(), AT), batch(), AT).total.backward()
    for name, value in made.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name


@pytest.mark.parametrize(
    ("pooler", "queries"),
    [("cascade:queries=4", 4), ("cascade:queries=0", 16), ("parallel:queries=1", 1)],
)
def test_captions_read_the_queries_or_without_them_the_patches(pooler, queries):
    encoder = method(pooler=pooler).model.encoder
    image = encoder.encode_image(random_images(2))
    assert image.memory.shape == (2, queries, 48)
    assert image.pooled.shape == (2, 48)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_one_pooler_reads_the_tokens_of_all_frames(form):
    made = method(**FORMS[form])
    encoder = made.model.encoder
    frames = random_images(6).unflatten(0, (2, 3))
    clip = encoder.encode_frames(frames)
    assert clip.tokens.shape == (2, 3 * 16, 48)
    still = encoder.encode_frames(frames[:, :1].expand(-1, 3, -1, -1, -1))
    image = encoder.encode_image(frames[:, 0])
    torch.testing.assert_close(still.memory, image.memory)  # repeated tokens weigh as one
    torch.testing.assert_close(still.pooled, image.pooled)
    assert clip.memory.shape == image.memory.shape
    for at in range(3):
        other = frames.clone()
        other[1, at] = 255 - other[1, at]
        changed = encoder.encode_frames(other).memory
        torch.testing.assert_close(changed[0], clip.memory[0])
        assert not torch.isclose(changed[1], clip.memory[1]).all()
    model = model_of(made)
    texts = ["a red bar", "a bar"]
    found = model.log_prob(frames, texts)
    assert not torch.allclose(found, model.log_prob(frames[:, 0], texts))
    assert len(model.generate(frames, max_tokens=3)) == 2


# ---- numbers of the sheet


def size(*modules):
    return sum(value.numel() for module in modules for value in module.parameters())


def test_parameters_are_as_many_as_open_clips():
    model = published(CoCa, "openclip")
    encoder = model.encoder
    assert size(encoder.image, encoder.image_projection) == 89_164_032
    assert size(encoder.text, encoder.text_projection) == 63_428_608
    assert size(model.lm) == 100_967_424
    assert size(model) == 253_560_065


@pytest.mark.parametrize(
    ("preset", "image", "text"),
    [("base", 86, 297), ("large", 303, 484), ("paper", 1012, 1180), ("ablation", 86, 198)],
)
def test_parameters_are_as_many_as_published(preset, image, text):
    """In millions, poolers and projections apart. With an output layer of its own, as `base` and
    `large` have it, the largest has 1.18B of text where the paper says 1.1B."""
    model = published(CoCa, preset)
    assert size(model.encoder.image) / 1e6 == pytest.approx(image, abs=1)
    assert size(model.encoder.text, model.lm) / 1e6 == pytest.approx(text, abs=1)


def test_a_pass_costs_as_many_operations_as_counted_for_open_clip():
    """In GFLOPs, without the products of attention, which their counter does not see."""
    model = published(CoCa, "openclip")
    ids = torch.ones(1, 76, dtype=torch.long, device="meta")
    lengths = torch.tensor([76], device="meta")

    def cost(run):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            found = run()
        counts = counter.get_flop_counts()["Global"]
        return found, sum(n for op, n in counts.items() if "bmm" not in str(op)) / 1e9

    def texts():
        return model.lm.tower.run(ids, lengths)[:, : ids.shape[1]]

    def whole():
        image = model.encoder.encode_image(torch.zeros(1, 3, 224, 224, device="meta"))
        assert image.memory.shape == (1, 255, 512)
        model.encoder.project_text(model.encoder.project_image(image.pooled))
        hidden = model.lm.decoder(texts()[:, :-1], causal=True, memory=image.memory)
        return model.lm.logits(hidden)

    logits, once = cost(whole)
    assert logits.shape == (1, 75, 49408)
    _, of_texts = cost(texts)
    assert once == pytest.approx(32.27, abs=0.01)
    assert once + of_texts == pytest.approx(
        38.08, abs=0.01
    )  # as released, the text tower runs twice


def test_the_caption_loss_is_the_mean_over_the_tokens_of_the_batch():
    made = method(contrastive=0.0, caption=1.0)
    lm = made.model.lm
    rows = torch.tensor(
        [
            [[2.0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0], [9, 9, 9, 9]],
            [[0, 0, 1, 0], [5, 0, 0, 0], [5, 0, 0, 0], [9, 9, 9, 9]],
        ]
    )
    ids = torch.tensor([[3, 1, 1, 2], [3, 2, 0, 0]])
    lengths = torch.tensor([4, 2])
    lm.logits = lambda hidden: hidden
    found = lm.log_probs_of(rows, ids, lengths).sum(1)
    per_text = -found / (lengths - 1)
    assert per_text.tolist() == pytest.approx([1.288751, 0.743668], abs=1e-6)
    assert -found.mean().item() == pytest.approx(2.304961, abs=1e-6)
    x = torch.eye(2)
    features = {"image": x, "text": x, "log_prob": found, "tokens": lengths - 1}
    loss = made.loss(features, batch(2), AT)
    assert loss.total.item() == pytest.approx(1.152481, abs=1e-6)
    uniform = lm.log_probs_of(
        torch.zeros(1, 3, 49408), torch.tensor([[1, 9, 2]]), torch.tensor([3])
    )
    assert -uniform.sum().item() / 2 == pytest.approx(10.807868, abs=1e-6)


def test_the_first_ids_of_a_caption():
    words = build("clip:context=76")
    [ids] = words.encode(["a photo of a cat"])
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]


# ---- what a run writes


def model_of(made):
    return to_model(
        made.deliver(), made.make.tokenizer, made.model.image.preprocess.to_dict(), name="coca"
    )


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_the_cache_changes_nothing(form):
    made = method(**FORMS[form])
    lm = made.model.lm
    memory = made.model.see(random_images(2))
    ids = torch.randint(4, 60, (2, 6), generator=torch.Generator().manual_seed(3))
    whole = lm.logits(lm(ids, memory=memory))
    mask = torch.tensor([[True, True, True], [True, True, False]])  # prompts of 3 and 2 tokens
    state = lm.start(ids[:, :3], mask, memory)
    for at in range(3, 6):
        torch.testing.assert_close(state.logits[0], whole[0, at - 1])
        found = lm.peek(state, ids[:, at : at + 1])
        state = lm.next(state, ids[:, at])
        torch.testing.assert_close(found.logits[:, 0], state.logits)
    rest = torch.cat([ids[1, :2], ids[1, 3:]])[None]
    alone = lm.logits(lm(rest, memory=memory[1:]))
    torch.testing.assert_close(state.logits[1], alone[0, -1])


def test_captions_go_on_from_a_prompt_and_are_as_probable_as_their_tokens():
    made = method()
    model = model_of(made)
    pixels = random_images(3)
    for how in (
        {"strategy": "greedy"},
        {"strategy": "beam", "beams": 3},
        {"strategy": "sample", "top_k": 3, "seed": 1},
        {"strategy": "sample", "top_p": 0.5, "seed": 1},
    ):
        written = model.generate(pixels, max_tokens=4, **how)
        assert written == model.generate(pixels, max_tokens=4, batch_size=2, **how)
    texts = ["a red bar", "a pink circle on the left", "a bar"]
    whole = model.log_prob(pixels, texts)
    [first] = made.make.tokenizer.encode([texts[1]])
    memory = made.model.see(pixels[1:2])
    with torch.no_grad():
        logits = made.model.lm(torch.tensor([first]), memory=memory)
        logits = made.model.lm.logits(logits)[0].log_softmax(-1)
    by_hand = sum(float(logits[at, id]) for at, id in enumerate(first[1:]))
    assert float(whole[1]) == pytest.approx(by_hand, rel=1e-5)
    assert not torch.allclose(model.log_prob(255 - pixels, texts), whole)
    begun = model.log_prob(pixels[:1], [" bar"], ["a red"])
    assert float(begun) > float(whole[0])  # its first words are given


def test_the_feature_of_an_image_and_a_text_is_the_decoders_last_token():
    made = method()
    model = model_of(made)
    pixels = random_images(3)
    texts = ["a red bar", "a pink circle on the left", "a"]
    found = model.fuse(pixels, texts)
    ids = made.make.tokenizer.encode(texts[1:2])[0][:-1]
    with torch.no_grad():
        wanted = made.model.lm(torch.tensor([ids]), memory=made.model.see(pixels[1:2]))[0, -1]
    torch.testing.assert_close(found[1], wanted)
    assert not torch.isclose(model.fuse(255 - pixels, texts), found).all(1).any()
    torch.testing.assert_close(model.fuse(pixels, texts, batch_size=2), found)


def test_what_does_not_fit_is_refused():
    model = model_of(method())
    pixels = random_images(1)
    with pytest.raises(
        InputError, match=r"the prompt 'a red circle .* the context of coca is 24; shorten it"
    ):
        model.generate(pixels, ["a red circle on the left " * 9])
    with pytest.raises(InputError, match="text 0 is empty; give each image some words"):
        model.log_prob(pixels, [" "])
    for options, message in (
        ({"text": "text:width=32:depth=1:causal=false:pooling=mean"}, "text:pooling=cls"),
        ({"pooler": "cascad"}, "did you mean 'cascade'"),
        ({"decoder": "joined"}, "did you mean 'joint'"),
        ({"image": QUERIES}, "pools by queries of its own; leave it out .pooler=none"),
        ({"contrastive": 0.0, "caption": 0.0}, "give one of them a weight"),
    ):
        with pytest.raises(InputError, match=message):
            method(**options)


def test_a_run_is_saved_and_a_clip_becomes_one(tmp_path):
    clip = make_method("clip", text="text:width=32:depth=2:heads=2", image=IMAGE)
    words = clip.make.tokenizer
    preprocess = clip.model.image.preprocess
    (tmp_path / "clip").mkdir()
    description = describe("clip", {}, clip.model, words, preprocess)
    save_model(tmp_path / "clip", description, clip.model.state_dict())
    started = CoCa(
        CoCa.configure({"pooler": "cascade:queries=4"}), Make.of(load(tmp_path / "clip"))
    )
    pixels = random_images(2)
    plain = clip.model.image(pixels).tokens
    torch.testing.assert_close(started.eval().model.image(pixels).tokens, plain)
    (tmp_path / "coca").mkdir()
    config = {"pooler": "cascade:queries=4"}
    description = describe("coca", config, started.model, words, preprocess)
    save_model(tmp_path / "coca", description, started.model.state_dict())
    again = load(tmp_path / "coca")
    own = model_of(started)
    torch.testing.assert_close(again.embed_images(pixels), own.embed_images(pixels))
    assert again.generate(pixels, max_tokens=5) == own.generate(pixels, max_tokens=5)
    on = CoCa(CoCa.configure(config), Make.of(again))
    torch.testing.assert_close(on.model.lm.head.weight, started.model.lm.head.weight)
    larger = CoCa(CoCa.configure({**config, "size": 48}), Make.of(again))
    description = describe("coca", config, larger.model, words, larger.model.image.preprocess)
    save_model(tmp_path / "larger", description, larger.model.state_dict())
    assert load(tmp_path / "larger").represent(random_images(2, 48)).grid == (6, 6)
