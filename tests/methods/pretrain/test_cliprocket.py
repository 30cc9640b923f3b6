"""CLIP-rocket: the published figures, weights of global and local terms, the extra losses, two heads
in one vector."""

from itertools import product

import numpy as np
import pytest
import torch
from tests.factories import AT, det, make_batch, make_method, tokenizer
from torch.nn.functional import normalize

import diptych
from diptych.cli import main
from diptych.data.sample import Sample, Text
from diptych.data.views import VariedTextView
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.pretrain.cliprocket import EXTRAS, CLIPRocket, Thinned, swapped
from diptych.models.class_names import mean_directions
from diptych.objectives import info_nce
from diptych.training.config import resolve
from diptych.training.run import run

FEW = {"hidden": 16, "extra_hidden": 16, "extra_width": 8}


def method(**config):
    return make_method(CLIPRocket, **{**FEW, **config}).double()


def raw(k):
    return det(4, 3, k)


def features(image, text, local_image, local_text):
    return {
        "image": image,
        "text": text,
        "local_image": torch.stack(local_image, 1),
        "local_text": torch.stack(local_text, 1),
    }


def batch(count=6, local=2):
    views = {"main": 1, "strong": local}
    return make_batch(count, views, views)


ANCHORS = features(raw(0), raw(1), [raw(2), raw(3)], [raw(4), raw(5)])


def test_the_sheets_figures():
    one = method(smoothing=0.1).loss(ANCHORS, batch(4), AT).total.item()
    assert one == pytest.approx(9.2367147895, abs=1e-6)
    both = method(smoothing=0.1, reduction="sum").loss(ANCHORS, batch(4), AT).total.item()
    assert both == pytest.approx(18.4734295790, abs=1e-6)
    equal = features(raw(0), raw(1), [raw(0)] * 2, [raw(1)] * 2)
    plain = method(smoothing=0.0, scale=10.0).loss(equal, batch(4), AT).total.item()
    assert plain == pytest.approx(5.1346860493, abs=1e-6)
    swalip = method(smoothing=0.0, extra="swalip").loss(ANCHORS, batch(4), AT)
    assert swapped(ANCHORS["local_image"], ANCHORS["local_text"], 10.0).item() == pytest.approx(
        7.2423279509, abs=1e-9
    )
    assert swalip.total.item() == pytest.approx(10.8283497271, abs=1e-6)


def test_smoothing_is_on_the_local_terms_alone_which_weigh_two_thirds():
    smooth, sharp = (method(smoothing=e).loss(ANCHORS, batch(4), AT).terms for e in (0.1, 0.0))
    assert smooth["global"] == sharp["global"]
    assert smooth["local"] != sharp["local"]
    clip = info_nce(raw(0), raw(1), 1 / 0.07)
    assert smooth["global"].item() == pytest.approx(clip.item() / 3, abs=1e-6)


def test_without_strong_views_it_is_clip():
    held = method(local=0).eval()
    assert {name for view in held.views(held.stages()[0]) for name in view.gives} == {
        "images.main",
        "texts.main",
    }
    given = held.encode(batch(local=0), AT)
    assert given.keys() == {"image", "text"}
    total = held.loss(given, batch(local=0), AT).total
    torch.testing.assert_close(
        total, info_nce(given["image"], given["text"], held.model.logit_scale())
    )
    assert all(not value.requires_grad for value in held.model.image_projection.second.parameters())
    cosines = (
        held.model.embed_images(batch().image.flat) @ held.model.embed_texts(*batch().text.flat).T
    )
    torch.testing.assert_close(
        cosines, given["image"] @ given["text"].T
    )  # the second head, not trained, has no say


def test_weak_views_pass_through_the_first_head_and_strong_ones_through_the_second():
    held, given = method().eval(), batch()
    with torch.no_grad():
        found = held.encode(given, AT)
        image = held.model.encode_image(given.images["strong"].pixels[:, 1]).pooled
        second = normalize(held.model.image_projection.second(image), dim=-1)
        text = held.model.encode_text(*given.text.flat).pooled
        torch.testing.assert_close(found["local_image"][:, 1], second)
        torch.testing.assert_close(
            found["text"], normalize(held.model.text_projection.first(text), dim=-1)
        )


@pytest.fixture
def stored(tmp_path):
    """The folder of a model that was not trained."""
    made = method().float().eval()
    description = store.describe(
        "cliprocket", FEW, made.model, tokenizer(), made.model.image.preprocess
    )
    store.save_model(tmp_path / "run", description, made.model.state_dict())
    return tmp_path / "run"


def test_search_takes_the_share_that_its_folder_was_embedded_with(stored, tmp_path, capsys):
    spec = "scenes:count=6:size=32"
    for share in ("0.9", None):
        words = ["embed", str(stored), spec, "--out", str(tmp_path / f"emb{share}")]
        assert main([*words, *(["--share", share] if share else [])]) == 0
        assert main(["search", str(tmp_path / f"emb{share}"), "a cat", "--json"]) == 0
    assert main(["evaluate", str(stored), "--data", spec, "--share", "0.9", "--json"]) == 0
    assert main(["evaluate", str(stored), "--data", spec, "--share", "2", "--json"]) == 2
    assert "lies between 0 and 1" in capsys.readouterr().err


