"""GIST: captions are matched inside the class alone, by a model that is not trained, and each makes
its own pair."""

import json
import math

import numpy as np
import pytest
import torch
from tests.factories import AT, TEXT, make_method, small_make
from tests.training.helpers import make_engine, read_log, run_until
from torch.nn.functional import normalize

from diptych.data import descriptions
from diptych.data.batch import Batch
from diptych.data.columns import WithColumns
from diptych.data.pairs import Paired
from diptych.errors import InputError
from diptych.methods.adapt.gist import GIST, matched, spread
from diptych.methods.make import NO_TOWER
from diptych.methods.mix import mixed
from diptych.methods.pretrain.clip import CLIP
from diptych.testing import Toy
from diptych.towers.nn.parts import Temperature

TOY = Toy(48, ["images.main", "labels.class"])
COLOURS = TOY.schema()["labels.class"].classes
BANK = {
    name: [f"{name} {shape}" for shape in ("circle", "square", "triangle", "bar")]
    for name in COLOURS
}
BANK["red"] = ["red circle", "red bar"]


def method(seed=0, cls=GIST, text=TEXT, **config):
    return make_method(cls, seed, text=text, **config)


@pytest.fixture
def bank(tmp_path):
    descriptions.write(tmp_path / "bank.json", BANK)
    return str(tmp_path / "bank.json")


def units(count, seed, width=8):
    return normalize(
        torch.randn(
            count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        ),
        dim=1,
    )


# ---- matching


def test_the_sheets_toy():
    image = normalize(torch.tensor([[1.0, 0.2]]), dim=1)
    texts = torch.tensor([[1.0, 0.0], [math.sqrt(0.5), math.sqrt(0.5)], [0.0, 1.0]])
    cosines = 100 * image.double() @ texts.double().T
    assert cosines[0].tolist() == pytest.approx([98.058067, 83.205032, 19.611614], abs=1e-5)
    places, shares = matched(image, torch.tensor([0]), texts, [3], 3)
    assert places.tolist() == [[0, 1, 2]]
    assert shares[0].tolist() == pytest.approx([0.9999996, 3.5433e-7, 8.5337e-35], rel=1e-3)


def test_matching_by_loops():
    images, labels, sizes, top = units(30, 0), torch.arange(30) % 3, [4, 1, 6], 5
    texts = units(11, 1)
    places, shares = matched(images, labels, texts, sizes, top)
    starts = [0, 4, 5]
    for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        own = [float(image @ texts[starts[label] + k]) for k in range(sizes[label])]
        order = sorted(range(len(own)), key=lambda k: (-own[k], k))[:top]
        total = math.fsum(math.exp(100 * (value - max(own))) for value in own)
        wanted = [math.exp(100 * (own[k] - max(own))) / total for k in order]
        padding = top - len(order)
        assert places[row].tolist() == order + [-1] * padding
        assert shares[row].tolist() == pytest.approx(wanted + [0.0] * padding, abs=1e-6)


def test_lengths_of_vectors_and_other_classes_change_nothing():
    images, labels, texts = units(12, 0), torch.arange(12) % 2, units(7, 1)
    places, _ = matched(images, labels, texts, [3, 4], 2)
    assert torch.equal(matched(5 * images, labels, texts, [3, 4], 2)[0], places)
    elsewhere = texts.clone()
    elsewhere[3:] = images[0]  # captions of class 1 that fit an image of class 0 best of all
    assert torch.equal(
        matched(images, labels, elsewhere, [3, 4], 2)[0][labels == 0], places[labels == 0]
    )


def test_one_caption_a_class_is_matched_whatever_top_is():
    for top in (1, 5):
        places, shares = matched(units(6, 0), torch.arange(6) % 3, units(3, 1), [1, 1, 1], top)
        assert places[:, 0].tolist() == [0] * 6
        assert shares[:, 0].tolist() == [1.0] * 6
        assert (places[:, 1:] == -1).all()


