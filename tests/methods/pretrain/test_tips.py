"""TIPS: the figures of the sheet, the loss by loops, what the student and the teacher see, and a run
from training to a stage of higher resolution."""

import json
import math

import pytest
import torch
from tests.factories import AT, make_batch, make_method, small_make, tokenizer
from torch.nn.functional import normalize

import diptych
from diptych.cli import main
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.make import Make
from diptych.methods.pretrain.tips.objectives import (
    PrototypeHead,
    centred,
    cross_entropy,
    entropy,
)
from diptych.methods.registry import method_class
from diptych.objectives import info_nce
from diptych.towers.build import text_tower
from diptych.towers.nn.parts import cosine_momentum

IMAGE = (
    "vit:image_size=32:patch=8:width=32:depth=2:heads=2:cls=2:cls_std=0:layer_scale=1.0:"
    "mask_token=true:any_size=true:interpolation=bilinear"
)
OPTIONS = {"crop_size": 16, "crops": 3, "head": "mlp:hidden=16:layers=3:norm=none:activation=gelu",
           "head_width": 8, "prototypes": 12}  # fmt: skip
WORDS = tokenizer()
DATA = "scenes:size=32:texts=web+synthetic:count=40"
LINE = ["train", "tips", "--data", DATA, "--steps", "2", "--batch-size", "8", "--quiet",
        *(f"--method.{name}={value}" for name, value in OPTIONS.items())]  # fmt: skip
TRAIN = [
    "--image-tower",
    IMAGE,
    "--text-tower",
    "text:width=32:depth=1:heads=2",
    "--embed-dim",
    "32",
]


def tips(image=IMAGE, seed=0, **config):
    method = make_method("tips", seed, image, words=WORDS, **{**OPTIONS, **config})
    with torch.no_grad():  # tokens and prompts that differ, as after some steps
        method.model.image.cls.normal_()
    return method


def batch_of(count=4, crops=3, seed=0, share=0.5):
    """A batch with `crops` local crops and a share of the 16 patches hidden, random ones."""
    batch = make_batch(count, {"main": 1}, {"main": 1, "main2": 1}, seed=seed)
    local = make_batch(count, {"local": crops}, size=16, seed=seed + 1).images
    order = torch.rand(count, 16, generator=torch.Generator().manual_seed(seed)).argsort(1)
    batch.fields["main.hidden"] = order < round(16 * share)
    batch.images.update(local)
    return batch


def total(method, batch, at=AT):
    features = method.encode(batch, at)
    means = {name: value.mean(0) for name, value in features.items() if name in method.averaged}
    return method.loss({**features, **means}, batch, at)


# ---- figures


def test_figures_of_the_cross_entropy():
    student = torch.tensor([2.0, 0, -1], dtype=torch.float64)
    teacher = torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64)
    centre = torch.tensor([0.2, 0.1, 0], dtype=torch.float64)
    for tau_student, tau_teacher, figure in ((0.1, 0.07, 0.065753), (1, 1, 1.280706)):
        found = cross_entropy(centred(teacher, centre, tau_teacher), student, tau_student)
        assert found.item() == pytest.approx(figure, abs=5e-7)
    same = torch.full((32_768,), 0.3, dtype=torch.float64)
    found = cross_entropy(centred(same, 0 * same, 0.07), same, 0.1)
    assert found.item() == pytest.approx(10.397208, abs=5e-7)
    assert entropy(centred(same, 0 * same, 0.07)).item() == pytest.approx(math.log(32_768))


def test_a_new_head_is_near_the_logarithm_of_its_prototypes_and_nearer_on_its_own_input():
    torch.manual_seed(0)
    config = method_class("tips").Config()
    head = PrototypeHead(config.head, 64, config.head_width, config.prototypes)
    x = torch.randn(4, 64)
    with torch.no_grad():
        own = head(x)
        assert own.std().item() == pytest.approx(256**-0.5, rel=0.1)
        targets = centred(own, torch.zeros(config.prototypes), 0.07)
        assert cross_entropy(targets, own, 0.1).mean().item() == pytest.approx(10.03, abs=0.1)
        other = torch.randn(4, 256)
        apart = cross_entropy(targets, head.cosines(normalize(other, dim=-1)), 0.1).mean()
    assert abs(apart.item() - math.log(32_768)) < 0.4


