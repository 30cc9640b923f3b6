"""UrbanCLIP: both losses and both forms against slow references, the numbers of the paper's code, what
sees what, captions that are drawn once, the epoch that is kept."""

import math

import numpy as np
import pytest
import torch
from tests.factories import AT, make_method, random_images
from tests.methods.fuse.helpers import attention, batch, layers, norm, published
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.columns import WithColumns
from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.domain.urbanclip import UrbanCLIP
from diptych.methods.domain.urbanclip.drawn import DRAWN
from diptych.methods.store import describe, load, save_model, to_model
from diptych.objectives import info_nce
from diptych.testing import Toy
from diptych.training.prepare import Run

TEXT = "text:width=32:depth=2:heads=2:pooling=cls"
OWN = "urbanclip.parallel:width=32:depth=2:heads=2:head_width=8"
IMAGE = "vit:image_size=32:patch=8:width=48:depth=1:heads=2:cls=1"
QUERIES = f"{IMAGE}:pooling=queries:queries=5:pool_width=32:pool_heads=2"
FORMS = {
    "one": {},
    "open_clip": {"image": QUERIES, "pooler": "none", "decoder": "apart"},
    "own": {"text": OWN, "image": QUERIES, "pooler": "none", "decoder": "parallel"},
}


def method(text=TEXT, image=IMAGE, **config):
    options = {"pooler": "one:queries=4:heads=2", "augment": None, **config}
    made = make_method(UrbanCLIP, text=text, image=image, **options)
    with torch.no_grad():
        for value in made.parameters():  # norms and biases too
            value.add_(torch.randn_like(value) * 0.05)
    return made.eval()


def model_of(made):
    words, preprocess = made.make.tokenizer, made.model.image.preprocess.to_dict()
    return to_model(made.deliver(), words, preprocess, name="urbanclip")


# ---- slow references in double precision


def plain_norm(x, layer):
    """A norm without bias."""
    mean = sum(x) / len(x)
    return (x - mean) / (sum((x - mean) ** 2) / len(x) + layer.eps) ** 0.5 * layer.weight


def turned(x, place):
    half = len(x) // 2
    out = x.clone()
    for i in range(half):
        angle = place * 10_000.0 ** (-i / half)
        out[i] = x[i] * math.cos(angle) - x[half + i] * math.sin(angle)
        out[half + i] = x[i] * math.sin(angle) + x[half + i] * math.cos(angle)
    return out


def shared_keys(layer, queries, keys, places=None, allowed=lambda i, j: True):
    """Heads of queries over one head of keys and values."""
    out = []
    for i, query in enumerate(queries):
        q = layer.q.weight @ query
        d = len(q) // layer.heads
        parts = []
        for h in range(layer.heads):
            own = q[h * d : (h + 1) * d]
            weights, values = [], []
            for j, key in enumerate(keys):
                if not allowed(i, j):
                    continue
                k = layer.k.weight @ key
                pair = (
                    (own, k) if places is None else (turned(own, places[i]), turned(k, places[j]))
                )
                weights.append((pair[0] @ pair[1] / math.sqrt(d)).exp())
                values.append(layer.v.weight @ key)
            total = sum(weights)
            parts.append(sum(w / total * v for w, v in zip(weights, values, strict=True)))
        out.append(layer.out.weight @ torch.cat(parts))
    return out


def swiglu(layer, x):
    a, b = (layer.fc1.weight @ x).chunk(2)
    return layer.fc2.weight @ (a / (1 + (-a).exp()) * b)


def parallel(blocks, stream, places, memory=None):
    for block in blocks:
        normed = [plain_norm(x, block.norm) for x in stream]
        if block.cross:
            found = shared_keys(block.attn, normed, memory)
        else:
            found = shared_keys(block.attn, normed, normed, places, lambda i, j: j <= i)
        stream = [
            x + y + swiglu(block.mlp, n) for x, y, n in zip(stream, found, normed, strict=True)
        ]
    return stream


def queried(pooler, keys):
    queries = [norm(query, pooler.norm_query) for query in pooler.query]
    return [norm(x, pooler.norm) for x in attention(pooler.attn, queries, keys)]


