"""SyCoCa: the losses against a slow reference, which patches are dropped and which are masked, what
reads what, what a run writes."""

import math
from dataclasses import replace

import pytest
import torch
from tests.factories import AT, make_method, random_images
from tests.methods.fuse.helpers import batch, layers, norm, pooled, published
from torch.nn.functional import cosine_similarity

from diptych.data.batch import Tokens
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.fuse.coca import CoCa
from diptych.methods.fuse.sycoca import SyCoCa
from diptych.methods.make import Make
from diptych.methods.store import describe, load, save_model, to_model

TEXT = "text:width=32:depth=2:heads=2:pooling=cls"
IMAGE = "vit:image_size=32:patch=8:width=48:depth=1:heads=2:cls=1:mask_token=true"
QUERIES = f"{IMAGE}:pooling=queries:queries=5:pool_width=32:pool_heads=2"
LATER = replace(AT, step=5)  # behind the random masks
FORMS = {
    "cascade": {"pooler": "cascade:queries=4:heads=2"},
    "parallel": {"pooler": "parallel:queries=4:heads=2"},
    "tokens": {"pooler": "none"},
    "openclip": {"pooler": "none", "decoder": "apart", "image": QUERIES},
}


def method(cls=SyCoCa, text=TEXT, image=IMAGE, spread=0.05, **config):
    options = {"pooler": "cascade:queries=4:heads=2", "augment": None, **config}
    made = make_method(cls, text=text, image=image, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in made.parameters():  # norms and biases too
            value.add_(torch.randn(value.shape, generator=generator) * spread)
    return made.eval()


def random_masks(given, drop=8, mask=8):
    """The batch with random masks of 16 patches, as the views give them."""
    generator = torch.Generator().manual_seed(4)
    fields = {}
    for name, count in (("captions", drop), ("main", mask)):
        order = torch.rand(len(given), 16, generator=generator).argsort(1)
        fields[f"{name}.hidden"] = order < count
    return replace(given, fields=fields)


def losses_of(made, given, at=LATER):
    return made.loss(made.encode(given, at), given, at)


# ---- the losses against a slow reference


def image_tokens(tower, pixels, masked):
    """The tokens of an image (3, 32, 32) in loops; masked patches are the mask token."""
    stream = [tower.cls[0]]
    for p in range(16):
        top, left = 8 * (p // 4), 8 * (p % 4)
        patch = pixels[:, top : top + 8, left : left + 8]
        weight, bias = tower.patch_embed.weight, tower.patch_embed.bias
        token = tower.mask_token if p in masked else (weight * patch).sum((1, 2, 3)) + bias
        stream.append(token + tower.positions[p])
    stream = layers(tower.transformer.layers, stream, lambda i, j: True)
    return [norm(x, tower.norm) for x in stream]


def slow(made, given, form):
    """The caption and the reconstruction loss, each by loops over samples, patches and words."""
    encoder, lm, decoder = made.model.encoder, made.model.lm, made.model.image_decoder
    tower, poolers = encoder.image, encoder.image_pooler
    log_prob, count, errors, number = 0.0, 0, 0.0, 0
    for row in range(len(given)):
        pixels = (given.image.flat[row].double() / 255 - tower.mean) / tower.std
        n = int(given.text.lengths[row, 0])
        ids = given.text.ids[row, 0, :n]
        text = [
            encoder.text.table.weight[id] + encoder.text.positions[at] for at, id in enumerate(ids)
        ]
        text = layers(encoder.text.transformer.layers, text, lambda i, j: j <= i)
        states = [norm(x, encoder.text.norm) for x in text]

        tokens = image_tokens(tower, pixels, ())[1:]
        scores = []
        for token in tokens:
            alone = [token]
            if form == "cascade":
                alone = pooled(poolers.generative, alone)
            if form != "tokens":
                alone = pooled(poolers.contrastive, alone)
            patch = encoder.image_projection.weight @ alone[0]
            words = [encoder.text_projection.weight @ x for x in states[1:-1]]  # no sot, no eot
            scores.append(max(float(cosine_similarity(patch, word, dim=0)) for word in words))
        order = sorted(range(16), key=lambda p: -scores[p])

        kept = [tokens[p] for p in sorted(order[:8])]
        memory = kept if form == "tokens" else pooled(poolers.generative, kept)
        upper = layers(lm.decoder.layers, text, lambda i, j: j <= i, memory)
        for at in range(n - 1):
            logits = lm.head.weight @ norm(upper[at], lm.norm)
            log_prob = log_prob + logits[ids[at + 1]] - logits.exp().sum().log()
            count += 1

        masked = order[:8]
        stream = image_tokens(tower, pixels, masked)
        stream = layers(decoder.transformer.layers, stream, lambda i, j: True, states)
        for p in masked:
            drawn = decoder.head.weight @ norm(stream[1 + p], decoder.norm) + decoder.head.bias
            top, left = 8 * (p // 4), 8 * (p % 4)
            own = [
                pixels[c, top + y, left + x] for y in range(8) for x in range(8) for c in range(3)
            ]
            mean = sum(own) / 192
            deviation = math.sqrt(sum((x - mean) ** 2 for x in own) / 191 + 1e-6)
            for d, x in zip(drawn, own, strict=True):
                errors += float((d - (x - mean) / deviation) ** 2) / 192
            number += 1
    return -2 * float(log_prob) / count, errors / number


@pytest.mark.parametrize("form", ["cascade", "parallel", "tokens"])
@torch.no_grad()
def test_losses_are_those_of_the_sheet(form):
    made = method(**FORMS[form], spread=0.2).double()
    given = batch(2)
    found = losses_of(made, given).terms
    caption, reconstruction = slow(made, given, form)
    assert found["caption"].item() == pytest.approx(caption, rel=1e-9)
    assert found["reconstruction"].item() == pytest.approx(reconstruction, rel=1e-9)
    assert found.keys() == {"contrastive", "caption", "reconstruction"}


@pytest.mark.parametrize("form", FORMS)
def test_without_both_masks_it_is_coca_exactly(form):
    plain = {"drop": 0.0, "reconstruction": 0.0, "directions": "mean", **FORMS[form]}
    ours = method(**plain)
    plain.pop("drop")
    plain.pop("reconstruction")
    coca = method(CoCa, **plain)
    given = batch()
    found = losses_of(ours, given)
    assert found.terms == losses_of(coca, given).terms
    # and the parts that are added leave those of coca as they were drawn
    state = method(spread=0.0, **FORMS[form]).state_dict()
    start = method(CoCa, spread=0.0, **plain).state_dict()
    assert all(torch.equal(state[name], value) for name, value in start.items())


def test_without_masked_patches_the_loss_is_0():
    made = method(mask=0.0)
    found = losses_of(made, batch())
    assert found.terms["reconstruction"].item() == 0
    found.total.backward()
    assert all(value.grad.isfinite().all() for value in made.parameters() if value.requires_grad)


# ---- which patches


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_the_vector_of_a_position_is_what_an_image_of_it_alone_would_have(form):
    encoder = method(**FORMS[form]).model.encoder
    image = encoder.encode_image(random_images(2))
    found = encoder.position_vectors(image)
    assert found.shape == (2, 16, 32)
    for p in range(16):
        alone = image.patches[:, p : p + 1]
        if form == "openclip":
            vector = encoder.image.pool(alone)[:, 0]
        elif form == "tokens":
            vector = alone[:, 0]
        else:
            vector = encoder.image_pooler(replace(image, tokens=alone, prefix=0)).pooled
        torch.testing.assert_close(found[:, p], encoder.project_image(vector))


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_captions_read_the_kept_patches_alone_and_the_image_vector_all(form):
    """And of the tower's own queries the CLS token."""
    encoder = method(**FORMS[form]).model.encoder
    image = encoder.encode_image(random_images(2))
    kept = torch.rand(2, 16).argsort(1) < 8
    seen = encoder.for_decoder(image.keeping(kept))
    assert torch.equal(seen.pooled, image.pooled)
    other = image.tokens.clone()
    other[:, 1:][~kept] += 1
    moved = encoder.for_decoder(replace(image, tokens=other).keeping(kept))
    assert torch.equal(
        moved.memory[kept] if form == "tokens" else moved.memory,
        seen.memory[kept] if form == "tokens" else seen.memory,
    )
    if form == "tokens":
        assert torch.equal(seen.memory_mask, kept)
    else:
        assert seen.memory_mask is None
        assert not torch.isclose(seen.memory, image.memory).all()
        other = image.tokens.clone()
        other[:, 1:][kept] += torch.randn(16, 48)
        moved = encoder.for_decoder(replace(image, tokens=other).keeping(kept))
        assert not torch.isclose(moved.memory, seen.memory).all()


@torch.no_grad()
def test_dropped_are_the_patches_of_low_scores_and_masked_those_of_high_ones():
    made = method(drop=0.25, mask=0.5)
    given = batch()
    ids, lengths = given.text.flat
    image = made.model.encoder.encode_image(given.image.flat)
    text = made.model.encoder.encode_text(ids, lengths)
    scores = made.model.scores(image, text, lengths)
    dropped, masked = made.masks(image, text, lengths, given, LATER)
    assert (dropped.sum(1).tolist(), masked.sum(1).tolist()) == ([4] * 3, [8] * 3)
    assert not (dropped & masked).any()
    for row, low, high in zip(scores, dropped, masked, strict=True):
        assert row[low].max() <= row[~low].min()
        assert row[high].min() >= row[~high].max()
    # neither pads, nor the special ids at both ends, nor the learned token behind a text count
    padded = torch.nn.functional.pad(ids, (0, 2), value=9)
    place = torch.arange(9)
    special = (place == 0) | (place >= lengths[:, None] - 1)
    for value in (9, 11):
        others = made.model.encoder.encode_text(
            padded.masked_fill(place >= lengths[:, None], value), lengths
        )
        torch.testing.assert_close(made.model.scores(image, others, lengths), scores)
        changed = others.tokens.masked_fill(special[..., None], value)
        found = made.model.scores(image, replace(others, tokens=changed), lengths)
        torch.testing.assert_close(found, scores)


def test_masks_are_random_at_first():
    made = method(random_masks=0.3)
    given = random_masks(batch())
    early = replace(AT, step=2)
    first = losses_of(made, given, early)
    turned = replace(given, fields={name: ~mask for name, mask in given.fields.items()})
    for name in ("caption", "reconstruction"):
        assert losses_of(made, turned, early).terms[name] != first.terms[name]
        assert losses_of(made, given, replace(AT, step=3)).terms[name] != first.terms[name]
    late = [losses_of(made, each, LATER).total for each in (given, turned)]
    assert late[0] == late[1]
    [hidden, captions] = method(drop=0.3).views(made.stages()[0])[-2:]
    assert (hidden.share * 16, captions.share * 16) == (8, 4)
    assert not any(
        hasattr(view, "share") for view in method(random_masks=0.0).views(made.stages()[0])
    )


# ---- what reads what


@pytest.mark.parametrize("stem", ["patch", "conv"])
@torch.no_grad()
def test_masked_pixels_are_not_seen_and_the_text_is(stem):
    model = method(image=f"{IMAGE}:stem={stem}").model
    given = random_masks(batch())
    masked = given.fields["main.hidden"]
    ids, lengths = given.text.flat
    text = model.encoder.encode_text(ids, lengths)
    patches = model.patches(given.image.flat)
    drawn = model.draw(patches, masked, text, lengths)
    other = patches.clone()
    other[masked] = 3.0
    assert torch.equal(model.draw(other, masked, text, lengths), drawn)
    other = patches.clone()
    other[~masked] = 3.0
    assert not torch.isclose(model.draw(other, masked, text, lengths), drawn).all(2).any()
    tokens = text.tokens.clone()
    real = torch.arange(7) < lengths[:, None]
    tokens[~real] = 5.0
    same = model.draw(patches, masked, replace(text, tokens=tokens), lengths)
    torch.testing.assert_close(same, drawn)
    swapped = replace(text, tokens=text.tokens[[1, 2, 0]])
    assert not torch.isclose(model.draw(patches, masked, swapped, lengths[[1, 2, 0]]), drawn).all()


@torch.no_grad()
def test_the_masked_image_enters_neither_captions_nor_contrast():
    made = method()
    given = batch()
    before = losses_of(made, given).terms
    token = made.model.encoder.image.mask_token
    token.add_(
        torch.linspace(-1, 1, token.numel()).view_as(token)
    )  # a norm removes what is added to all
    after = losses_of(made, given).terms
    assert after["reconstruction"] != before["reconstruction"]
    for name in ("contrastive", "caption"):
        assert torch.equal(after[name], before[name])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"caption": 0.0, "pooler": "parallel:queries=4"},
        {"reconstruction": 0.0},
        {"contrastive": 0.0, "random_masks": 1.0, "target": "raw"},
        FORMS["openclip"],
    ],
)
def test_what_is_trained_has_a_gradient(options):
    made = method(**options)
    given = random_masks(batch())
    losses_of(made, given).total.backward()
    for name, value in made.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name


