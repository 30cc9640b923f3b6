"""Distillation: open_clip's loss, a teacher that no part of training touches, runs that teach and
are resumed."""

import shutil

import pytest
import torch
from tests.factories import AT, IMAGE, TEXT, make_method
from tests.training.helpers import read_log
from torch.nn.functional import normalize

import diptych
from diptych.errors import InputError
from diptych.methods.base import Recipe
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.distill_clip import DistillCLIP
from diptych.testing import Toy
from diptych.training.config import resolve
from diptych.training.engine import Engine
from diptych.training.options import Options
from diptych.training.run import run

GLYPHS = "glyphs:split=val:design=noto"
SMALL = {
    "image_tower": IMAGE,
    "text_tower": TEXT,
    "embed_dim": 16,
    "tokenizer": "bpe:vocab_size=400:context=24",
}


def method(cls=DistillCLIP, **config):
    given = {"teacher": "tiny"} if cls is DistillCLIP else {}
    return make_method(cls, embed_dim=16, **{**given, **config})


def features(count=12):
    generator = torch.Generator().manual_seed(0)
    shapes = {"image": 16, "text": 16, "teacher_image": 192, "teacher_text": 192}
    return {
        name: normalize(torch.randn(count, width, generator=generator), dim=1).requires_grad_()
        for name, width in shapes.items()
    }


def engine(held, out, steps=4, **options):
    out.mkdir(parents=True, exist_ok=True)
    return Engine(
        held,
        Recipe(lr=1e-3, batch_size=16, steps=steps),
        {"train": Toy(44)},
        out,
        Options(quiet=True, **options),
    )


@pytest.mark.parity
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_loss_is_open_clips(weight):
    from open_clip.loss import DistillClipLoss

    held, given = method(distillation=weight), features()
    mine = held.loss(given, None, AT).terms
    student, teacher = (
        (given["image"], given["text"]),
        (given["teacher_image"].detach(), given["teacher_text"].detach()),
    )
    scales = held.model.logit_scale(), diptych.load("tiny").encoder.logit_scale().detach()
    contrastive, distance = DistillClipLoss()(*student, scales[0], *teacher, scales[1])
    torch.testing.assert_close(mine["contrastive"], contrastive)
    torch.testing.assert_close(mine["distillation"], weight * distance)
    learnt = [*student, held.model.logit_scale.value]
    ours = torch.autograd.grad(sum(mine.values()), learnt)
    theirs = torch.autograd.grad(contrastive + weight * distance, learnt)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_without_weight_it_is_clip():
    held, given = method(distillation=0.0), features()
    torch.testing.assert_close(
        held.loss(given, None, AT).total, method(CLIP).loss(given, None, AT).total
    )


def test_the_teacher_is_no_part_of_what_is_trained_or_saved(tmp_path):
    held, plain = method().train(), method(CLIP)
    assert [name for name, _ in held.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]
    before = {name: value.clone() for name, value in held.teacher.module.state_dict().items()}
    running = engine(held, tmp_path, save_every=2)
    running.run()
    assert not held.teacher.module.training
    assert all(parameter.grad is None for parameter in held.teacher.module.parameters())
    assert all(
        torch.equal(before[name], value) for name, value in held.teacher.module.state_dict().items()
    )
    saved = running.checkpoints.load()
    assert saved["method"].keys() - plain.state_dict().keys() == {"teacher.checksum"}
    assert held.deliver().state_dict().keys() == plain.deliver().state_dict().keys()
    assert {"loss/contrastive", "loss/distillation"} <= read_log(tmp_path)[0].keys()


def trained(folder, **how):
    """A run of two steps of this method, or of its teacher's."""
    name = how.pop("method", "distill_clip")
    config = resolve(
        name,
        {"train": GLYPHS},
        recipe={"steps": 2, "batch_size": 16, "ema": None},
        options={"quiet": True, "seed": how.pop("seed", 0)},
        **{**SMALL, **how},
    )
    run(config, folder)
    return folder


def test_a_run_teaches_another_which_is_then_loaded_without_it(tmp_path):
    teacher = trained(tmp_path / "teacher", method="clip")
    student = trained(tmp_path / "student", config={"teacher": str(teacher)})
    shutil.rmtree(teacher)
    assert diptych.load(student).embed_texts(["a thing"]).shape == (1, 16)
    with pytest.raises(
        InputError, match=f"the teacher cannot be loaded: there is no model at '{teacher}'"
    ):
        trained(tmp_path / "another", config={"teacher": str(teacher)})


def test_a_run_goes_on_with_its_teacher_and_with_no_other(tmp_path):
    """The unbroken run's bits; where the folder of the teacher holds another model by then, a
    refusal."""
    teacher = trained(tmp_path / "teacher", method="clip")
    unbroken = method(teacher=str(teacher))
    engine(unbroken, tmp_path / "a").run()

    class Stopped(Exception):
        pass

    first = engine(method(teacher=str(teacher)), tmp_path / "b", save_every=2)
    original = first._snapshot

    def snapshot(optimizer):
        original(optimizer)
        if first.position.done == 2:
            raise Stopped

    first._snapshot = snapshot
    with pytest.raises(Stopped):
        first.run()
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    resumed = method(teacher=str(teacher))
    engine(resumed, tmp_path / "b").run(resume=True)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])

    shutil.rmtree(teacher)
    trained(teacher, method="clip", seed=1)
    with pytest.raises(InputError, match="this checkpoint was made with another"):
        engine(method(teacher=str(teacher)), tmp_path / "c").run(resume=True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"teacher": ""}, "name a model with --method.teacher"),
        ({"distillation": -1.0}, "'distillation' of method DistillCLIP is -1.0"),
        ({"role": "caption;long"}, "one role"),
        ({"teachr": "tiny"}, "did you mean 'teacher'"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        DistillCLIP.configure({"teacher": "tiny", **config})
