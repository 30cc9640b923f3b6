"""What `diptych reproduce` is to run: a claim's next look, other seeds, or a quick trial."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diptych import __version__
from diptych.data.sources import cache
from diptych.errors import InputError
from diptych.lab import claim as claims
from diptych.lab.claim import TUNING, Claim, arm_names
from diptych.lab.provenance import Stamp, shipped_digest, stamp, uncommitted
from diptych.lab.stored import FORMAT, Record, read_result, result_path, since


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run: a claim of a file, the seeds, and the path of its verdict (None: not stored).

    `earlier` is the record of the look before, whose seeds are not run again.
    """

    name: str
    path: Path
    block: str
    claim: Claim
    seeds: tuple[int, ...]
    quick: bool
    stamp: Stamp
    out: Path | None
    earlier: Record | None = None

    @property
    def shelf(self) -> Path:
        """The folder of the cache with the results of its jobs."""
        key = (self.block, self.stamp.blob, __version__, shipped_digest(), str(self.quick))
        return cache.named(f"claim-{self.name}", key, "")

    def place(self, seed: int) -> Path:
        """Return the folder of a seed in the cache."""
        return self.shelf / f"seed-{seed}"

    @property
    def places(self) -> dict[str, list[str]]:
        """The paths of the user's files that its finished jobs have run, by name."""
        found: dict[str, list[str]] = {}
        for path in self.shelf.glob("seed-*/*.json"):
            found |= json.loads(path.read_text(encoding="utf-8")).get("places", {})
        return found

    @property
    def new(self) -> tuple[int, ...]:
        """The seeds that the record of an earlier look does not have."""
        had = [] if self.earlier is None else self.earlier["seeds"]
        return tuple(seed for seed in self.seeds if seed not in had)

    @property
    def convergence(self) -> tuple[str, ...]:
        """The jobs that are also run on tuning seeds, at their steps and at twice as many: those of
        the headline's arms, at the first look of a stored verdict."""
        if self.out is None or self.earlier is not None or not self.claim.steps:
            return ()
        wanted = {arm for expect in self.claim.headline for arm, _ in expect.reads}
        return tuple(
            job for job, arms in jobs_of(self.claim).items() if wanted & set(arm_names(arms))
        )


def jobs_of(claim: Claim) -> dict[str, str | tuple[str, ...]]:
    """Return the arms by the names of their jobs: `a+b` does several at once."""
    return {"+".join(arm_names(arms)): arms for arms in claim.arms}


def plan(
    name: str,
    *,
    block: str = "claim",
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    out: Path | None = None,
    folder: Path | None = None,
) -> Plan:
    """Find a claim and check that it may be run with these options.

    Without `seeds` this is the claim's next look, whose verdict is stored. `seeds` are tried and
    judged, and nothing is stored; `quick` uses the first of them alone, or the first tuning seed.
    Raises InputError for an
    unknown name, for seeds that give no interval, for a tree with uncommitted changes, for a claim
    without the numbers of its tuning seeds, and where the code of an earlier look has changed.
    """
    path = claims.find(name, folder)
    found = claims.block(path, block)
    default = TUNING if quick else found.seeds
    plain = Plan(
        name=path.stem,
        path=path,
        block=block,
        claim=found,
        seeds=tuple(default if seeds is None else seeds)[: 1 if quick else None],
        quick=quick,
        stamp=stamp(path, block),
        out=None,
    )
    if len(set(plain.seeds)) < len(plain.seeds):
        raise InputError(
            f"the seeds {','.join(map(str, plain.seeds))} name one twice; give each once"
        )
    if quick:
        return plain
    if len(plain.seeds) < 2:
        raise InputError(
            "one seed gives no interval; give two or more with --seeds, or no verdict is due: --quick"
        )
    if seeds is not None:
        if set(found.seeds) & set(plain.seeds):
            raise InputError(
                f"the seeds {found.seeds[0]} to {found.seeds[-1]} are those of stored looks; try others, such as "
                f"{','.join(map(str, TUNING[:4]))}"
            )
        return plain
    return _next_look(plain, result_path(path.stem, block, out))


def _next_look(plain: Plan, out: Path) -> Plan:
    """The plan of a claim's next look; of the first one where there is no result, or one of another
    form of the claim."""
    claim = plain.claim
    if claim.tuned is None:
        raise InputError(
            f"{plain.path}: `tuned` is missing; try the claim on tuning seeds "
            f"(--seeds {','.join(map(str, TUNING[:4]))}), and commit what they show before the result"
        )
    if names := uncommitted(plain.path):
        raise InputError(
            f"{names[0]} has uncommitted changes, and what is expected is fixed before the result: commit it first. "
            "--quick, or --seeds with none of its own, tries the claim and stores nothing"
        )
    earlier = read_result(out)
    first = replace(plain, seeds=claim.seeds[: claim.looks[0]], out=out)
    if earlier is None or earlier["format"] != FORMAT:
        return first
    decisive, others = since(earlier, plain.path, plain.places)
    if decisive:
        return first
    look = earlier["open_look"]
    if look is None:
        return replace(plain, seeds=tuple(earlier["seeds"]), out=out, earlier=earlier)
    if others:
        raise InputError(
            f"the look at {look} seeds is due, and {others[0]} has changed since the last one: run it in a worktree of "
            f"that code (git worktree add FOLDER {(earlier['head'] or 'COMMIT')[:12]})"
        )
    return replace(plain, seeds=claim.seeds[:look], out=out, earlier=earlier)
