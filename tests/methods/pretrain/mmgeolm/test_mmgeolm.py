"""Training on lists: what a list holds, and which negatives are left out."""

from dataclasses import replace

import pytest
import torch
from tests.factories import make_method
from tests.training.helpers import make_engine, read_log

from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Text
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.pretrain.mmgeolm import MMGeoLM
from diptych.methods.pretrain.mmgeolm.lists import list_loss
from diptych.testing import Toy

FIELDS = ("images.main", "texts.caption", "edits")


def method(**config):
    return make_method(MMGeoLM, **config).eval()


def number(loss):
    return float(loss.detach())


def batch_of(made, axis, source=None):
    """A batch in the middle of training."""
    stage = next(stage for stage in made.stages() if stage.name == axis)
    loader = Loader(source or Toy(6, FIELDS), made.views(stage), InOrder(), 6, steps=10)
    return next(loader.epoch(0, step=5)), At(5, 10, 0, 0, axis)


class Changed(Wrapped):
    """A source whose samples a function changes."""

    def __init__(self, source, change):
        super().__init__(source)
        self.change = change

    def __getitem__(self, index):
        return self.change(super().__getitem__(index))


def same_first(sample):
    """The first edit is the sample itself, by another key."""
    first, *others = sample.edits
    return replace(
        sample, edits=[replace(first, images=sample.images, texts=sample.texts), *others]
    )


def test_the_text_stage_compares_an_image_with_its_own_captions():
    """The loss by loops, from cosines of texts that are embedded one by one."""
    made = method()
    batch, at = batch_of(made, "text")
    loss = made.loss(made.encode(batch, at), batch, at).terms["list"]
    model = made.model
    scale = model.logit_scale()
    total = torch.zeros(())
    source = Toy(6, FIELDS)
    for index in range(6):
        texts = [source[index].captions()[0], *(e.captions()[0] for e in source[index].edits)]
        image = model.embed_images(batch.image.pixels[index])
        cosines = []
        for text in texts:
            ids = torch.tensor(made.make.tokenizer.encode([text]))
            embedded = model.embed_texts(ids, torch.tensor([ids.shape[1]]))
            cosines.append(scale * (image @ embedded.T).squeeze())
        z = torch.stack(cosines)
        total = total + z.logsumexp(0) - z[0]
    assert number(loss) == pytest.approx(number(total) / 6, rel=1e-4)


def test_the_image_stage_is_sigmoid_with_the_bias_and_the_text_stage_softmax_without():
    made = method(bias=-3.0)
    for axis, bias, form in (("text", 0.0, "softmax"), ("image", -3.0, "sigmoid")):
        batch, at = batch_of(made, axis)
        found = made.encode(batch, at)
        anchor = found["image" if axis == "text" else "text"]
        z = made.model.logit_scale() * torch.einsum("be,bne->bn", anchor, found[axis]) + bias
        want = list_loss(z, found["there"] > 0, form=form)
        assert number(made.loss(found, batch, at).total) == pytest.approx(number(want), rel=1e-6)
    other = method(image_loss="softmax", text_loss="sigmoid", text_bias=True)
    assert other.config.text_bias
    assert not torch.isnan(other.loss(found, batch, at).total)


def test_a_sample_and_its_edits_are_read_alike():
    """A crop of the sample alone would tell it from its edits without the caption."""
    batch, _ = batch_of(method(), "image", Changed(Toy(6, FIELDS), same_first))
    assert torch.equal(batch.image.pixels[:, 0], batch.images["edits"].pixels[:, 0])


@pytest.mark.parametrize("axis", ["text", "image"])
def test_a_negative_that_equals_its_positive_is_left_out(axis):
    made = method()
    batch, at = batch_of(made, axis, Changed(Toy(6, FIELDS), same_first))
    found = made.encode(batch, at)
    assert (
        found["there"].tolist()
        == [[1.0, 0.0, 1.0, 1.0] + [0.0] * (found["there"].shape[1] - 4)] * 6
    )
    shorter = Changed(Toy(6, FIELDS), lambda sample: replace(sample, edits=sample.edits[1:]))
    less, _ = batch_of(made, axis, shorter)
    assert number(made.loss(found, batch, at).total) == pytest.approx(
        number(made.loss(made.encode(less, at), less, at).total), rel=1e-5
    )
    logged = made.loss(found, batch, at).logged
    assert number(logged["negatives"]) == 2


def test_no_sample_depends_on_another():
    made = method()
    for axis in ("text", "image"):
        batch, at = batch_of(made, axis)
        whole = made.loss(made.encode(batch, at), batch, at).total
        parts = []
        for index in range(6):
            one = batch.rows(index, index + 1)
            parts.append(made.loss(made.encode(one, at), one, at).total)
        assert number(whole) == pytest.approx(number(torch.stack(parts).mean()), rel=1e-5)


def test_captions_that_the_tokenizer_cuts_are_told_of(tmp_path, caplog):
    def long(sample):
        start = "a " * 30
        return replace(
            sample,
            texts=[Text(text=start + sample.captions()[0])],
            edits=[replace(e, texts=[Text(text=start + e.captions()[0])]) for e in sample.edits],
        )

    made = method(order=["text"])
    engine = make_engine(
        tmp_path,
        method=made,
        source=Changed(Toy(8, FIELDS), long),
        recipe={"batch_size": 4, "steps": 1},
    )
    engine.run()
    assert "24 of 24 negative captions read like the caption of their sample" in caplog.text


def test_stages_follow_in_order_and_frozen_towers_stay(tmp_path):
    made = make_method(MMGeoLM, order=["image", "text"], frozen=["text"])
    assert [stage.name for stage in made.stages()] == ["image", "text"]
    before = {name: value.clone() for name, value in made.model.named_parameters()}
    source = Toy(8, FIELDS)
    make_engine(tmp_path, method=made, source=source, recipe={"batch_size": 4, "steps": 2}).run()
    changed = {
        name.split(".")[0]
        for name, value in made.model.named_parameters()
        if not torch.equal(value.detach(), before[name])
    }
    assert "image" in changed
    assert "text" not in changed
    assert read_log(tmp_path)


def test_negatives_that_a_stage_lacks_are_told_of_before_the_first_step():
    def texts_alone(sample):
        return replace(sample, edits=[replace(edit, images={}) for edit in sample.edits])

    source = Changed(Toy(6, FIELDS), texts_alone)
    method(order=["text"]).setup({"train": source})
    with pytest.raises(InputError, match="no edits with images, which the stage 'image' compares"):
        method().setup({"train": source})
    with pytest.raises(InputError, match=r"leave the stage out with --method.order \[text\]"):
        method().setup({"train": source})


def test_a_kind_that_no_sample_has_is_told_of_before_the_first_step():
    source = Toy(6, FIELDS)
    kinds = {edit.kind for index in range(6) for edit in source[index].edits}
    method(kinds=sorted(kinds)).setup({"train": source})
    with pytest.raises(InputError, match="no edits of kind rules or names with captions"):
        method(kinds=["rules", "names"]).setup({"train": source})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"order": ["texts"]}, "order is \\['texts'\\]; it must be text, image or both, each once"),
        ({"order": []}, "order is \\[\\]"),
        ({"frozen": ["text", "text"]}, "frozen is"),
    ],
)
def test_wrong_orders_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        method(**config)