def test_the_reconstruction_trains_the_text_tower():
    made = method()
    losses_of(made, batch()).terms["reconstruction"].backward()
    trained = {name for name, value in made.named_parameters() if value.grad is not None}
    assert "model.encoder.image.mask_token" in trained
    assert "model.encoder.text.table.weight" in trained
    assert not any("pooler" in name or "projection" in name or ".lm." in name for name in trained)


def test_of_several_texts_an_image_the_losses_are_the_means():
    given = batch()
    other = Tokens(given.text.ids.flip(0), given.text.lengths.flip(0))
    both = replace(given, texts={"main": given.text, "main2": other})
    found = losses_of(method(role="caption;long"), both).terms
    each = [
        losses_of(method(), replace(given, texts={"main": text})).terms
        for text in (given.text, other)
    ]
    for name, value in found.items():
        assert value.item() == pytest.approx((each[0][name] + each[1][name]).item() / 2, rel=1e-5)


# ---- what a run writes


def model_of(made):
    return to_model(
        made.deliver(), made.make.tokenizer, made.model.image.preprocess.to_dict(), name="sycoca"
    )


TEXTS = ["a red bar", "a pink circle on the left", "a bar"]


@pytest.mark.parametrize("form", FORMS)
def test_masks_heat_and_images_of_a_model(form):
    made = method(**FORMS[form])
    model = model_of(made)
    pixels = random_images(3)
    heat = model.heat(pixels, TEXTS)
    assert heat.shape == (3, 3, 4, 4)
    mask = model.attentive_mask(pixels, TEXTS)
    own = heat[range(3), range(3)]
    assert mask.shape == (3, 4, 4)
    assert mask.sum((1, 2)).tolist() == [8] * 3
    assert all(row[high].min() > row[~high].max() for row, high in zip(own, mask, strict=True))
    assert model.attentive_mask(pixels[0], TEXTS[0], share=0.2).sum() == 3
    found = model.reconstruct(pixels, TEXTS)
    torch.testing.assert_close(found, model.reconstruct(pixels, TEXTS, hidden=mask, batch_size=2))
    shown = ~mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    kept = shown.expand(-1, 3, -1, -1)
    torch.testing.assert_close(found[kept], (pixels / 255)[kept])
    assert not torch.isclose(found[~kept], (pixels / 255)[~kept]).all()
    other = model.reconstruct(pixels, TEXTS[::-1], hidden=mask)
    assert not torch.isclose(found, other).all()
    # captions are written of all patches
    captions = model.generate(pixels, max_tokens=4)
    memory = made.model.encoder.encode_image(pixels).memory
    torch.testing.assert_close(made.model.see(pixels), memory)
    assert len(captions) == 3


