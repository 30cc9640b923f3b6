"""Every family of open_clip: equal embeddings for a small model of each, there and back, and a
place for every tensor of every configuration."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import tiny
import torch
from safetensors.torch import load_file, save_file
from timm.models import byobnet
from transformers import AutoConfig

from diptych.cli import main
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.store import load
from diptych.models.export import export
from diptych.models.pretrained.convert import fill, take
from diptych.models.pretrained.openclip import DECODER, _tag, captioner_of, describe
from diptych.models.pretrained.openclip.describe import RESNETS
from diptych.models.pretrained.openclip.rules import decoder_rules
from diptych.models.pretrained.openclip.texts import CONFIGS

WORDS = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
FAMILIES = [
    "RN50",
    "convnext_tiny",
    "convnext_large_d",
    "EVA01-g-14",
    "EVA02-B-16",
    "MobileCLIP2-S0",
    "MobileCLIP-B",
    "MobileCLIP2-L-14",
    "PE-Core-T-16-384",
    "ViTamin-S",
    "swin_base_patch4_window7_224",
    "vit_medium_patch16_gap_256",
    "vit_relpos_medium_patch16_cls_224",
]
ONE = {"depth": 1, "embed_dim": 64, "num_heads": 2}
NARROW: dict[str, dict[str, Any]] = {  # in place of timm's sizes, in open_clip's model and ours
    "convnext_tiny": {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64)},
    "convnext_large": {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64)},
    "eva_giant_patch14_224": ONE,
    "eva02_base_patch16_clip_224": ONE,
    "fastvit_mci0": {"layers": (1, 1, 1, 1), "embed_dims": (32, 64, 128, 256)},
    "vit_base_mci_224": {"depth": 1},
    "vit_large_patch14_clip_224": ONE,
    "vit_pe_core_tiny_patch16_384": {"depth": 1},
    "vitamin_small_224": {"depth": 1},
    "swin_base_patch4_window7_224": {"depths": (2, 1, 1, 1), "embed_dim": 32, "num_heads": (1, 2, 4, 8)},
    "vit_medium_patch16_gap_256": ONE,
    "vit_relpos_medium_patch16_cls_224": ONE,
}  # fmt: skip
TEXTS: dict[str, dict[str, Any]] = {
    "roberta-base": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
                     "max_position_embeddings": 90},
    "xlm-roberta-base": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
                         "max_position_embeddings": 90},
    "google/mt5-base": {"d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 2, "d_kv": 16},
    "facebook/nllb-200-distilled-600M": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 48,
                                         "decoder_ffn_dim": 48, "encoder_attention_heads": 2,
                                         "decoder_attention_heads": 2},
}  # fmt: skip
VIT = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
CREATE = timm.create_model
TOOL = runpy.run_path(str(Path(__file__).resolve().parents[3] / "tools" / "list_models.py"))
LISTED = json.loads(TOOL["LIST"].read_text(encoding="utf-8"))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's models in sizes that a test can afford, with their names, for open_clip and for us."""

    def create(name: str, **options: Any) -> Any:
        return CREATE(name, **{**NARROW.get(name, {}), **options})

    monkeypatch.setattr(timm, "create_model", create)
    whole = byobnet.model_cfgs["resnet50_clip"]
    one = replace(whole, blocks=tuple(replace(each, d=1) for each in whole.blocks))
    monkeypatch.setitem(byobnet.model_cfgs, "resnet50_clip", one)
    monkeypatch.delitem(RESNETS, (64, 3, 4, 6, 3))
    monkeypatch.setitem(RESNETS, (64, 1, 1, 1, 1), "resnet50_clip")


def register(name: str, config: dict[str, Any], folder: Path) -> str:
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    return name


def created(name: str) -> tuple[Any, Any]:
    """A model of open_clip's with random weights, and its preprocessing."""
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained_text=False)
    if hasattr(model, "text_decoder"):  # open_clip leaves these numbers as the memory had them
        torch.nn.init.normal_(model.text_decoder.text_projection, std=0.1)
    return model, preprocess