def test_spread_counts_the_captions_that_come_first():
    assert spread(torch.zeros(6, dtype=torch.long), torch.arange(6) % 3) == 1.0
    assert spread(torch.arange(8) // 2, torch.arange(8) % 2) == pytest.approx(4.0)


def test_the_stage_matches_with_the_model_as_it_starts_and_writes_what_it_found(tmp_path, bank):
    held = method(bank=bank, top=2, use=2)
    start = {name: value.clone() for name, value in held.model.state_dict().items()}
    engine = make_engine(tmp_path / "run", method=held, source=TOY, recipe={"steps": 4})
    engine.run()
    fresh = method(bank=bank)
    pixels = torch.stack(
        [fresh.model.image.preprocess(TOY[at].images["main"].decode()) for at in range(48)]
    )
    with torch.no_grad():
        images = fresh.eval().model.embed_images(pixels)
    texts = fresh.matcher.embed_texts([text for name in COLOURS for text in BANK[name]])
    places, _ = matched(
        images, torch.arange(48) % 8, texts, [len(BANK[name]) for name in COLOURS], 2
    )
    assert torch.equal(torch.from_numpy(engine.feed.columns["train"]["matched"]), places)
    written = json.loads((tmp_path / "run" / "captions_top2.json").read_text())
    assert written == {
        f"{at:03d}": [BANK[COLOURS[at % 8]][place] for place in places[at].tolist()]
        for at in range(48)
    }
    [reported] = [line for line in read_log(tmp_path / "run") if line.get("stage") == "match"]
    assert reported["spread"] == spread(places[:, 0], torch.arange(48) % 8)
    moved = {
        name.split(".")[0]
        for name, value in held.model.state_dict().items()
        if not torch.equal(value, start[name])
    }
    assert moved == {"image", "text", "image_projection", "text_projection", "logit_scale"}


def test_another_model_matches_and_stays_as_it_is(tmp_path, bank):
    held = method(bank=bank, matcher="tiny", top=1, use=1)
    engine = make_engine(tmp_path / "run", method=held, source=TOY, recipe={"steps": 2})
    engine.run()
    assert not any(name.startswith("teacher") for name, _ in held.named_parameters())
    own = make_engine(
        tmp_path / "own", method=method(bank=bank, top=1, use=1), source=TOY, recipe={"steps": 2}
    )
    own.run()
    assert not np.array_equal(
        engine.feed.columns["train"]["matched"], own.feed.columns["train"]["matched"]
    )


def test_a_run_that_goes_on_does_not_match_again(tmp_path, bank):
    unbroken = make_engine(tmp_path / "a", method=method(bank=bank), source=TOY, save_every=1)
    unbroken.run()
    run_until(make_engine(tmp_path / "b", method=method(bank=bank), source=TOY, save_every=1), 3)
    resumed = make_engine(
        tmp_path / "b", method=method(seed=9, bank=bank), source=TOY, save_every=1
    )
    resumed.method.match = lambda run: pytest.fail("it matches again")
    resumed.run(resume=True)
    assert all(
        torch.equal(v, resumed.method.state_dict()[k])
        for k, v in unbroken.method.state_dict().items()
    )


# ---- pairs


def pairs(held, columns=None):
    held.setup({"train": TOY})
    source = WithColumns(TOY, columns) if columns else TOY
    found = held.samples(held.stages()[-1], "train", source)
    assert isinstance(found, Paired)
    return found


def test_each_of_the_first_captions_makes_a_pair(bank):
    places = np.tile([[2, 0, 3]], (48, 1))
    places[np.arange(48) % 8 == 0] = [1, 0, -1]  # of red there are two captions
    found = pairs(method(bank=bank, top=3, use=2), {"matched": places})
    assert len(found) == 96
    texts = [[found[2 * at + k].captions("matched")[0] for k in range(2)] for at in range(48)]
    assert texts[:2] == [
        ["red: red bar", "red: red circle"],
        ["orange: orange triangle", "orange: orange circle"],
    ]
    more = pairs(method(bank=bank, top=3, use=3), {"matched": places})
    assert len(more) == 3 * 48 - 6  # six red images have two each
    assert set(more.labels("origin").tolist()) == set(range(48))


def test_an_epoch_is_a_pass_over_all_pairs(tmp_path, bank):
    engine = make_engine(
        tmp_path / "run",
        method=method(bank=bank),
        source=TOY,
        recipe={"steps": None, "epochs": 1.0, "batch_size": 16},
    )
    summary = engine.run()
    assert (
        summary.steps == 1 + (42 * 4 + 6 * 2) // 16 + 1
    )  # the match, and 180 pairs in batches of 16 at the most


def test_the_name_stands_before_a_caption_once():
    held = method(bank="a {}")
    assert (
        held.said("Black-footed Albatross", "a dark bird") == "Black-footed Albatross: a dark bird"
    )
    assert (
        held.said("Black-footed Albatross", "black footed albatross: dark bird")
        == "Black-footed Albatross: dark bird"
    )
    assert held.said("Wren", "note: small") == "Wren: note: small"
    assert method(bank="a {}", prefix=False).said("Wren", "wren: small") == "wren: small"


def test_long_captions_are_matched_and_short_ones_trained_on(tmp_path, bank):
    short = {text: text.split()[1] for texts in BANK.values() for text in texts}
    (tmp_path / "short.json").write_text(json.dumps(short))
    held = method(bank=bank, summaries=str(tmp_path / "short.json"), top=2, use=2)
    engine = make_engine(tmp_path / "run", method=held, source=TOY, recipe={"steps": 1})
    engine.run()
    plain = make_engine(
        tmp_path / "plain", method=method(bank=bank, top=2, use=2), source=TOY, recipe={"steps": 1}
    )
    plain.run()
    assert np.array_equal(
        engine.feed.columns["train"]["matched"], plain.feed.columns["train"]["matched"]
    )
    assert held.table()[:3] == ["red: circle", "red: bar", "orange: circle"]
    written = json.loads((tmp_path / "run" / "captions_top2.json").read_text())
    assert set(written["000"]) == {"circle", "bar"}


def test_what_one_run_matched_another_takes_as_it_is(tmp_path, bank):
    engine = make_engine(
        tmp_path / "run", method=method(bank=bank), source=TOY, recipe={"steps": 3}
    )
    engine.run()
    ready = method(captions=str(tmp_path / "run" / "captions_top5.json"))
    assert [stage.name for stage in ready.stages()] == ["train"]
    one, other = pairs(ready), pairs(method(bank=bank), engine.feed.columns["train"])
    assert [sample.captions("*") for sample in one] == [sample.captions("*") for sample in other]
    make_engine(tmp_path / "ready", method=ready, source=TOY, recipe={"steps": 3}).run()
    losses = [
        [line["loss"] for line in read_log(tmp_path / name) if line.get("stage") == "train"]
        for name in ("run", "ready")
    ]
    assert losses[0] == losses[1]


def test_without_names_before_them_ready_captions_need_no_label(tmp_path):
    descriptions.write(tmp_path / "captions.json", {key: ["a circle"] for key in TOY.keys()})  # noqa: SIM118
    bare = Toy(48, ["images.main"])
    held = method(captions=str(tmp_path / "captions.json"), prefix=False)
    make_engine(tmp_path / "run", method=held, source=bare, recipe={"steps": 1}).run()
    with pytest.raises(InputError, match=r"toy has no labels\.class, which GIST needs"):
        method(captions=str(tmp_path / "captions.json")).setup({"train": bare})


# ---- the loss


def loss(image, text, origin=None, scale=100.0, **config):
    held = method(bank="a {}", **config)
    held.model.logit_scale = Temperature(scale)
    count = len(image)
    fields = {} if origin is None else {"origin": torch.tensor(origin)}
    return held.loss(
        {"image": image, "text": text}, Batch(fields=fields, keys=("k",) * count), AT
    ).total.item()


def test_the_scale_is_clips_and_has_no_bounds():
    held = method(bank="a {}")
    assert held.model.logit_scale().item() == pytest.approx(100.0)
    assert held.model.config()["logit_scale"]["clamp"] is None
    assert (held.model.logit_scale() * torch.ones(1)).item() == pytest.approx(100.0)
    bounded = small_make(dual=method(cls=CLIP).model.config())
    assert CLIP(CLIP.configure({}), bounded).model.logit_scale.clamp is not None
    assert GIST(GIST.configure({"bank": "a {}"}), bounded).model.logit_scale.clamp is None


@pytest.mark.parametrize(("groups", "floor"), [([0, 0, 1, 1], 0.693147), ([0, 0, 1, 2], 0.346574)])
def test_the_floor_of_duplicates(groups, floor):
    apart = torch.eye(4)[groups]
    assert loss(apart, apart) == pytest.approx(floor, abs=1e-5)
    # one image with different captions: neither way can tell its rows apart, wherever the captions
    # lie
    captions = normalize(apart + 0.3 * torch.eye(4), dim=1)
    images = torch.stack(
        [
            captions[[at for at, other in enumerate(groups) if other == group]].mean(0)
            for group in groups
        ]
    )
    assert loss(normalize(images, dim=1), captions) == pytest.approx(floor, abs=1e-3)


def test_grouped_pairs_of_a_image_are_right_for_each_other():
    image, text = units(4, 0).float(), units(4, 1).float()
    image[1] = normalize(image[0] + 0.3 * image[1], dim=0)  # another view of the same image
    origin = [7, 7, 8, 9]
    swapped = text[[1, 0, 2, 3]]
    grouped = loss(image, text, origin, scale=3.0, group_positives=True)
    assert grouped == pytest.approx(
        loss(image, swapped, origin, scale=3.0, group_positives=True), abs=1e-6
    )
    logits = 3.0 * image.double() @ text.double().T
    rows = []
    for matrix in (logits, logits.T):
        for i in range(4):
            right = [j for j in range(4) if origin[j] == origin[i]]
            total = torch.logsumexp(matrix[i], 0)
            rows.append(sum(float(total - matrix[i, j]) for j in right) / len(right))
    assert grouped == pytest.approx(sum(rows) / 8, abs=1e-5)
    assert grouped != pytest.approx(loss(image, text, scale=3.0), abs=1e-3)
    same = image[
        [0, 0, 2, 3]
    ]  # of equal views the sum over a group is the sum over its rows: nothing changes
    assert loss(same, text, origin, group_positives=True) == pytest.approx(
        loss(same, text), rel=1e-5
    )


def test_grouped_pairs_train(tmp_path, bank):
    held = method(bank=bank, group_positives=True)
    make_engine(tmp_path, method=held, source=TOY, recipe={"steps": 2}).run()


def test_another_loss_is_added_to_the_pairs(tmp_path, bank):
    both = mixed(method(bank=bank), ["siglip:weight=0.5"])
    make_engine(tmp_path, method=both, source=TOY, recipe={"steps": 2}).run()
    losses = [line for line in read_log(tmp_path) if line.get("stage") == "train"]
    assert len(losses) == 2
    assert any(name.startswith("loss/siglip") for name in losses[0])


def test_one_caption_without_its_name_before_it_is_class_name_fine_tuning(tmp_path):
    class Named(Toy):
        """The toy with its class's name in a prompt as caption."""

        def __getitem__(self, index):
            from dataclasses import replace

            from diptych.data.sample import Text

            return replace(
                super().__getitem__(index), texts=[Text(text=f"a photo of a {COLOURS[index % 8]}.")]
            )

    held = method(bank="a photo of a {}.", top=1, use=1, prefix=False)
    make_engine(tmp_path / "gist", method=held, source=TOY).run()
    clip = method(cls=CLIP, scale=100.0, max_scale=1e6)
    make_engine(
        tmp_path / "clip", method=clip, source=Named(48, ["images.main", "texts.caption"])
    ).run()
    losses = [
        [line["loss"] for line in read_log(tmp_path / name) if line.get("stage") == "train"]
        for name in ("gist", "clip")
    ]
    assert len(losses[0]) == 9
    assert losses[0] == losses[1]
    assert all(
        torch.equal(held.model.state_dict()[name], value)
        for name, value in clip.model.state_dict().items()
    )


# ---- what is refused


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"bank": "a {}", "top": 0}, "'top' of method GIST is 0"),
        ({"bank": "a {}", "use": 0}, "'use' of method GIST is 0"),
        ({"bank": "a {}", "use": 6}, "use is 6, and only 5 captions"),
        ({"bank": "a {}", "texts": 2}, "unknown option"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        GIST.configure(config)


def test_captions_that_the_text_tower_would_cut_are_counted_and_named():
    words = "square " * 30
    with pytest.raises(
        InputError,
        match=r"8 of 16 captions, such as 'red: a square .*', are longer than the 24 tokens "
        r"that the text tower reads; .*--method\.summaries",
    ):
        method(bank=f"a {{}} | a {words}{{}}").setup({"train": TOY})


def test_captions_that_the_matcher_would_cut_are_refused_unless_it_may(tmp_path):
    long = {
        name: [f"{name} {shape} {'square ' * 30}" for shape in ("bar", "circle")]
        for name in COLOURS
    }
    descriptions.write(tmp_path / "bank.json", long)
    short = {text.strip(): " ".join(text.split()[:2]) for texts in long.values() for text in texts}
    (tmp_path / "short.json").write_text(json.dumps(short))
    files = {"bank": str(tmp_path / "bank.json"), "summaries": str(tmp_path / "short.json")}
    with pytest.raises(
        InputError, match=r"16 of 16 captions, .* that the matcher reads; .*--method\.cut true"
    ):
        make_engine(tmp_path / "a", method=method(**files), source=TOY).run()
    make_engine(
        tmp_path / "b", method=method(**files, cut=True), source=TOY, recipe={"steps": 1}
    ).run()


def test_classes_and_images_without_captions_are_named(tmp_path):
    descriptions.write(tmp_path / "bank.json", {name: ["x"] for name in COLOURS[1:]})
    with pytest.raises(InputError, match=r"bank\.json: there is no class 'red'"):
        method(bank=str(tmp_path / "bank.json")).setup({"train": TOY})
    descriptions.write(tmp_path / "captions.json", {f"{at:03d}": ["x"] for at in range(40)})
    with pytest.raises(
        InputError, match=r"captions\.json has no captions of 8 of the 48 images, such as '040'"
    ):
        method(captions=str(tmp_path / "captions.json")).setup({"train": TOY})
    descriptions.write(tmp_path / "long.json", {f"{at:03d}": ["square " * 30] for at in range(48)})
    with pytest.raises(InputError, match=r"8 of 8 captions, .* shorten them in .*long\.json"):
        pairs(method(captions=str(tmp_path / "long.json")))


def test_without_a_bank_the_way_to_give_one_is_told():
    with pytest.raises(
        InputError, match=r"gist has no bank; name a JSON file .* with --method\.bank"
    ):
        method().setup({"train": TOY})


def test_a_model_without_texts_is_refused():
    with pytest.raises(InputError, match="start from one of images and texts"):
        method(text=NO_TOWER, bank="a {}")