def slow(made, given, form):
    """The images' vectors, the texts', and the sum and number of caption log-probabilities."""
    encoder, lm = made.model.encoder, made.model.lm
    tower = encoder.text
    found = encoder.image(given.image.flat)
    x, t, total, count = [], [], 0.0, 0
    for row in range(len(given)):
        if form == "one":
            queries = queried(encoder.image_pooler.generative, list(found.tokens[row, 1:]))
        else:
            queries = queried(encoder.image.pool, list(found.tokens[row]))
        x.append(encoder.image_projection.weight @ queries[0])
        n = int(given.text.lengths[row, 0])
        ids = given.text.ids[row, 0, :n]
        if form == "own":
            places = [*range(n), tower.context]
            stream = [tower.table.weight[id] for id in ids] + [tower.cls[0]]
            stream = parallel(tower.transformer.layers, stream, places)
            t.append(encoder.text_projection.weight @ plain_norm(stream[-1], tower.norm))
            upper = parallel(lm.decoder.layers, stream[:-1], places, queries[1:])
            logits = [tower.table.weight @ plain_norm(u, lm.norm) for u in upper]
        else:
            stream = [tower.table.weight[id] + tower.positions[at] for at, id in enumerate(ids)]
            stream.append(tower.cls[0] + tower.positions[-1])
            stream = layers(tower.transformer.layers, stream, lambda i, j: j <= i)
            t.append(encoder.text_projection.weight @ norm(stream[-1], tower.norm))
            upper = layers(lm.decoder.layers, stream[:-1], lambda i, j: j <= i, queries[1:])
            logits = [lm.head.weight @ norm(u, lm.norm) for u in upper]
        for at in range(n - 1):
            total = total + logits[at][ids[at + 1]] - logits[at].exp().sum().log()
            count += 1
    return normalize(torch.stack(x), dim=1), normalize(torch.stack(t), dim=1), total, count


@pytest.mark.parametrize("form", ["one", "own"])
@torch.no_grad()
def test_both_losses_are_those_of_the_equations(form):
    made = method(**FORMS[form]).double()
    given = batch()
    losses = made.loss(made.encode(given, AT), given, AT)
    x, t, log_prob, count = slow(made, given, form)
    scale = made.model.encoder.logit_scale()
    contrastive = 0.0
    for a, b in ((x, t), (t, x)):
        for i in range(len(a)):
            row = torch.stack([(scale * (a[i] @ b[j])).exp() for j in range(len(b))])
            contrastive -= 0.5 * float((row[i] / row.sum()).log()) / len(a)
    assert losses.terms["contrastive"].item() == pytest.approx(contrastive, rel=1e-9)
    assert losses.terms["caption"].item() == pytest.approx(-float(log_prob) / count, rel=1e-9)
    assert count == 6 + 3 + 4  # an end counts, a start and pads do not


# ---- numbers of the paper's code


def test_the_losses_of_open_clips_toy():
    made = method()
    t = normalize(torch.tensor([[1.0, 0.2], [0.1, 1.0]]), dim=1)
    assert float(info_nce(torch.eye(2), t, 10.0, directions="mean")) == pytest.approx(
        0.000252, abs=1e-6
    )
    lm = made.model.lm
    lm.logits = lambda hidden: hidden
    ids = torch.tensor([[4, 1, 2, 0], [4, 3, 0, 0]])  # a start, then labels that are not pads
    lengths = torch.tensor([3, 2])
    found = lm.log_probs_of(torch.zeros(2, 4, 5), ids, lengths).sum(1)
    features = {"image": torch.eye(2), "text": t, "log_prob": found, "tokens": lengths - 1}
    losses = made.loss(features, batch(2), AT)
    assert losses.terms["caption"].item() == pytest.approx(1.609438, abs=1e-6)  # ln 5


def test_the_caption_loss_is_a_mean_of_tokens():
    made = method(contrastive=0.0)
    features = {"image": torch.eye(2), "text": torch.eye(2)}

    def loss(log_prob, tokens):
        given = {"log_prob": torch.tensor(log_prob), "tokens": torch.tensor(tokens)}
        return made.loss({**features, **given}, batch(2), AT).terms["caption"].item()

    assert loss([-3.0, -2.0], [3, 1]) == pytest.approx(1.25)  # and not 1.5, the mean of means
    assert loss([-3.0, -2.0] * 2, [3, 1] * 2) == pytest.approx(1.25)
    assert loss([-3.0, -2.0, -2.0], [3, 1, 1]) == pytest.approx(1.4)