def there_and_back(name: str, folder: Path, exported: bool = True) -> Any:
    """Compare embeddings with open_clip's, and, exported again, the weights with theirs."""
    model, preprocess = created(name)
    tiny.stir(model)
    for key, value in model.named_buffers():
        if "running" in key:  # a batch norm's statistics
            value += 0.1
    state = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    pictures = tiny.images()[:2]
    with torch.inference_mode():
        pixels = torch.stack([preprocess(image) for image in pictures])
        images = tiny.unit(model.encode_image(pixels))
        texts = tiny.unit(model.encode_text(open_clip.get_tokenizer(name)(tiny.TEXTS)))
    ours = load(f"openclip:{name}", weights=folder / "weights.safetensors")
    torch.testing.assert_close(ours.embed_images(pictures), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.embed_texts(tiny.TEXTS), texts, atol=1e-5, rtol=0)
    if exported:
        back = load_file(
            export(ours, "openclip", folder / "out").folder / "open_clip_model.safetensors"
        )
        named = {key.removeprefix("text."): value for key, value in back.items()}
        assert named.keys() == {key.removeprefix("text.") for key in state}
        for key, value in state.items():
            torch.testing.assert_close(named[key.removeprefix("text.")], value, atol=0, rtol=0)
    return ours


@pytest.mark.parity
@pytest.mark.parametrize("name", FAMILIES)
def test_image_towers_of_each_family(name: str, tmp_path: Path, narrow: None):
    config = open_clip.get_model_config(name)
    attends = {"no_causal_mask": config["text_cfg"].get("no_causal_mask", False)}
    config["text_cfg"] = {**WORDS, **attends}
    if name == "RN50":
        config["vision_cfg"]["layers"] = [1, 1, 1, 1]
    ours = there_and_back(register(f"small-{name}", config, tmp_path), tmp_path)
    encoded = ours.encoder.encode_image(torch.zeros(1, *ours.preprocess.shape))
    assert encoded.patches.shape[1] == encoded.grid[0] * encoded.grid[1]
    assert ours.tokenizer.padding == ("max" if attends["no_causal_mask"] else "longest")


@pytest.mark.parity
@pytest.mark.parametrize("name", TEXTS)
def test_text_towers_of_transformers(name: str, tmp_path: Path):
    (folder := tmp_path / "text").mkdir()
    tiny.bert_like(folder)
    small = {**CONFIGS[name], **TEXTS[name], "vocab_size": 40, "pad_token_id": 0}
    AutoConfig.for_model(**small).save_pretrained(folder)
    published = next(
        config
        for config in map(open_clip.get_model_config, open_clip.list_models())
        if config["text_cfg"].get("hf_model_name") == name and "multimodal_cfg" not in config
    )
    cfg = {**published["text_cfg"], "hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    config = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": cfg}
    kind = register(f"small-{name.replace('/', '-')}", config, tmp_path)
    ours = there_and_back(kind, tmp_path)
    assert ours.tokenizer.padding == "longest"


