"""`Make`: builds the towers that a method asks for, new or with the weights of the model given by
`--init`."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor, nn

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.methods.adapters import LowRank, attach
from diptych.models.causal_lm import CausalLM
from diptych.models.delivered import Delivered
from diptych.models.language import LanguageModel, check_tokenizer
from diptych.models.model import TextModel
from diptych.models.pretrained.hf_lm import HF_LM, HFCausalLM
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder, Pool
from diptych.towers.nn.parts import Temperature
from diptych.towers.tower import ImageTower, Tower

T = TypeVar("T", bound=nn.Module)
Converted = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""A function from the state of a module to another one's."""
Changed = Callable[[str | Mapping[str, Any]], str | Mapping[str, Any]]
"""A function from the spec of a tower to another one."""

NO_TOWER = "none"
"""The image tower of a model of texts alone, and the text tower of a model of images alone."""


class Make:
    """Builds towers; each call returns new parameters.

    `image` and `text` are tower specs ("vit:width=384" or plain dicts). `dual` is the config of an
    existing dual encoder and `state` its weights; if given, they take precedence over the specs and
    the method's defaults. `delivered` is the whole module that the previous method delivered, if
    that is more than a dual encoder (`models.delivered`). `adapter` is added to dual encoders.
    `projections` are heads of a new dual encoder, where the method gives no others. `written_by` is
    the config of the language model of a saved module that has one beside a dual encoder.
    """

    def __init__(
        self,
        *,
        image: str | Mapping[str, Any],
        text: str | Mapping[str, Any],
        embed_dim: int,
        tokenizer: Tokenizer | None,
        dual: Mapping[str, Any] | None = None,
        state: Mapping[str, Tensor] | None = None,
        delivered: Delivered | None = None,
        adapter: LowRank | None = None,
        projections: Mapping[str, str] = MappingProxyType({}),
        written_by: Mapping[str, Any] | None = None,
    ):
        self.image_spec = image
        self.text_spec = text
        self.embed_dim = embed_dim
        self.words = tokenizer
        self._dual = dual
        self._state = state
        self.delivered = delivered
        self.adapter = adapter
        self._projections = projections
        self.written_by = written_by

    @classmethod
    def of(cls, model: TextModel | LanguageModel) -> "Make":
        """Return a `Make` that builds towers like those of `model`, with its weights."""
        if isinstance(model, LanguageModel):
            state = {f"text.{name}": value for name, value in model.lm.tower.state_dict().items()}
            state |= {f"lm.{name}": value for name, value in model.lm.state_dict().items()}
            text = model.lm.config()["text"]
            return cls(
                image=NO_TOWER,
                text=text,
                embed_dim=model.lm.table.embedding_dim,
                tokenizer=model.tokenizer,
                state=state,
            )
        if not hasattr(model, "encoder"):  # a module with parts of its own alone
            return cls(
                image=NO_TOWER,
                text=NO_TOWER,
                embed_dim=0,
                tokenizer=getattr(model, "tokenizer", None),
                delivered=getattr(model, "delivered", None),
            )
        encoder = model.encoder
        config = encoder.config()
        return cls(
            image=config["image"] or NO_TOWER,
            text=config["text"] or NO_TOWER,
            embed_dim=config["embed_dim"],
            tokenizer=model.tokenizer,
            dual=config,
            state=encoder.state_dict(),
            delivered=model.delivered,
        )

    @property
    def fresh(self) -> bool:
        """Whether towers are built from their specs, with new weights."""
        return self._dual is None and self._state is None

    @property
    def rebuilds(self) -> bool:
        """Whether it rebuilds a saved model, whose weights follow: parts that only training needs may
        be left out."""
        return self._dual is not None and self._state is None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises InputError where there is none; `words` is None then."""
        if self.words is None:
            raise InputError(
                "this method reads texts, and there is no tokenizer; start from a model of images and texts, or "
                "leave out --text-tower none"
            )
        return self.words

    def image(self) -> ImageTower:
        """Return a new image tower. Raises InputError if the model has texts alone."""
        if self.image_spec == NO_TOWER:
            raise InputError(
                "a model of texts alone has no image tower; start from a model of images and texts"
            )
        tower = image_tower(self.image_spec)
        return self._load(tower, "image.")

    def text(self, changed: Changed | None = None) -> Tower:
        """Return a new text tower for the tokenizer's vocabulary; `changed` maps its spec to another
        one. Raises InputError if the model has images alone."""
        if self.text_spec == NO_TOWER:
            raise InputError(
                "there is no text tower, and this method reads texts; give one with --text-tower"
            )
        tokenizer = self.tokenizer
        tower = text_tower(
            changed(self.text_spec) if changed else self.text_spec,
            vocab_size=tokenizer.vocab_size,
            context=tokenizer.context,
            pad=tokenizer.pad,
            eot=tokenizer.eot,
            padding=tokenizer.padding,
        )
        return self._load(tower, "text.")

    def lm(self) -> CausalLM:
        """Return a new causal language model on the text tower, or of transformers if the given one
        is. Raises InputError if the tower or
        the tokenizer does not suit one."""
        check_tokenizer(self.tokenizer)
        if isinstance(self.text_spec, Mapping) and self.text_spec["name"] == HF_LM:
            return self._load(HFCausalLM.fresh(self.text_spec["config"]), "lm.")
        return CausalLM(self.text())  # type: ignore[arg-type]  # which refuses other towers

    def dual(
        self,
        *,
        logit_scale: Temperature,
        logit_bias: float | None = None,
        pool: Pool = "before",
        spaces: Sequence[str] = (),
        image_pooler: str | None = None,
        **projections: str,
    ) -> DualEncoder:
        """Return a new dual encoder, without the tower of a side that is `NO_TOWER`, and with the
        adapter if there is one.

        A given model keeps its scale, projections, pool and poolers; a missing bias or `image_pooler` is
        added. `spaces` names the vectors of an image tower that pools several. Raises InputError if a
        given model has other spaces.
        """
        encoder = self._encoder(logit_scale, logit_bias, pool, spaces, image_pooler, projections)
        if self.adapter is not None:
            attach(encoder, self.adapter)
        return encoder

    def _encoder(
        self,
        logit_scale: Temperature,
        logit_bias: float | None,
        pool: Pool,
        spaces: Sequence[str],
        image_pooler: str | None,
        projections: Mapping[str, str],
    ) -> DualEncoder:
        if self._dual is None:
            if self.image_spec == self.text_spec == NO_TOWER:
                raise InputError(
                    "there is neither an image nor a text tower; start from a model that has what this "
                    "method reads"
                )
            # the image tower first: both towers draw from the same random stream
            image = None if self.image_spec == NO_TOWER else self.image()
            text = None if self.text_spec == NO_TOWER else self.text()
            return DualEncoder(
                image,
                text,
                self.embed_dim,
                logit_scale=logit_scale,
                logit_bias=logit_bias,
                pool=pool,
                spaces=spaces,
                image_pooler=image_pooler,
                **{**self._projections, **projections},
            )
        config = dict(self._dual)
        if spaces and list(spaces) != config.get("spaces"):
            raise InputError(
                f"this method wants a model with the spaces {', '.join(spaces)}, and the one that training starts "
                f"from has {', '.join(config.get('spaces', ())) or 'none'}"
            )
        added = {"logit_bias": logit_bias, "image_pooler": image_pooler}
        missing = {name: value for name, value in added.items() if config.get(name) is None}
        encoder = DualEncoder.from_config({**config, **missing})
        if self._state is not None:
            new = {
                name: value
                for name, value in encoder.state_dict().items()
                if name.split(".")[0] in missing
            }
            encoder.load_state_dict({**self._state, **new})
        return encoder

    def text_encoder(
        self,
        *,
        logit_scale: Temperature,
        text_projection: str = "fit",
        changed: Changed | None = None,
    ) -> DualEncoder:
        """Return a new dual encoder of texts alone, which is the text side of the given model if
        there is one.

        A given model keeps its projection, but not its scale. `changed` maps the spec of the text
        tower to another one with the same parameters, such as one that pools otherwise.
        """
        if self._dual is not None:
            text_projection = self._dual.get("text_projection", "linear")
        encoder = DualEncoder(
            None,
            self.text(changed),
            self.embed_dim,
            logit_scale=logit_scale,
            text_projection=text_projection,
        )
        if self._dual is not None and encoder.text_projection is not None:
            self._load(encoder.text_projection, "text_projection.")
        if self.adapter is not None:
            attach(encoder, self.adapter)
        return encoder

    def go_on(self, module: Delivered) -> None:
        """Load into a module the weights of the one that training starts from, if both are of the
        same class, or its is a subclass, which may have more of them.

        Raises InputError if the sizes differ.
        """
        if self.delivered is not None and isinstance(self.delivered, type(module)):
            _continue(module, self.delivered)

    def go_on_part(self, part: nn.Module, name: str, changed: Converted | None = None) -> None:
        """Load into a part the weights of that part of the module that training starts from, if this
        has one; `changed` maps its state to that of a part with further layers. Raises InputError as
        `go_on` does."""
        given = getattr(self.delivered, name, None)
        if isinstance(given, type(part)):
            _continue(part, given, changed)

    def _load(self, tower: T, prefix: str) -> T:
        if self._state is not None:
            tower.load_state_dict(
                {k.removeprefix(prefix): v for k, v in self._state.items() if k.startswith(prefix)}
            )
        return tower


def _continue(module: nn.Module, given: nn.Module, changed: Converted | None = None) -> None:
    """Load the weights of a module of the same class, or those of a subclass's that the module has too.
    Raises InputError if the sizes differ."""
    have = given.state_dict() if changed is None else changed(given.state_dict())
    own = module.state_dict()
    if type(given) is not type(module):
        have = {name: value for name, value in have.items() if name in own}
    for name in have.keys() | own.keys():
        if name not in have or name not in own or have[name].shape != own[name].shape:
            sizes = [tuple(state[name].shape) if name in state else "none" for state in (have, own)]
            raise InputError(
                f"the run that training starts from has {name} {sizes[0]}, this one would have "
                f"{sizes[1]}; give the options that it was trained with"
            )
    module.load_state_dict(have)