def test_momentum_and_temperatures_follow_their_schedules():
    assert [round(cosine_momentum(0.994, t), 6) for t in (0, 0.5, 1)] == [0.994, 0.997, 1.0]
    method = tips()
    taus = [method.mask_tau(At(step, 100, 0, 0)) for step in (0, 15, 30, 100)]
    assert taus == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert tips(ramp=0.0).mask_tau(AT) == pytest.approx(0.07)


def test_parameters_are_those_of_the_published_sizes():
    """Patches, positions, CLS and mask tokens, blocks with layer scale, the final norm."""
    for name, width, depth, mlp in (
        ("paper", 768, 12, 3072),
        ("vit_so400m", 1152, 27, 4304),
        ("vit_g", 1536, 40, 4096),
    ):
        preset = method_class("tips").presets[name]
        make = small_make(preset.image, preset.text, width, WORDS)
        with torch.device("meta"):
            tower, text = make.image(), make.text()
        first = mlp * (2 if name == "vit_g" else 1)
        attention = 4 * (width * width + width)
        block = attention + width * first + first + mlp * width + width + 6 * width
        count = (3 * 14 * 14 + 1 + 256 + 2 + 1 + 2) * width + depth * block
        assert sum(p.numel() for p in tower.parameters()) == count
        assert text.config.depth == (27 if name == "vit_so400m" else 12)
        assert not any("positions" in key for key in text.state_dict())


# ---- the loss by loops


def slow_softmax(logits, tau):
    powers = [math.exp(value / tau) for value in logits]
    return [power / sum(powers) for power in powers]


def slow_entropy(teacher, student, centre, tau_teacher, tau_student):
    shifted = [t - c for t, c in zip(teacher, centre, strict=True)]
    p = slow_softmax(shifted, tau_teacher)
    q = slow_softmax(student, tau_student)
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def slow_info_nce(x, y, tau):
    rows = [[sum(a * b for a, b in zip(one, two, strict=True)) / tau for two in y] for one in x]
    both = [rows, [list(column) for column in zip(*rows, strict=True)]]
    losses = [-math.log(slow_softmax(row, 1)[i]) for side in both for i, row in enumerate(side)]
    return sum(losses) / len(losses)


def slow_logits(head, vectors):
    """The cosines of the MLP's outputs with each prototype."""
    found = []
    for out in head.mlp(vectors).tolist():
        row = []
        for prototype in head.prototypes.weight.tolist():
            dot = sum(a * b for a, b in zip(out, prototype, strict=True))
            row.append(dot / math.hypot(*out) / math.hypot(*prototype))
        found.append(row)
    return found


def slow_terms(method, batch, at):
    model, tower = method.model, method.model.image
    slow, heads = method.teacher.module
    pixels = batch.image.flat
    pooled, taught = tower(pixels).pooled, slow(pixels)
    contrastive = []
    for k, name in enumerate(("main", "main2")):
        text = normalize(model.encode_text(*batch.texts[name].flat).pooled, dim=1).tolist()
        image = normalize(pooled[:, k], dim=1).tolist()
        contrastive.append(slow_info_nce(image, text, model.logit_scale.value.item()) / 2)
    centre = method.centre_cls.tolist()
    teacher = slow_logits(heads["cls"], taught.pooled[:, 0])
    distill = []
    for i, crops in enumerate(batch.images["local"].pixels):
        students = slow_logits(method.heads["cls"], tower(crops).pooled[:, 0])
        distill += [slow_entropy(teacher[i], student, centre, 0.07, 0.1) for student in students]
    hidden = batch.fields["main.hidden"]
    seen = tower(pixels, hidden=hidden).patches
    centre = method.centre_patch.tolist()
    predicted = []
    for i, n in hidden.nonzero().tolist():
        [student] = slow_logits(method.heads["patch"], seen[i, n][None])
        [target] = slow_logits(heads["patch"], taught.patches[i, n][None])
        tau = 0.04 + 0.03 * min(1, at.step / at.steps / 0.3)
        predicted.append(slow_entropy(target, student, centre, tau, 0.1))
    return (*contrastive, sum(distill) / len(distill), 2 * sum(predicted) / len(predicted))