@pytest.mark.parity
@pytest.mark.parametrize("pooler", [True, False])
def test_coca_embeds_and_writes_as_open_clips(pooler: bool, tmp_path: Path):
    words = {**WORDS, "context_length": 76, "embed_cls": True, "output_tokens": True}
    pool = {"attentional_pool": True, "attn_pooler_heads": 4} if pooler else {}
    config = {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {**VIT, **pool, "width": 32, "head_width": 16, "output_tokens": True},
        "text_cfg": {**words, "layers": 2},
        "multimodal_cfg": {**WORDS, "context_length": 76, "layers": 2, "heads": 4},
    }
    name = register(f"small-coca-{pooler}", config, tmp_path)
    ours = there_and_back(name, tmp_path)
    assert ours.tokenizer.padding == "max"  # the token at the end sees one pad
    _same_captions(ours, open_clip.create_model(name, pretrained_text=False), tmp_path)
    text = ours.encoder.text
    text.resize(40)
    assert torch.equal(
        text.positions[-1],
        load_file(tmp_path / "weights.safetensors")["text.positional_embedding"][-1],
    )


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "millions"),
    [("coca_ViT-B-32", 253.56), ("coca_ViT-L-14", 638.45), ("coca_base", 440.34)],
)
def test_published_coca_takes_all_of_its_weights(name: str, millions: float):
    config = open_clip.get_model_config(name)
    dual, rules = describe(config, name)
    options = {key: value for key, value in config.items() if key != "custom_text"}
    with torch.device("meta"):
        state = open_clip.CoCa(**options).state_dict()
    wanted = sum(value.numel() for value in state.values())
    of_decoder = {key: state.pop(key) for key in list(state) if key.startswith(DECODER)}
    encoder = fill(dual, state, rules, name)
    words = build("clip:context=76:padding=max")
    captioner = captioner_of(encoder, words, config)
    assert captioner is not None
    take(captioner.lm, of_decoder, decoder_rules(config), name)
    assert not of_decoder
    count = sum(value.numel() for value in captioner.parameters())
    assert count == wanted
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def _same_captions(ours: Any, theirs: Any, folder: Path) -> None:
    """Compare the logits of captions with open_clip's, and a saved model with the loaded one."""
    theirs.load_state_dict(load_file(folder / "weights.safetensors"))
    pixels = torch.randn(2, 3, 32, 32)
    texts = open_clip.get_tokenizer("coca_ViT-B-32")(tiny.TEXTS[:2])
    assert texts.shape == (2, 76)
    with torch.inference_mode():
        wanted = theirs.eval()(pixels, texts)["logits"]
        hidden = ours.lm(texts[:, :-1], memory=ours.captioner.see(pixels))
        found = ours.lm.logits(hidden)
    assert found.shape == wanted.shape == (2, 75, 49408)
    real = texts[:, :-1] > 0  # at pads theirs reads fewer tokens
    torch.testing.assert_close(found[real], wanted[real], atol=1e-5, rtol=0)
    ours.save(folder / "saved")
    again = load(folder / "saved")
    torch.testing.assert_close(
        again.log_prob(pixels, ["a cat", "a dog"]), ours.log_prob(pixels, ["a cat", "a dog"])
    )
    assert again.identity == ours.identity


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's models with one layer where their layers are alike; each is built once, on the meta
    device."""
    made: dict[Any, Any] = {}

    def create(name: str, **options: Any) -> Any:
        key = (name, *sorted(options.items()))
        alike = name.startswith(("vit_", "eva", "vitamin"))
        if key not in made:
            made[key] = CREATE(name, **options, **({"depth": 1} if alike else {}))
        return made[key]

    monkeypatch.setattr(timm, "create_model", create)
    # numbers without values are not drawn either
    monkeypatch.setattr(timm.layers.weight_init, "_trunc_normal_", lambda tensor, *how: tensor)
    layers = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers")
    for name, config in CONFIGS.items():
        monkeypatch.setitem(CONFIGS, name, {**config, **dict.fromkeys(layers, 1)})
    monkeypatch.setattr(
        AutoConfig, "from_pretrained", lambda name, **_: AutoConfig.for_model(**CONFIGS[name])
    )


@pytest.mark.parity
def test_every_configuration_takes_its_weights(shallow: None):
    for name in (
        name for name in open_clip.list_models() if not name.startswith(("nano", "small"))
    ):
        config = open_clip.get_model_config(name)
        for part in ("vision_cfg", "text_cfg", "multimodal_cfg"):
            if isinstance(config.get(part, {}).get("layers"), int):
                config[part]["layers"] = 1
        dual, rules = describe(config, name)
        config["text_cfg"]["hf_model_pretrained"] = False
        custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
        kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        with torch.device("meta"):
            made = (open_clip.CoCa if "multimodal_cfg" in config else kind)(**config)
        wanted = sum(
            value.numel() for key, value in made.state_dict().items() if "decoder" not in key
        )
        encoder = fill(dual, dict(made.state_dict()), rules, name)
        assert sum(value.numel() for value in encoder.state_dict().values()) == wanted, name


def test_every_tag_loads_or_names_the_configuration_that_does():
    for name, tag in open_clip.list_pretrained():
        config = open_clip.get_model_config(name)
        try:
            assert _tag(open_clip, name, tag, config), (name, tag)
        except InputError as error:
            other = str(error).rpartition("use openclip:")[2].partition("/")[0]
            assert _tag(open_clip, other, tag, open_clip.get_model_config(other)), (name, tag)


def configurations() -> list[str]:
    """open_clip's own; other tests register more."""
    return [name for name in open_clip.list_models() if not name.startswith(("nano", "small"))]