def test_a_loaded_model_takes_another_share(stored):
    own, first = store.load(stored), store.load(stored, share=1.0)
    assert (own.shares, first.shares) == ((0.5, 0.5), (1.0, 0.0))
    assert own.identity != first.identity
    assert own.identity == store.load(stored, share=0.5).identity
    texts = ["a red circle", "a bar"]
    half = own.embed_texts(texts).shape[1] // 2
    z = normalize(own.embed_texts(texts)[:, :half], dim=1)
    torch.testing.assert_close(first.embed_texts(texts)[:, :half], z)
    with pytest.raises(InputError, match="lies between 0 and 1"):
        store.load(stored, share=1.5)
    with pytest.raises(InputError, match="this one has one; leave the share out"):
        store.load("tiny", share=0.5)


def test_a_class_is_averaged_in_each_head_alone():
    generator = torch.Generator().manual_seed(0)
    z, h = (normalize(torch.randn(4, 3, generator=generator), dim=1) for _ in range(2))
    found = mean_directions(torch.cat([0.8**0.5 * z, 0.2**0.5 * h], 1), 2, (0.8, 0.2))
    for row, rows in enumerate((slice(0, 2), slice(2, 4))):
        own = [normalize(part[rows].mean(0), dim=0) for part in (z, h)]
        torch.testing.assert_close(found[row], torch.cat([0.8**0.5 * own[0], 0.2**0.5 * own[1]]))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_vectors_cosine_is_that_of_both_heads(share):
    held, given = method().eval(), batch()
    with torch.no_grad():
        for projection in (held.model.image_projection, held.model.text_projection):
            projection.share = share
        image, text = (
            held.model.embed_images(given.image.flat),
            held.model.embed_texts(*given.text.flat),
        )
        z, h = held.model.image_projection.both(held.model.encode_image(given.image.flat).pooled)
        zt, ht = held.model.text_projection.both(held.model.encode_text(*given.text.flat).pooled)
    torch.testing.assert_close(image @ text.T, share * z @ zt.T + (1 - share) * h @ ht.T)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(6, dtype=torch.float64))


def test_dropout_is_in_the_strong_pass_alone():
    held, given = method(text_dropout=0.5), batch()
    one, other = (held.encode(given, AT) for _ in range(2))
    assert torch.equal(one["text"], other["text"])
    assert torch.equal(one["local_image"], other["local_image"])
    assert not torch.allclose(one["local_text"], other["local_text"])
    held.eval()
    assert torch.equal(held.encode(given, AT)["local_text"], held.encode(given, AT)["local_text"])


@pytest.mark.parametrize("extra", [name for name in EXTRAS if name != "none"])
def test_every_extra_loss_is_added_with_its_weight_and_trains_all(extra):
    smoothing = 0.0 if extra == "swalip" else 0.1
    held = method(extra=extra, smoothing=smoothing)
    given = batch(12)
    losses = held.loss(held.encode(given, AT), given, AT)
    assert losses.terms.keys() == {"global", "local", extra}
    losses.total.backward()
    lacking = [
        name
        for name, value in held.named_parameters()
        if value.requires_grad and value.grad is None
    ]
    assert not lacking
    again = method(extra=extra, smoothing=smoothing, weight=0.0)
    terms = again.loss(again.encode(given, AT), given, AT).terms
    assert terms[extra] == 0
    torch.testing.assert_close(terms["local"], losses.terms["local"])


def test_byolip_follows_and_no_gradient_reaches_the_copy():
    held, given = method(extra="byolip"), batch(12)
    held.loss(held.encode(given, AT), given, AT).total.backward()
    slow = dict(held.slow.module.named_parameters())
    assert all(value.grad is None for value in slow.values())
    before = {name: value.clone() for name, value in slow.items()}
    with torch.no_grad():
        for parameter in held.model.parameters():
            parameter.add_(1.0)
    held.after_step({}, AT)
    moved = [name for name, value in slow.items() if not torch.equal(value, before[name])]
    assert moved
    torch.testing.assert_close(slow[moved[0]], before[moved[0]] + 0.01)


def test_siamlips_pairs_are_weak_with_weak_and_strong_with_strong():
    held = method(extra="siamlip")
    given = {
        name: torch.zeros(4, 3, 5, dtype=torch.float64)
        for name in ("p_image", "p_text", "v_image", "v_text")
    }
    for at, (p, v) in product(range(3), (("p_image", "v_image"), ("p_text", "v_text"))):
        given[p][:, at, int(at > 0)] = given[v][:, at, int(at > 0)] = (
            1.0  # weak: the first axis, strong: the second
        )
    assert held._extra(given).item() == pytest.approx(0)
    given["v_text"][:, 0] = -given["v_text"][:, 0]
    assert held._extra(given).item() == pytest.approx(4 / 10)


# ---- texts