def test_terms_are_those_of_loops_and_state_changes_after_use():
    torch.set_default_dtype(torch.float64)
    try:
        method = tips()
        batch = batch_of()
        batch.fields["main.hidden"][0] = False  # a mean over all hidden patches, not over images
        with torch.no_grad():
            for parameter in method.model.image.parameters():  # else the teacher is the student
                parameter.add_(0.1 * torch.randn_like(parameter))
            method.centre_cls.copy_(0.1 * torch.randn(12))
            method.centre_patch.copy_(0.1 * torch.randn(12))
            at = At(2, 20, 0, 0)
            found = total(method, batch, at)
            terms = [found.terms[name].item() for name in ("web", "synthetic", "distill", "mask")]
            assert terms == pytest.approx(slow_terms(method, batch, at), abs=1e-9)
            slow, heads = method.teacher.module
            taught = slow(batch.image.flat)
            means = {
                "cls": torch.tensor(slow_logits(heads["cls"], taught.pooled[:, 0])).mean(0),
                "patch": torch.tensor(slow_logits(heads["patch"], taught.patches.flatten(0, 1))).mean(0),
            }  # fmt: skip
            expected = {
                part: 0.9 * getattr(method, f"centre_{part}") + 0.1 * mean
                for part, mean in means.items()
            }
            m = 1 - 0.006 * (math.cos(math.pi * 0.1) + 1) / 2
            pairs = [(slow.norm.weight, method.model.image.norm.weight),
                     (heads["cls"].prototypes.weight, method.heads["cls"].prototypes.weight)]  # fmt: skip
            moved = [m * old + (1 - m) * new for old, new in pairs]
            method.after_step(found.carry, at)
            for part, centre in expected.items():
                torch.testing.assert_close(getattr(method, f"centre_{part}"), centre)
            for (old, _), new in zip(pairs, moved, strict=True):
                torch.testing.assert_close(old, new)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_cross_entropy_has_the_right_gradient():
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 3, 5, dtype=torch.float64)
    centre = torch.randn(5, dtype=torch.float64)
    student.requires_grad_()
    teacher.requires_grad_()
    targets = centred(teacher, centre, 0.5)
    assert torch.autograd.gradcheck(lambda s: cross_entropy(targets, s, 0.3), student)
    assert not targets.requires_grad
    moved = centred(teacher + 7, centre, 0.5)  # a constant added to all logits of the teacher
    torch.testing.assert_close(moved, targets)


# ---- what is seen, and by whom


def test_prototypes_may_be_permuted_in_student_teacher_and_centre_together():
    method = tips()
    with torch.no_grad():
        method.centre_cls.normal_()
        method.centre_patch.normal_()
    before = total(method, batch_of()).total
    order = torch.randperm(12)
    with torch.no_grad():
        for part in ("cls", "patch"):
            for heads in (method.heads, method.teacher.module[1]):
                weight = heads[part].prototypes.weight
                weight.copy_(weight[order])
            centre = getattr(method, f"centre_{part}")
            centre.copy_(centre[order])
    torch.testing.assert_close(total(method, batch_of()).total, before)


def test_hidden_patches_reach_the_student_of_masked_prediction_alone():
    method = tips().eval()
    one = method.encode(batch_of(), AT)
    other_batch = batch_of()
    other_batch.fields["main.hidden"] = batch_of(seed=5).fields["main.hidden"]
    other = method.encode(other_batch, AT)
    assert not torch.equal(one["predicted"], other["predicted"])
    for name in set(one) - {"predicted", "hidden"}:
        assert torch.equal(one[name], other[name]), name


def test_each_caption_trains_its_own_token():
    method = tips(alpha=0.0, beta=0.0)
    features = method.encode(batch_of(), AT)
    for end, k in (("", 0), ("2", 1)):
        pooled = normalize(method.model.image(batch_of().image.flat).pooled[:, k], dim=1)
        torch.testing.assert_close(features[f"image{end}"], pooled)
        space = method.model.space(("web", "synthetic")[k])
        torch.testing.assert_close(space.embed_images(batch_of().image.flat), pooled)
    losses = method.loss(features, batch_of(), AT)
    (gradient,) = torch.autograd.grad(losses.terms["web"], method.model.image.cls)
    assert gradient[0].abs().sum() > 0


