"""The language model that a method writes with: frozen, trained whole, or trained by low-rank factors.

One that is trained whole is a part of what the method delivers, and is stored with it. Of one that is
frozen, with factors or without, a run keeps the spec and a checksum.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.methods.adapters import LowRank, adapter, add_factors
from diptych.methods.make import Make
from diptych.methods.teacher import LentLM
from diptych.models.causal_lm import CausalLM
from diptych.models.delivered import Validation
from diptych.models.language import check_tokenizer
from diptych.models.pretrained.hf_lm import HF_LM, HFCausalLM
from diptych.models.vlm import Adapter, Language, Layer, PatchReader, VisionLM, patch_adapter
from diptych.spec import parse
from diptych.towers.build import text_tower
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature, checksum, freeze

NEW = "text"
"""The name of the spec of a new language model."""
FROZEN = "none"
WHOLE = "whole"


def language_of(spec: str, make: Make, *, before: int = 0) -> tuple[LentLM | CausalLM, Tokenizer]:
    """Return the language model of a spec, frozen, or a new one, `text:…`, and its tokenizer; that of
    a new one is the run's, and its context that of the tokenizer and `before` places more."""
    if parse(spec).name != NEW:
        lent = LentLM(spec)
        return lent, lent.model.tokenizer
    words = make.tokenizer
    check_tokenizer(words)
    tower = text_tower(
        spec,
        vocab_size=words.vocab_size,
        context=words.context + before,
        pad=words.pad,
        eot=words.eot,
    )
    return CausalLM(tower), words


def tuned_language(spec: str, tune: str, make: Make, *, before: int) -> Language:
    """Return the language model of a spec as it is trained: `tune` is whole, none, or an adapter such as
    lora:r=8:layers=q+v. `before` is the number of places that images take.

    Where training goes on from a run that holds a language model, it is that one. Raises InputError for
    an unknown `tune`, a new language model that is not trained whole, and where the run's is another
    one than that of the spec, which stays frozen.
    """
    given = make.delivered.language if isinstance(make.delivered, VisionLM) else None
    if tune == WHOLE:
        return _whole(spec, make, before, given)
    factors = None if tune == FROZEN else _factors(tune)
    if parse(spec).name == NEW:
        raise InputError(
            f"a new language model, {spec}, has learnt nothing yet; train it with --method.tune {WHOLE}, or name "
            "one that has, such as tiny-lm, a RUN of language_model or hf-lm:FOLDER"
        )
    lent = LentLM(spec)
    model = lent.model
    if given is not None and given.own is not None and _differ(given.own, model.lm):
        raise InputError(
            f"the run that training starts from has trained its language model, and {spec} is another one; go on with "
            f"--method.tune {WHOLE}"
        )
    added = None if factors is None else add_factors(model.lm, "language model", factors)
    if added is not None:
        make.go_on_part(added, "factors")
    return Language(words=model.tokenizer, lent=lent, factors=added)


def vision_lm(
    make: Make,
    *,
    lm: str,
    tune: str,
    adapter: Adapter,
    grid: int | None,
    layer: Layer,
    validation: Validation,
    prompt: str,
    template: str,
    longest: int | None,
    encoder: DualEncoder | None = None,
) -> VisionLM:
    """Return the image tower that training starts from, or that of `encoder`, an adapter of its patches,
    and the language model of a spec, as `tuned_language` has it.

    Where training goes on from a vision-language model, its adapter is taken too. Raises InputError for
    a start without an image tower, and for one with another adapter.
    """
    encoder = encoder or make.dual(logit_scale=Temperature(100.0, form="fixed"))
    if "image" not in encoder.sides:
        raise InputError("this method reads images; start from a model with an image tower")
    patches = PatchReader(encoder, grid, layer)
    places, width = patches.shape
    language = tuned_language(lm, tune, make, before=places)
    read: Any = language.own if language.lent is None else language.lent.module
    model = VisionLM(
        encoder,
        patches,
        patch_adapter(adapter, width, read.table.embedding_dim),
        language,
        validation=validation,
        prompt=prompt,
        template=template,
        longest=longest,
    )
    given = getattr(make.delivered, "adapter", None)
    if given is not None and type(given) is not type(model.adapter):
        raise InputError(
            "the run that training starts from has another adapter; give the options that it was trained with"
        )
    make.go_on_part(model.adapter, "adapter")
    return model