@torch.no_grad()
def test_pads_change_nothing():
    made = method()
    given = batch()
    ids = torch.nn.functional.pad(given.text.ids, (0, 4))
    longer = Batch(
        images=given.images,
        texts={"main": type(given.text)(ids, given.text.lengths)},
        keys=given.keys,
    )
    found = made.loss(made.encode(longer, AT), longer, AT).total
    torch.testing.assert_close(found, made.loss(made.encode(given, AT), given, AT).total)


def test_parameters_are_as_many_as_open_clips_model_has():
    model = published(UrbanCLIP, "paper")
    assert sum(value.numel() for value in model.parameters()) == 638_450_177
    scratch = published(UrbanCLIP, "scratch")
    assert scratch.encoder.text.width == 512
    assert "vocab_size=20000" in UrbanCLIP.preset("scratch").tokenizer
    assert len(scratch.encoder.text.transformer.layers) == 6
    assert len(scratch.lm.decoder.layers) == 2 * 6
    assert not any(name.startswith("lm.head") for name, _ in scratch.named_parameters())
    assert scratch.encoder.image.pool.query.shape == (257, 512)
    scale = scratch.encoder.logit_scale
    assert (scale.init, scale.clamp) == (pytest.approx(math.e), None)


def test_weights_of_the_losses():
    given = batch()
    made = method(caption=0.0)
    features = made.encode(given, AT)
    clip = info_nce(features["image"], features["text"], made.model.encoder.logit_scale())
    assert made.loss(features, given, AT).total.item() == pytest.approx(clip.item(), rel=1e-6)
    assert not any(value.requires_grad for value in made.model.lm.parameters())
    made = method(contrastive=0.0)
    made.loss(made.encode(given, AT), given, AT).total.backward()
    encoder = made.model.encoder
    for part in (encoder.image_projection, encoder.text_projection, encoder.logit_scale):
        assert all(
            value.grad is None or not value.grad.count_nonzero() for value in part.parameters()
        )