@torch.no_grad()
def test_standardised_pixels_get_the_mean_and_deviation_of_the_image():
    for target in ("standardised", "raw"):
        made = method(target=target)
        made.model.image_decoder.head.weight.zero_()
        made.model.image_decoder.head.bias.fill_(0.0)
        pixels = random_images(1)
        mask = torch.ones(1, 4, 4, dtype=torch.bool)
        found = model_of(made).reconstruct(pixels, "a bar", hidden=mask)
        tower = made.model.encoder.image
        patches = made.model.patches(pixels)
        wanted = patches.mean(-1) if target == "standardised" else torch.zeros(1, 16)
        wanted = wanted.unflatten(1, (4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
        torch.testing.assert_close(found, wanted[:, None] * tower.std + tower.mean)


def saved(folder, name, made, config):
    description = describe(
        name, config, made.deliver(), made.make.tokenizer, made.model.image.preprocess
    )
    folder.mkdir()
    save_model(folder, description, made.deliver().state_dict())
    return load(folder)


def test_a_run_is_saved_and_goes_on_from_coca_and_to_it(tmp_path):
    config = {"pooler": "cascade:queries=4:heads=2"}
    plain = IMAGE.replace(":mask_token=true", "")
    coca = saved(tmp_path / "coca", "coca", method(CoCa, image=plain), config)
    started = SyCoCa(SyCoCa.configure(config), Make.of(coca)).eval()
    pixels = random_images(2)
    assert model_of(started).generate(pixels, max_tokens=5) == coca.generate(pixels, max_tokens=5)
    again = saved(tmp_path / "sycoca", "sycoca", started, config)
    found = model_of(started).reconstruct(pixels, TEXTS[:2])
    torch.testing.assert_close(again.reconstruct(pixels, TEXTS[:2]), found)
    on = SyCoCa(SyCoCa.configure(config), Make.of(again))
    head = on.model.image_decoder.head.weight
    torch.testing.assert_close(head, started.model.image_decoder.head.weight)
    back = CoCa(CoCa.configure(config), Make.of(again)).eval()
    assert model_of(back).generate(pixels, max_tokens=5) == coca.generate(pixels, max_tokens=5)


def test_suites_measure_it():
    model = model_of(method())
    source = open_source("scenes:count=4:size=32:number=2:same=0:described=1:seed=1")
    suites = ["reconstruction", "captions", "retrieval", "heatmaps"]
    found = evaluate(model, source, suites)
    assert found.keys() >= set(suites)
    drawn = found["reconstruction"]
    assert drawn["n"] == 4
    assert 0 < drawn["chance_iou"] < 0.5
    assert drawn["error"] != drawn["other_error"]


def test_what_does_not_fit_is_refused():
    model = model_of(method())
    pixels = random_images(2)
    for call, message in (
        (lambda: model.reconstruct(pixels, ["a", " "]), "a text is empty"),
        (lambda: model.reconstruct(pixels, ["a"]), "2 images came with 1 of texts"),
        (
            lambda: model.reconstruct(pixels, ["a", "b"], hidden=torch.ones(2, 3, 3)),
            r"hidden is \(2, 3, 3\); give each image a mask of 4 x 4 patches",
        ),
        (
            lambda: model_of(method(reconstruction=0.0)).reconstruct(pixels, ["a", "b"]),
            "trained with reconstruction=0",
        ),
        (
            lambda: method(image="conv:image_size=32:widths=(16,48):depths=(1,1)"),
            "give --image-tower vit:",
        ),
        (lambda: method(image=f"{IMAGE}:patch_dropout=0.5"), "patch_dropout=0"),
        (
            lambda: method(image=IMAGE.replace("patch=8", "patch=12")),
            "multiples of its patch of 12",
        ),
        (lambda: method(contrastive=0.0), "give random_masks=1"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    method(image="conv:image_size=32:widths=(16,48):depths=(1,1)", reconstruction=0.0)


def test_parameters_are_cocas_and_those_of_the_image_decoder():
    model = published(SyCoCa, "paper")
    D, M, F = 768, 512, 3072
    block = 3 * 2 * D + 6 * (D * D + D) + 2 * (M * D + D) + 2 * D * F + D + F
    own = 12 * block + 2 * D + D * 3 * 32**2 + 3 * 32**2
    assert sum(value.numel() for value in model.image_decoder.parameters()) == own
    assert sum(value.numel() for value in model.parameters()) == 253_560_065 + D + own