def test_texts_vary_in_training_alone_and_strong_ones_more():
    sample = Sample(
        key="a",
        source="s",
        texts=[Text(text="there is a large red circle on the left of the square")],
    )

    def drawn(strong, progress, seed):
        view = VariedTextView(tokenizer=tokenizer(), strong=strong, synonyms="common")
        return (
            tokenizer()
            .decode(view(sample, np.random.default_rng(seed), progress)["texts.main"][0])
            .strip()
        )

    whole = drawn(True, None, 0)
    weak = {drawn(False, 0.5, seed) for seed in range(40)}
    strong = {drawn(True, 0.5, seed) for seed in range(40)}
    assert whole in weak
    assert len(weak) == 2  # with and without stop words
    assert len(strong) > 8


def test_a_run_is_loaded_and_started_from(tmp_path):
    config = resolve(
        "cliprocket",
        {"train": "glyphs:split=val:design=noto"},
        image_tower="conv:image_size=32:widths=(8,16):depths=(1,1)",
        text_tower="text:width=16:depth=1:heads=2",
        embed_dim=16,
        config=FEW,
        recipe={"steps": 2, "batch_size": 32, "ema": None},
        options={"quiet": True},
    )
    run(config, tmp_path / "run")
    model = diptych.load(tmp_path / "run")
    assert model.embed_texts("a cat").shape == (1, 16)
    again = resolve(
        "cliprocket",
        {"train": "glyphs:split=val:design=noto"},
        init=str(tmp_path / "run"),
        config=FEW,
        recipe={"steps": 1, "batch_size": 32},
        options={"quiet": True},
    )
    run(again, tmp_path / "again")
    with pytest.raises(InputError, match="two heads"):
        run(
            resolve("cliprocket", {"train": "glyphs:split=val:design=noto"}, init="tiny"),
            tmp_path / "other",
        )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"extra": "siamlp"}, "did you mean 'siamlip'"),
        ({"local": -1}, "'local' of method CLIPRocket is -1"),
        ({"extra": "slip", "local": 3}, "two strong views"),
        ({"extra": "swalip"}, "set smoothing=0"),
        ({"reduction": "men"}, "did you mean 'mean'"),
        ({"text_dropout": 2.0}, "'text_dropout' of method CLIPRocket is 2.0"),
        ({"role": "caption;long"}, "one role"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        CLIPRocket.configure(config)


@pytest.mark.parametrize("extra", ["siamlip", "byolip", "barlip"])
def test_cross_modal_losses_stand_on_plain_clip_too(extra):
    held = method(local=0, extra=extra)
    given = batch(local=0)
    found = held.encode(given, AT)
    assert found["v_image"].shape == (6, 1, 8)
    losses = held.loss(found, given, AT)
    assert losses.terms.keys() == {"global", extra}
    losses.total.backward()


@pytest.mark.parametrize("extra", ["siamlip", "byolip", "barlip"])
def test_strong_views_may_have_heads_of_their_own(extra):
    held, given = method(extra=extra, strong_heads=True).eval(), batch()
    with torch.no_grad():
        found = held.encode(given, AT)
        strong = held.model.encode_image(given.images["strong"].flat).pooled
        weak = held.model.encode_image(given.images["main"].flat).pooled
        heads = held.slow.module[1] if extra == "byolip" else held.projectors
        torch.testing.assert_close(found["v_image"][:, 0], heads[0][0](weak))
        torch.testing.assert_close(found["v_image"][:, 1:].flatten(0, 1), heads[1][0](strong))
        if extra == "siamlip":
            predicted = held.predictors[1][1](found["v_text"][:, 1:])
            torch.testing.assert_close(found["p_text"][:, 1:], predicted)
    held.train()
    held.loss(held.encode(given, AT), given, AT).total.backward()
    assert all(
        p.grad is not None for p in [*held.projectors.parameters(), *held.predictors.parameters()]
    )


def test_strong_heads_without_strong_views_are_refused():
    for bad in ({"extra": "none"}, {"extra": "slip"}, {"extra": "siamlip", "local": 0}):
        with pytest.raises(InputError, match="strong_heads are those of"):
            method(strong_heads=True, **bad)


def test_a_skipped_block_leaves_a_text_as_it_was():
    torch.manual_seed(0)
    thinned, tokens = Thinned(0.0, 0.5), torch.randn(400, 3, 4)
    assert torch.equal(thinned(0, tokens), tokens)
    after = thinned(1, tokens + 1)
    moved = (after - tokens)[:, 0, 0]
    assert set(moved.round(decimals=3).tolist()) == {
        0.0,
        2.0,
    }  # skipped, or scaled up by 1 / (1 - 0.5)
    assert 150 < (moved == 0).sum() < 250
    torch.testing.assert_close(after - tokens, moved[:, None, None].expand_as(tokens))


def test_drop_path_acts_in_the_strong_pass_of_training_alone():
    held, given = method(drop_path=0.9), batch()
    calls = []
    encode = held.model.encode_text
    held.model.encode_text = lambda *args, **how: calls.append(how) or encode(*args, **how)
    held.train().encode(given, AT)
    held.eval().encode(given, AT)
    assert [set(how) for how in calls] == [set(), {"edit"}, set(), set()]
