"""Templates of prompts: banks by name, files, or given directly.

    plain               "a photo of a {}."
    images              seven for photos and drawings, the default of `zeroshot`
    imagenet            the 80 of CLIP's authors for ImageNet, from open_clip; imagenet-simple: 7 of them
    styles              for the world `scenes`, grouped by its styles
    quality             eight for photos, grouped by the quality of the photo
    prompts.txt         one template per line
    groups.json         groups of templates: {"sketch": ["a sketch of a {}", …], …}
    'a {} | one {}'     these two

Every template contains {} exactly once, for the class name.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.errors import InputError, unknown

BANKS = {
    "plain": ("a photo of a {}.",),
    "images": (
        "{}",
        "a photo of a {}.",
        "a photo of the {}.",
        "a close-up of a {}.",
        "a picture that shows a {}.",
        "a drawing of a {}.",
        "an image of one {}.",
    ),
}
GROUPS = {
    # # MoCoOp's groups that are not specific to one data set, as far as they are published
    "quality": {
        "plain": ("a photo of a {}.",),
        "many": ("a photo of many {}.",),
        "poor": (
            "a low resolution photo of a {}.",
            "a low resolution photo of the {}.",
            "a pixelated photo of a {}.",
            "a pixelated photo of the {}.",
        ),
        "good": ("a good photo of a {}.", "a good photo of the {}."),
    },
    "styles": {  # in the words that captions of `scenes` use for each style
        "plain": ("a picture of a {}", "an image of a {}", "there is a {}"),
        "sketch": (
            "a pencil drawing of a {}",
            "a pencil drawing of a {} on paper, in pale colours",
        ),
        "pixel": ("a pixelated picture of a {}", "a pixelated picture of a {}, in bright colours"),
        "dusk": ("a {}, in deep tones", "a view of a {}, in deep tones"),
        "photo": ("a noisy photo of a {}", "a noisy photo of a {}, in washed-out colours"),
        "poster": ("a printed poster of a {}", "a printed poster of a {}, in strong tones"),
    },
}
_OPENCLIP = {
    "imagenet": "OPENAI_IMAGENET_TEMPLATES",
    "imagenet-simple": "SIMPLE_IMAGENET_TEMPLATES",
}


def templates(spec: str) -> tuple[str, ...]:
    """The templates of a bank, of a file (.txt: one per line; .json: of all groups), or separated
    by `|`.

    Raises InputError for anything else, and for a template that does not contain {} exactly once.

    >>> templates("a {} | one {}")
    ('a {}', 'one {}')
    >>> len(templates("images"))
    7
    """
    if spec in BANKS:
        return BANKS[spec]
    if spec in _OPENCLIP:
        return _openclip(spec)
    if "{" in spec:
        return checked([part.strip() for part in spec.split("|")], "the templates")
    if spec in GROUPS or spec.lower().endswith(".json"):
        return tuple(template for group in template_groups(spec).values() for template in group)
    if spec.lower().endswith(".txt"):
        return checked([line.strip() for line in _text(spec).splitlines() if line.strip()], spec)
    raise unknown(
        "templates", spec, [*BANKS, *_OPENCLIP, *GROUPS, "FILE.txt", "FILE.json", "'a {} | one {}'"]
    )


def template_groups(spec: str | Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Groups of templates by name, from a bank with groups, a JSON file or a mapping.

    The form of file and mapping is {"name": ["template", …], …}.

    Raises InputError for anything else, an empty group, and a template that does not contain {}
    exactly once.

    >>> list(template_groups("styles"))
    ['plain', 'sketch', 'pixel', 'dusk', 'photo', 'poster']
    """
    where = spec if isinstance(spec, str) else "the templates"
    if not isinstance(spec, str):
        groups: Any = dict(spec)
    elif spec in GROUPS:
        groups = GROUPS[spec]
    elif spec.lower().endswith(".json"):
        try:
            groups = json.loads(_text(spec))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{spec}: not JSON ({error}); write {_FORM}") from error
    else:
        raise unknown("groups of templates", spec, [*GROUPS, "FILE.json"])
    if (
        not isinstance(groups, dict)
        or not groups
        or not all(isinstance(group, list | tuple) for group in groups.values())
    ):
        raise InputError(f"{where}: no groups of templates; write {_FORM}")
    return {name: checked(group, f"group {name!r} of {where}") for name, group in groups.items()}


def written(name: str) -> str:
    """A class name as written in prompts, with spaces for underscores.

    >>> written("american_bulldog")
    'american bulldog'
    """
    return " ".join(name.replace("_", " ").split())


def filled(template: str, name: str) -> str:
    """A template with a class name filled in, in its `written` form.

    >>> filled("a photo of a {}.", "red_apple")
    'a photo of a red apple.'
    """
    return template.replace("{}", written(name))


_FORM = '{"group": ["a sketch of a {}", …], …}'


def with_types(given: Sequence[str], types: Sequence[str]) -> tuple[str, ...]:
    """Templates with, for each, its variants that name the type of the classes, without duplicates.

    >>> with_types(["a photo of a {}."], ["pet"])
    ('a photo of a {}.', 'a photo of a {}, a type of pet.', 'a photo of a pet: {}.', 'a pet of a {}.',
     'a pet photo of a {}.')
    """
    found = []
    for template in given:
        found.append(template)
        for kind in types:
            found.append(template.replace(".", f", a type of {kind}."))
            found.append(template.replace("{}", f"{kind}: {{}}"))
            found += [template.replace("photo", kind), template.replace("photo", f"{kind} photo")]
    return tuple(dict.fromkeys(found))


def checked(given: Sequence[str], where: str) -> tuple[str, ...]:
    """Check that each template contains {} exactly once; else InputError, which gives `where` they
    come from.

    >>> checked(["a {}", "photo"], "prompts.txt")
    Traceback (most recent call last):
    diptych.errors.InputError: template 'photo' of prompts.txt must hold {} once, where the class name goes
    """
    for template in given:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise InputError(
                f"template {template!r} of {where} must hold {{}} once, where the class name goes"
            )
    if not given:
        raise InputError(f"{where}: no template is given; give at least '{{}}'")
    return tuple(given)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a file of text ({error}); save it as UTF-8") from error


def _openclip(bank: str) -> tuple[str, ...]:
    try:
        from open_clip import zero_shot_metadata
    except ImportError:
        raise InputError(
            f"templates {bank!r} are open_clip_torch's; pip install 'diptych[openclip]'"
        ) from None
    return tuple(template("{}") for template in getattr(zero_shot_metadata, _OPENCLIP[bank]))
