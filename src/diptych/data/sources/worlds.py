"""A world: `scenes:count=5000:seed=3:size=64`, data generated sample by sample, with exact
annotation.

`count` (default 1,000), `seed` and `start` select samples of the world's stream; all other options
are those of the world (docs/worlds.md).
"""

from dataclasses import dataclass, fields

from diptych.data import worlds
from diptych.data.sources._files import warn_of_path
from diptych.data.worlds import WorldSource
from diptych.errors import unknown
from diptych.renamed import refuse
from diptych.spec import Spec, configure

FORMAT = "world"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the name of a world (write ./scenes for a folder of that
    name)."""
    return spec.name in worlds.cards()


def open(spec: Spec) -> WorldSource:
    """Open `NAME[:count=N][:seed=N][:start=N][:option=value…]`; warns of a file or folder of that
    name."""
    warn_of_path(spec.name, "generated world")
    own = {key: value for key, value in spec.options.items() if key in _OWN}
    rest = {key: value for key, value in spec.options.items() if key not in _OWN}
    known = {item.name for item in fields(worlds.module_of(spec.name).Config)} | _OWN
    refuse(f"option of {spec.name}", rest)
    for key in rest:
        if key not in known:
            raise unknown(f"option of source {spec.name!r}", key, known)
    stream = configure(WorldOptions, own, f"source {spec.name!r}")
    return WorldSource(worlds.build(spec.name, rest), stream.count, stream.seed, stream.start)


@dataclass(frozen=True, kw_only=True)
class WorldOptions:
    """Options of all worlds."""

    count: int = 1000
    seed: int = 0
    start: int = 0


_OWN = frozenset(WorldOptions.__dataclass_fields__)