def test_without_the_other_losses_and_with_equal_tokens_and_texts_it_is_info_nce():
    method = tips(alpha=0.0, beta=0.0)
    assert not method.heads
    with torch.no_grad():
        method.model.image.cls[1] = method.model.image.cls[0]
    batch = batch_of()
    batch.texts["main2"] = batch.texts["main"]
    features = method.encode(batch, AT)
    scale = method.model.logit_scale()
    assert scale.item() == pytest.approx(1 / 0.07)
    expected = info_nce(features["image"], features["text"], scale)
    torch.testing.assert_close(method.loss(features, batch, AT).total, expected)


def test_masked_prediction_reaches_visible_patches_and_never_the_teacher():
    method = tips()
    seen = []
    method.model.image.patch_embed.register_forward_hook(
        lambda module, args, out: seen.append(out) or out.retain_grad()
    )
    losses = total(method, batch_of())
    losses.terms["mask"].backward()
    hidden = batch_of().fields["main.hidden"]
    masked = seen[-1].grad.flatten(2).transpose(1, 2)  # the last pass of the student
    assert (masked[~hidden].abs().sum(1) > 0).all()
    assert not masked[hidden].any()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


def test_a_mask_of_nothing_gives_no_loss():
    assert "mask" not in total(tips(mask=0.0), batch_of()).terms
    batch = batch_of(share=0.0)
    losses = total(tips(), batch)
    assert losses.terms["mask"].item() == 0
    losses.total.backward()


def test_the_teacher_has_no_dropout():
    method = tips(image=f"{IMAGE}:dropout=0.5").train()
    batch = batch_of()
    one, two = (method.encode(batch, AT) for _ in range(2))
    assert torch.equal(one["centre_patch"], two["centre_patch"])
    assert torch.equal(one["entropy"], two["entropy"])
    assert not torch.equal(one["image"], two["image"])


def test_both_tokens_may_be_distilled():
    found = []
    for distill, turned in (("web", False), ("web", True), ("both", False)):
        method = tips(distill=distill)
        with torch.no_grad():
            tokens = method.model.image.cls
            tokens.copy_(tokens.flip(0) if turned else tokens.clone())
            method.teacher.module[0].cls.copy_(tokens)
            found.append(method.encode(batch_of(), AT))
    first, second, both = found
    for name in ("distill", "centre_cls", "entropy"):
        torch.testing.assert_close(both[name], (first[name] + second[name]) / 2)


def test_there_is_one_global_crop_and_the_views_of_unused_losses_are_left_out():
    def shown(method):
        return {view.gives[0]: view for view in method.views(method.stages()[0])}

    views = shown(tips(blocks=True))
    assert views["images.main"].count == 1
    assert views["images.local"].count == 3
    assert views["images.local"].preprocess.size == 16
    hidden = views["fields.main.hidden"]
    assert (hidden.grid, hidden.share, hidden.blocks) == ((4, 4), 0.75, True)
    assert [views[f"texts.main{end}"].role for end in ("", "2")] == ["web", "synthetic"]
    method = tips(alpha=0.0, mask=0.0)
    assert set(shown(method)) == {"images.main", "texts.main", "texts.main2"}
    assert not method.model.image.mask_token.requires_grad
    assert tips().model.image.mask_token.requires_grad


