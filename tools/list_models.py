"""Rewrite the list of models that load by name, and the tables of families in the docs: those of
open_clip and of transformers.

The list (src/diptych/models/pretrained/models.json) is what `diptych list models` shows without
torch. python tools/list_models.py
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "src" / "diptych" / "models" / "pretrained" / "models.json"
PAGE = ROOT / "docs" / "pretrained.md"
BEGIN = "<!-- by tools/list_models.py: {} -->\n"
END = "<!-- end -->\n"

TESTS = (
    "tests/models/pretrained/test_openclip.py::test_embeddings_equal_open_clips_from_images_and_strings",
    "tests/models/pretrained/test_openclip_families.py::test_image_towers_of_each_family",
    "tests/models/pretrained/test_openclip_families.py::test_text_towers_of_transformers",
    "tests/models/pretrained/test_openclip_families.py::test_coca_embeds_and_writes_as_open_clips",
)
OWN, TRUNKS, TEXTS, COCA = range(1, 5)
HF_TESTS = (
    "tests/models/pretrained/test_hf.py::test_clip_embeddings_equal_transformers_from_images_and_strings",
    "tests/models/pretrained/test_hf.py::test_siglip_embeddings_equal_transformers_with_texts_padded_to_64",
    "tests/models/pretrained/test_hf_families.py::test_embeddings_equal_transformers_from_images_and_strings",
    "tests/models/pretrained/test_blip2.py::test_scores_equal_transformers_from_images_and_strings",
)
HF_TEST = {"clip": 1, "siglip": 2, "blip-2": 4}  # the others: 3
FAMILIES = (  # a name's first match is its family: what names have in it, and the test of its parity
    ("SigLIP 2", "SigLIP2", OWN),
    ("SigLIP", "SigLIP", OWN),
    ("CLIPA", "CLIPA", OWN),
    ("MobileCLIP 2", "MobileCLIP2-", TRUNKS),
    ("MobileCLIP", "MobileCLIP-", TRUNKS),
    ("PE-Core", "PE-Core", TRUNKS),
    ("ViTamin", "ViTamin", TRUNKS),
    ("EVA", "EVA0", TRUNKS),
    ("ConvNeXt", "convnext", TRUNKS),
    ("Swin", "swin", TRUNKS),
    ("ViT of timm", "vit_", TRUNKS),
    ("modified ResNet", "RN", TRUNKS),
    ("CoCa", "coca", COCA),
    ("NLLB-CLIP", "nllb", TEXTS),
    ("CLIP with mT5", "mt5", TEXTS),
    ("CLIP with XLM-RoBERTa", "xlm-roberta", TEXTS),
    ("CLIP with RoBERTa", "roberta", TEXTS),
    ("ViT CLIP", "ViT", OWN),
)


def rows(names: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """The list: open_clip's configurations, or those named, and the models that ship."""
    import open_clip

    import diptych

    found = {
        f"openclip:{name}": row(name, open_clip.get_model_config(name))
        for name in names or open_clip.list_models()
    }
    for name in ("tiny", "tiny-lm"):
        model: Any = diptych.load(name)
        encoder = getattr(model, "encoder", None)
        found[name] = {
            "pixels": encoder and model.preprocess.size,
            "parameters": sum(p.numel() for p in (encoder or model.lm).parameters()),
            "towers": f"{encoder.image.kind}, {encoder.text.kind}" if encoder else None,
            "can": abilities(encoder) if encoder else ["generate", "log_prob"],
            "tags": [],
        }
    return found