def adapted_language(spec: str | None, tune: str, make: Make, *, before: int) -> Language:
    """Return a frozen language model with low-rank factors, `tune`, which alone are trained.

    Without a spec it is the one that the run holds from which training starts; the new run holds it too, with
    the products in its weights: `make.adapter` has them merged as it is saved. So call this behind `make.dual`.
    Of one that a spec names, a run keeps the factors. `before` is the number of places that images take.

    Raises InputError where there is none, and where the run's is another one than that of the spec.
    """
    options = _factors(tune)
    given = make.delivered.language if isinstance(make.delivered, VisionLM) else None
    if spec is not None and parse(spec).name != NEW:
        lent = LentLM(spec)
        added = add_factors(lent.model.lm, "language model", options)
        if given is not None and (_sum(given) != lent.checksum.cpu()).any():
            raise InputError(
                f"the run that training starts from reads with another language model than {spec}; leave out "
                "--method.lm where the run holds its own, or name the one that it was trained with"
            )
        make.go_on_part(added, "factors")
        return Language(words=lent.model.tokenizer, lent=lent, factors=added)
    own, words = _held(make, given) if spec is None else _new(spec, make, before)
    if make.written_by is None:
        freeze(own)
        add_factors(own, "language model", options)
        make.adapter = options
    return Language(words=words, own=own)


def _new(spec: str, make: Make, before: int) -> tuple[CausalLM, Tokenizer]:
    """A new language model. Raises InputError where training starts from a model."""
    if not make.fresh:
        raise InputError(
            f"a new language model, {spec}, has learnt nothing that low-rank factors could change; name one that has, "
            "such as tiny-lm, a RUN of language_model or hf-lm:FOLDER"
        )
    own, words = language_of(spec, make, before=before)
    assert isinstance(own, CausalLM), "a new one is not lent"
    return own, words


def _held(make: Make, given: Language | None) -> tuple[CausalLM, Tokenizer | None]:
    """The language model that a run holds, with its tokenizer; that of a saved run follows."""
    if make.written_by is not None:
        return _built(make.written_by), None
    if given is None:
        raise InputError(
            "the model that training starts from has no language model; start from a RUN that reads images with "
            "one, or name one with --method.lm"
        )
    if given.own is None:
        assert given.lent is not None, "a language model is own or lent"
        raise InputError(
            f"the run that training starts from reads with {given.lent.name}, which it does not hold; name that "
            f"with --method.lm {given.lent.name}"
        )
    own = _built(given.own.config())
    own.load_state_dict(given.own.state_dict())
    return own, given.words


def _whole(spec: str, make: Make, before: int, given: Language | None) -> Language:
    """A language model whose weights are trained."""
    if make.written_by is not None:  # of a saved run, whose tokenizer and weights follow
        return Language(words=None, own=_built(make.written_by))
    if given is not None and given.own is not None:
        own, words = _held(make, given)
        return Language(words=words, own=own)
    found, words = language_of(spec, make, before=before)
    if isinstance(found, LentLM):
        found = found.model.lm.requires_grad_(True)
    return Language(words=words, own=found)


def _built(config: Mapping[str, Any]) -> CausalLM:
    """A language model of this config, with new weights."""
    spec = config["text"]
    if spec["name"] == HF_LM:
        return HFCausalLM.fresh(spec["config"])
    return CausalLM(text_tower(spec))


def _factors(tune: str) -> LowRank:
    if parse(tune).name != "lora":
        raise InputError(
            f"tune is {tune!r}; write {WHOLE}, {FROZEN}, or low-rank factors such as lora:r=8:layers=q+v"
        )
    options = adapter(tune)
    if options.towers != LowRank().towers:
        raise InputError(f"{tune} adapts a language model, which has no towers; leave towers out")
    return options


def _sum(given: Language) -> Tensor:
    """The checksum of a run's language model, without factors."""
    if given.lent is not None:
        return given.lent.checksum.cpu()
    assert given.own is not None, "a language model is own or lent"
    return checksum(given.own)


def _differ(one: CausalLM, other: CausalLM) -> bool:
    return bool((checksum(one) != checksum(other)).any())