# ---- what sees what


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_causality_and_what_each_side_reads(form):
    made = method(**FORMS[form])
    pixels = random_images(2)
    ids = torch.randint(4, 60, (2, 6), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([6, 6])

    def outcome(pixels, ids):
        encoder, lm = made.model.encoder, made.model.lm
        image = encoder.encode_image(pixels)
        text = made.model.read(ids, lengths, None)[0]
        return encoder.image_vectors(image), text, lm.logits(lm(ids, memory=image.memory))

    x, t, logits = outcome(pixels, ids)
    for place in range(6):
        other = ids.clone()
        other[:, place] += 1
        same_x, moved, later = outcome(pixels, other)
        assert torch.equal(later[:, :place], logits[:, :place])
        assert not torch.isclose(later[:, place], logits[:, place]).all()
        assert torch.equal(same_x, x)
        assert not torch.isclose(moved, t).all()
    _, same_t, other = outcome(255 - pixels, ids)
    assert torch.equal(same_t, t)
    assert not torch.isclose(other[:, 0], logits[:, 0]).all()
    # pads reach neither the learned token at the end nor the captions
    _, same_t, same = outcome(pixels, torch.nn.functional.pad(ids, (0, 3), value=9))
    torch.testing.assert_close(same_t, t)
    torch.testing.assert_close(same[:, :6], logits)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_the_first_query_is_the_image_and_the_others_are_read(form):
    made = method(**FORMS[form])
    encoder = made.model.encoder
    image = encoder.encode_image(random_images(2))
    pooler = encoder.query_pooler
    pooler = getattr(pooler, "generative", pooler)
    patches = image.tokens if form != "one" else image.tokens[:, 1:]
    found = pooler(patches)
    torch.testing.assert_close(image.pooled, found[:, 0])
    torch.testing.assert_close(image.memory, found[:, 1:])


@torch.no_grad()
def test_the_cache_changes_nothing_in_the_authors_form():
    made = method(**FORMS["own"])
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


@torch.no_grad()
def test_places_count_by_their_difference():
    block = method(**FORMS["own"]).model.encoder.text.transformer.layers[0].attn
    x = torch.randn(1, 4, 32)
    near = block(x, place=torch.arange(4), causal=True)
    torch.testing.assert_close(block(x, place=torch.arange(4) + 9, causal=True), near)
    assert not torch.isclose(block(x, place=2 * torch.arange(4), causal=True), near).all()


# ---- captions that are drawn once, and the epoch that is kept


def drawn(made, source, seed):
    """The ids of each sample in three epochs."""
    [stage] = made.stages()
    if stage.prepare:
        run = Run(made, {"train": source}, AT, torch.device("cpu"))
        run.at = type(AT)(0, 10, 0, seed)
        stage.prepare(run)
        source = WithColumns(source, run.columns["train"])
    loader = Loader(source, made.views(stage), InOrder(), 4, seed=seed, steps=18)
    return [
        [
            tuple(row[:n].tolist())
            for part in loader.epoch(epoch)
            for row, n in zip(part.text.ids[:, 0], part.text.lengths[:, 0], strict=True)
        ]
        for epoch in range(3)
    ]


class Several(Toy):
    """Samples with three captions."""

    def __getitem__(self, index):
        from dataclasses import replace

        from diptych.data.sample import Text

        sample = super().__getitem__(index)
        texts = [Text(text=f"{number} {sample.captions()[0]}") for number in ("one", "two", "red")]
        return replace(sample, texts=texts)


def test_a_caption_is_drawn_once_or_in_each_epoch():
    source = Several(24)
    first, second, third = drawn(method(), source, 0)
    assert first == second == third
    assert drawn(method(), source, 0)[0] == first
    assert drawn(method(), source, 1)[0] != first
    again = drawn(method(resample=True), source, 0)
    assert again[0] != again[1]
    assert DRAWN not in Several(2).schema()
    starts = {ids[1] for ids in first}
    assert len(starts) == 3  # any of them may be drawn


def test_the_epoch_with_the_least_contrastive_loss_is_kept():
    [stage] = method(select=True).stages()
    assert stage.select == "-val/contrastive"
    assert method().stages()[0].select is None
    validation = method().model.validation
    assert validation.suite == "pair_losses"
    assert "contrastive" in validation.names


# ---- what a run does


@pytest.mark.parametrize("form", ["open_clip", "own"])
def test_a_run_is_saved_and_writes(form, tmp_path):
    options = dict(FORMS[form])
    made = method(**options)
    model = model_of(made)
    pixels = random_images(3)
    for how in ({"strategy": "greedy"}, {"strategy": "sample", "top_p": 0.9, "seed": 1}):
        written = model.generate(pixels, max_tokens=4, **how)
        assert written == model.generate(pixels, max_tokens=4, batch_size=2, **how)
    config = {name: options[name] for name in ("pooler", "decoder")}
    preprocess = made.model.image.preprocess
    description = describe("urbanclip", config, made.model, made.make.tokenizer, preprocess)
    save_model(tmp_path, description, made.model.state_dict())
    again = load(tmp_path)
    torch.testing.assert_close(again.embed_images(pixels), model.embed_images(pixels))
    texts = ["a red bar", "a bar", "a pink circle on the left"]
    torch.testing.assert_close(again.log_prob(pixels, texts), model.log_prob(pixels, texts))
    norms = again.embed_images(pixels).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(3))


def test_the_frozen_network_sends_no_gradient_to_the_encoder(tmp_path):
    made = method()
    preprocess = made.model.image.preprocess
    description = describe("urbanclip", {"pooler": "one:queries=4:heads=2"}, made.model,
                           made.make.tokenizer, preprocess)  # fmt: skip
    save_model(tmp_path, description, made.model.state_dict())
    from diptych.methods.make import Make

    head = make_method("regress", make=Make.of(load(tmp_path)), hidden=8)
    head.setup({"train": open_source("tiles:count=12:size=24")})
    values = head.model(random_images(2))
    values.sum().backward()
    trained = {name for name, value in head.named_parameters() if value.grad is not None}
    assert trained
    assert all(name.startswith("model.head") for name in trained)
    vectors = head.model.encoder.embed_images(random_images(2))
    np.testing.assert_allclose(vectors.detach().norm(dim=1).numpy(), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "parallel"}, "a text tower urbanclip.parallel, which this model has not"),
        ({"pooler": "one:queries=1"}, "give two at least"),
        ({"pooler": "on"}, "did you mean 'one'"),
        ({"text": f"{OWN}:causal=false"}, "leave out pooling, causal and padding"),
        ({"text": OWN.replace("=8", "=7")}, "give an even number"),
        ({"role": "caption;long"}, "takes one role"),
        ({"contrastive": 0.0, "caption": 0.0}, "give one of them a weight"),
        ({"clips": True}, "reads single images"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        method(**options)