def test_pads_and_scaled_embeddings_of_the_text_tower():
    torch.manual_seed(0)
    tower = text_tower(
        "text:width=32:depth=2:heads=2:activation=relu:causal=false:pooling=mean:positions=sinusoidal:"
        "scale_embedding=true",
        vocab_size=50,
        context=16,
    ).eval()
    first = torch.cat([torch.zeros(16), torch.ones(16)])
    assert torch.equal(tower.positions[0], first)
    ids = torch.randint(1, 50, (3, 9))
    lengths = torch.tensor([4, 9, 1])
    other = torch.where(torch.arange(9) < lengths[:, None], ids, (ids + 7) % 50)
    torch.testing.assert_close(tower(ids, lengths).pooled, tower(other, lengths).pooled)
    expected = tower.table(ids) * 32**0.5 + tower.positions[:9]
    torch.testing.assert_close(tower.embed(ids), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"role": "caption"}, "does not name one text for each of the two CLS tokens"),
        ({"crop_size": 20}, "method.crop_size is 20 pixels, and the image tower's patches are of 8"),
        ({"size": 50}, "method.size is 50 pixels, and the image tower's patches are of 8"),
        ({"image": IMAGE.replace("any_size=true:", "")}, "reads local crops; give vit:any_size=true"),
        ({"image": IMAGE.replace("mask_token=true:", "")}, "hidden patches; give vit:mask_token=true"),
        ({"image": f"{IMAGE}:patch_dropout=0.5"}, "set patch_dropout=0"),
        ({"image": IMAGE.replace("cls=2", "cls=1")}, "such as vit:cls=2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        tips(**options)


# ---- runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps at 32 pixels."""
    out = tmp_path_factory.mktemp("tips") / "low"
    assert main([*LINE, *TRAIN, "--out", str(out)]) == 0
    return out


def test_a_smaller_model_is_distilled_from_all_patches_of_a_frozen_one(trained):
    narrow = IMAGE.replace("width=32:depth=2", "width=16:depth=1")
    method = make_method("tips", 1, narrow, "text:width=16:depth=1:heads=2", 16, WORDS,
                         **OPTIONS, teacher=str(trained))  # fmt: skip
    method.setup({})
    assert [view.gives[0] for view in method.views(method.stages()[0])][1:] == [
        "texts.main", "texts.main2", "images.local"
    ]  # fmt: skip
    batch, at = batch_of(2), At(2, 20, 0, 0)
    del batch.fields["main.hidden"]
    with torch.no_grad():
        found = total(method, batch, at)
        model = diptych.load(trained)
        heads = model.delivered.heads
        taught = model.encoder.image(batch.image.flat)
        seen = method.model.image(batch.image.flat)
        losses = []
        for i in range(2):
            targets = slow_logits(heads["patch"], taught.patches[i])
            students = slow_logits(method.heads["patch"], seen.patches[i])
            losses += [
                slow_entropy(target, student, [0.0] * 12, 0.05, 0.1)
                for target, student in zip(targets, students, strict=True)
            ]
        assert found.terms["mask"].item() == pytest.approx(2 * sum(losses) / len(losses), abs=1e-4)
        before = [value.clone() for value in heads.state_dict().values()]
        method.after_step(found.carry, at)
    assert method.centre_patch.abs().sum() > 0
    for old, new in zip(
        before, method.lent.model.delivered.heads.state_dict().values(), strict=True
    ):
        assert torch.equal(old, new)
    assert not any("lent" in name for name, _ in method.named_parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "tiny"}, "the teacher tiny is no run of tips"),
        ({"prototypes": 13}, "has other prototypes"),
        ({"alpha": 0.0}, "has other prototypes"),
        ({"image": IMAGE.replace("patch=8", "patch=16")}, "reads patches of 8 pixels"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(trained, options, message):
    method = tips(**{"teacher": str(trained), **options})
    with pytest.raises(InputError, match=message):
        method.setup({})


def test_a_further_stage_goes_on_with_the_heads_at_another_size(trained):
    low = diptych.load(trained)
    method = make_method("tips", 2, make=Make.of(low), **OPTIONS, size=48)
    assert method.model.image.config.image_size == 48
    expected = low.delivered.heads.state_dict()
    for heads in (method.heads, method.teacher.module[1]):
        for name, value in heads.state_dict().items():
            assert torch.equal(value, expected[name])
    with pytest.raises(InputError, match="give the options that it was trained with"):
        make_method("tips", 2, make=Make.of(low), **{**OPTIONS, "prototypes": 13})


def test_from_training_to_a_stage_of_higher_resolution(trained, tmp_path, capsys):
    further = [*LINE, "--init", str(trained), "--method.size"]
    assert main([*further, "48", "--out", str(tmp_path / "high")]) == 0
    low, high = diptych.load(trained), diptych.load(tmp_path / "high")
    assert (low.preprocess.size, high.preprocess.size) == (32, 48)
    assert high.spaces == ("web", "synthetic")
    capsys.readouterr()
    assert main([*further, "50", "--out", str(tmp_path / "x")]) == 2
    assert "method.size is 50 pixels" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    image = diptych.data.sources.open_source(DATA)[0].images["main"]
    web, synthetic = (high.space(name).embed_images(image) for name in high.spaces)
    assert not torch.equal(web, synthetic)
    evaluate = ["evaluate", str(tmp_path / "high"), "--data", DATA, "--suite", "retrieval"]
    assert main([*evaluate, "--role", "synthetic", "--space", "synthetic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["retrieval"]["n"] == 40
