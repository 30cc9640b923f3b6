"""What `tools` names: tools, their parts, and verbs with the part that each touches."""

PARTS = ("handle", "blade", "head", "bowl", "bristles", "guard")
"""Parts by number; a guard is touched by no verb."""

TOOLS: dict[str, tuple[str, ...]] = {
    "knife": ("handle", "guard", "blade"),
    "hammer": ("handle", "head"),
    "spoon": ("handle", "bowl"),
    "broom": ("handle", "bristles"),
    "saw": ("handle", "blade"),
    "mallet": ("handle", "guard", "head"),
    "ladle": ("handle", "guard", "bowl"),
    "paintbrush": ("handle", "guard", "bristles"),
}
"""The parts of each tool, from its end; the last one works. The second four share the parts of the
first four in other shapes."""

VERBS: dict[str, str] = {
    "hold": "handle",
    "carry": "handle",
    "grip": "handle",
    "cut with": "blade",
    "slice with": "blade",
    "hit with": "head",
    "pound with": "head",
    "scoop with": "bowl",
    "sip from": "bowl",
    "sweep with": "bristles",
    "paint with": "bristles",
}
"""The part that each verb touches."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "hold": ("grasp", "clasp", "keep in hand"),
    "carry": ("transport", "bring along", "lug"),
    "grip": ("clutch", "clench", "seize"),
    "cut with": ("carve with", "chop with", "sever with"),
    "slice with": ("shave with", "pare with", "divide with"),
    "hit with": ("strike with", "knock with", "bang with"),
    "pound with": ("beat with", "pummel with", "crush with"),
    "scoop with": ("ladle with", "dip with", "spoon with"),
    "sip from": ("drink from", "taste from", "slurp from"),
    "sweep with": ("brush with", "wipe with", "dust with"),
    "paint with": ("daub with", "coat with", "varnish with"),
}
"""Other words for each verb, none of which is a verb of the world."""

SETS = {
    "all": tuple(TOOLS),
    "seen": ("knife", "hammer", "spoon", "broom"),
    "unseen": ("saw", "mallet", "ladle", "paintbrush"),
}
"""The tools of each choice."""

GROUNDS = ("grey", "green", "blue", "yellow", "pink")


def verbs_of(tool: str) -> tuple[str, ...]:
    """The verbs that touch a part of a tool.

    >>> verbs_of("hammer")
    ('hold', 'carry', 'grip', 'hit with', 'pound with')
    """
    return tuple(verb for verb, part in VERBS.items() if part in TOOLS[tool])


def related() -> dict[str, list[str]]:
    """For each verb the others that touch the same part.

    >>> related()["grip"], related()["cut with"]
    (['hold', 'carry'], ['slice with'])
    """
    return {
        verb: [other for other in VERBS if other != verb and VERBS[other] == part]
        for verb, part in VERBS.items()
    }