def row(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """One configuration of open_clip, built on the meta device."""
    import open_clip
    import torch

    from diptych.data.tokenizers import Clip
    from diptych.models.pretrained.openclip import captioner_of, describe
    from diptych.towers.dual import DualEncoder

    dual, _ = describe(config, name)
    with torch.device("meta"):
        encoder = DualEncoder.from_config(dual).eval()
    captioner = captioner_of(encoder, Clip(76, "lower", "max"), config)
    return {
        "pixels": dual["image"]["image_size"],
        "parameters": sum(value.numel() for value in (captioner or encoder).parameters()),
        "towers": towers(dual),
        "can": [*abilities(encoder), *(["generate", "log_prob"] if captioner else [])],
        "tags": open_clip.list_pretrained_tags_by_model(name),
    }


def towers(dual: dict[str, Any]) -> str:
    """The kinds of the towers, with the names of foreign ones."""
    image = dual["image"]
    text = dual["text"]
    trunk = f"timm:{image['model']}" if image["name"] == "timm" else image["name"]
    return (
        f"{trunk}, {'hf:' + text['config']['model_type'] if text['name'] == 'hf' else text['name']}"
    )


def abilities(encoder: Any) -> list[str]:
    """The abilities of a dual encoder; positions have heat where they are projected like images."""
    import torch

    size = encoder.image.preprocess.size
    device = next(encoder.parameters()).device
    with torch.no_grad():
        encoded = encoder.encode_image(torch.zeros(1, 3, size, size, device=device))
    fits = encoder.query_pooler is not None or encoded.tokens.shape[-1] == encoder.image.width
    points = encoded.grid is not None and fits
    return ["embed_images", "embed_texts", "class_logits", *(["heat"] if points else [])]


def written(found: dict[str, dict[str, Any]]) -> str:
    """The list as JSON, one model a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in found.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def family(name: str) -> str:
    """The family of a configuration."""
    return next(title for title, part, _ in FAMILIES if part in name)


def table(found: dict[str, dict[str, Any]]) -> str:
    """The table of families: configurations, tags, towers, and the test of parity."""
    lines = ["Embeddings are compared with open_clip's by these tests:\n"]
    lines += [f"{number}. `{test}`" for number, test in enumerate(TESTS, 1)]
    lines += ["", "| family | configurations | tags | image tower | text tower | test |"]
    lines.append("|" + "---|" * 6)
    own = {name: each for name, each in found.items() if name.startswith("openclip:")}
    for title, _, test in sorted(FAMILIES, key=lambda each: each[0].lower()):
        members = [each for name, each in own.items() if family(name[len("openclip:") :]) == title]
        kinds = [each["towers"].split(", ") for each in members]
        sides = [", ".join(sorted({kind[side].split(":")[0] for kind in kinds})) for side in (0, 1)]
        tags = sum(len(each["tags"]) for each in members)
        lines.append(f"| {title} | {len(members)} | {tags} | {sides[0]} | {sides[1]} | {test} |")
    return "\n".join(lines) + "\n"


def hf_table() -> str:
    """The table of transformers' families: model types, what computes each side, and the test of
    parity."""
    from diptych.models.pretrained.hf_families import FAMILIES as KINDS

    lines = ["Embeddings are compared with transformers' by these tests:\n"]
    lines += [f"{number}. `{test}`" for number, test in enumerate(HF_TESTS, 1)]
    lines += ["", "| family | `model_type` | example | images | texts | test |", "|" + "---|" * 6]
    theirs = "transformers' module"
    for kind, each in KINDS.items():
        image = "`vit`" if each.image else theirs + ", several vectors" * each.several
        text = "`text`" if each.text else theirs
        test = HF_TEST.get(kind, 3)
        lines.append(f"| {each.title} | `{kind}` | `{each.example}` | {image} | {text} | {test} |")
    return "\n".join(lines) + "\n"


def paged(page: str, found: dict[str, dict[str, Any]]) -> str:
    """The page with the tables of today."""
    for name, text in (("open_clip", table(found)), ("transformers", hf_table())):
        begin = BEGIN.format(name)
        head, rest = page.split(begin)
        page = head + begin + "\n" + text + "\n" + END + rest.split(END, 1)[1]
    return page


if __name__ == "__main__":
    made = rows()
    LIST.write_text(written(made), encoding="utf-8")
    PAGE.write_text(paged(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