@pytest.mark.parity
def test_the_list_of_models_is_that_of_the_code():
    smallest: dict[str, str] = {}
    listed = {name.removeprefix("openclip:"): row for name, row in LISTED.items()}
    assert set(listed) == {*configurations(), "tiny", "tiny-lm"}
    for name in configurations():
        config = open_clip.get_model_config(name)
        dual, _ = describe(config, name)
        assert listed[name]["pixels"] == dual["image"]["image_size"]
        assert listed[name]["towers"] == TOOL["towers"](dual)
        assert listed[name]["tags"] == open_clip.list_pretrained_tags_by_model(name)
        other = smallest.setdefault(TOOL["family"](name), name)
        if listed[name]["parameters"] < listed[other]["parameters"]:
            smallest[TOOL["family"](name)] = name
    assert len(smallest) == len(TOOL["FAMILIES"])
    found = TOOL["rows"](list(smallest.values()))
    assert found == {name: LISTED[name] for name in found}


def test_the_tables_of_families_are_up_to_date_and_every_family_is_compared():
    page = TOOL["PAGE"].read_text(encoding="utf-8")
    assert page == TOOL["paged"](page, LISTED), "run tools/list_models.py"
    compared = {TOOL["family"](name) for name in FAMILIES}
    wanted = {title for title, _, test in TOOL["FAMILIES"] if test == TOOL["TRUNKS"]}
    assert wanted - {"MobileCLIP 2"} <= compared
    assert "MobileCLIP 2" in compared
    published = {
        open_clip.get_model_config(name)["text_cfg"].get("hf_model_name")
        for name in configurations()
    }
    assert published - {None} == set(CONFIGS)


@pytest.mark.parametrize("kind", ["coca", "foreign", "sycoca"])
def test_a_run_that_continues_a_model_loads_embeds_and_evaluates(
    kind: str, tmp_path: Path, narrow: None, capsys: pytest.CaptureFixture
):
    (folder := tmp_path / "text").mkdir()
    tiny.bert_like(folder)
    small = {
        **CONFIGS["roberta-base"],
        **TEXTS["roberta-base"],
        "vocab_size": 40,
        "pad_token_id": 0,
    }
    AutoConfig.for_model(**small).save_pretrained(folder)
    config = open_clip.get_model_config("MobileCLIP2-S0" if kind == "foreign" else "coca_ViT-B-32")
    if kind != "foreign":
        config["vision_cfg"] |= VIT
        config["text_cfg"] |= {"width": 32, "heads": 2, "layers": 1}
        config["multimodal_cfg"] |= {"width": 32, "heads": 2, "layers": 1}
        if kind == "sycoca":
            config["embed_dim"] = 32  # that of the queries too, which the decoder reads
    else:
        config["text_cfg"] = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    name = register(f"small-continued-{kind}", config, tmp_path)
    model, _ = created(name)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    rows = ["filepath,caption"]
    for number, (image, text) in enumerate(zip(tiny.images(), tiny.TEXTS, strict=False)):
        image.save(tmp_path / f"{number}.png")
        rows.append(f'{number}.png,"{text or "none"}"')
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    pairs = tmp_path / "pairs.csv"
    run = tmp_path / "run"
    command = [
        "train",
        "sycoca" if kind == "sycoca" else "clip",
        "--init",
        f"openclip:{name}",
        "--weights",
        tmp_path / "weights.safetensors",
    ]
    command += ["--data", pairs, "--steps", 2, "--batch-size", 4, "--out", run, "--quiet"]
    further: list[list[str | Path]] = []
    if kind == "sycoca":
        command += ["--method.pooler", "none", "--method.decoder", "apart"]
        further = [["export", run, "--to", "openclip", "--out", tmp_path / "exported"]]
    for words in (
        command,
        ["embed", run, pairs, "--out", tmp_path / "vectors"],
        ["evaluate", run, "--suite", "retrieval", "--data", pairs],
        *further,
    ):
        assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    trained = load(str(run))
    assert trained.encoder.config()["image"]["name"] == ("timm" if kind == "foreign" else "vit")
    assert torch.isfinite(trained.embed_texts(tiny.TEXTS)).all()
    assert trained.identity == load(str(run)).identity
