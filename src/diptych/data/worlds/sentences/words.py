"""The vocabulary: the wordings of each value of a slot, and filler phrases.

No word has two values. Words of one value mean the same here; a value has at most three wordings.
An object has only one name, since it is the sentence's label and its word must occur. Order is part
of the data: it numbers the classes.
"""

TOPICS: dict[str, tuple[str, ...]] = {
    "food": ("apple", "sandwich", "lemon", "carrot", "pretzel", "onion", "coconut", "cupcake"),
    "music": ("guitar", "drum", "violin", "trumpet", "flute", "banjo", "accordion", "saxophone"),
    "school": ("book", "pencil", "notebook", "backpack", "globe", "crayon", "microscope", "abacus"),
    "sea": ("fish", "anchor", "crab", "canoe", "lobster", "sailboat", "oyster", "octopus"),
    "sport": ("ball", "kite", "medal", "trophy", "helmet", "racket", "skateboard", "sled"),
    "travel": ("suitcase", "umbrella", "bicycle", "ticket", "map", "camera", "tent", "compass"),
    "home": ("chair", "key", "mirror", "candle", "basket", "clock", "broom", "teapot"),
    "tools": ("hammer", "ladder", "bucket", "shovel", "axe", "wrench", "toolbox", "magnet"),
}
"""Topics, and the objects of each from the most to the least frequent."""

OBJECTS: tuple[str, ...] = tuple(
    name for rank in zip(*TOPICS.values(), strict=True) for name in rank
)
"""All objects by rank: the first of each topic, the second of each, …"""

TOPIC_OF: dict[str, str] = {name: topic for topic, names in TOPICS.items() for name in names}

AGENTS: dict[str, tuple[str, ...]] = {
    "doctor": ("doctor", "physician", "medic"),
    "child": ("child", "kid", "youngster"),
    "teacher": ("teacher", "tutor", "instructor"),
    "farmer": ("farmer", "grower"),
    "sailor": ("sailor", "seaman", "mariner"),
    "artist": ("artist", "painter"),
    "soldier": ("soldier", "trooper"),
    "thief": ("thief", "robber", "burglar"),
    "singer": ("singer", "vocalist"),
    "lawyer": ("lawyer", "attorney", "solicitor"),
    "driver": ("driver", "chauffeur", "motorist"),
    "scientist": ("scientist", "researcher"),
    "tourist": ("tourist", "traveller", "sightseer"),
    "merchant": ("merchant", "trader", "shopkeeper"),
    "king": ("king", "monarch", "sovereign"),
    "builder": ("builder", "mason", "bricklayer"),
    "detective": ("detective", "sleuth", "investigator"),
    "judge": ("judge", "magistrate"),
    "clown": ("clown", "jester"),
    "gardener": ("gardener", "groundskeeper"),
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "old": ("old", "aged", "ancient"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "dirty": ("dirty", "grimy", "filthy"),
    "wet": ("wet", "damp", "soaked"),
    "pretty": ("pretty", "lovely", "beautiful"),
    "strange": ("strange", "odd", "peculiar"),
    "clean": ("clean", "spotless", "immaculate"),
    "elegant": ("elegant", "stylish", "graceful"),
    "shabby": ("shabby", "ragged", "scruffy"),
}
"""Attributes of both people and things, so that two of them can be exchanged."""

ACTIONS: dict[str, tuple[str, ...]] = {
    "carry": ("carry carrying carried", "haul hauling hauled", "lug lugging lugged"),
    "wash": ("wash washing washed", "scrub scrubbing scrubbed", "rinse rinsing rinsed"),
    "hide": ("hide hiding hidden", "conceal concealing concealed", "stash stashing stashed"),
    "show": ("show showing shown", "display displaying displayed", "exhibit exhibiting exhibited"),
    "lift": ("lift lifting lifted", "raise raising raised", "hoist hoisting hoisted"),
    "throw": ("throw throwing thrown", "toss tossing tossed", "hurl hurling hurled"),
    "draw": ("draw drawing drawn", "sketch sketching sketched", "depict depicting depicted"),
    "examine": (
        "examine examining examined",
        "inspect inspecting inspected",
        "study studying studied",
    ),
    "buy": ("buy buying bought", "purchase purchasing purchased", "acquire acquiring acquired"),
    "steal": ("steal stealing stolen", "pilfer pilfering pilfered", "swipe swiping swiped"),
    "break": ("break breaking broken", "smash smashing smashed", "wreck wrecking wrecked"),
    "guard": (
        "guard guarding guarded",
        "protect protecting protected",
        "safeguard safeguarding safeguarded",
    ),
    "choose": ("choose choosing chosen", "pick picking picked", "select selecting selected"),
    "push": ("push pushing pushed", "shove shoving shoved", "nudge nudging nudged"),
    "pull": ("pull pulling pulled", "drag dragging dragged", "tow towing towed"),
}
"""Each wording as its infinitive, its -ing form and its past participle."""

PLACES: dict[str, tuple[str, ...]] = {
    "kitchen": ("in the kitchen", "in the cookhouse"),
    "restaurant": ("in the restaurant", "in the diner", "in the eatery"),
    "theatre": ("at the theatre", "at the playhouse"),
    "square": ("in the square", "on the plaza"),
    "classroom": ("in the classroom", "in the schoolroom"),
    "library": ("in the library", "in the bookroom"),
    "harbour": ("at the harbour", "at the docks", "in the port"),
    "beach": ("on the beach", "on the shore", "at the seaside"),
    "stadium": ("in the stadium", "in the arena"),
    "park": ("in the park", "on the green"),
    "station": ("at the station", "at the depot"),
    "hotel": ("at the hotel", "at the inn"),
    "attic": ("in the attic", "in the loft"),
    "cellar": ("in the cellar", "in the basement"),
    "workshop": ("in the workshop", "in the workroom"),
    "factory": ("in the factory", "at the plant", "in the mill"),
}
"""Two places for each topic, in the order of the topics."""

TIMES: dict[str, tuple[str, ...]] = {
    "dawn": ("at dawn", "at daybreak", "at sunrise"),
    "noon": ("at noon", "at midday"),
    "dusk": ("at dusk", "at sunset", "at nightfall"),
    "midnight": ("at midnight", "past bedtime"),
    "storm": ("during the storm", "during the tempest"),
    "feast": ("after the feast", "after the banquet"),
}

RECIPIENTS: dict[str, tuple[str, ...]] = {
    "friend": ("for a friend", "for a pal", "for a companion"),
    "guest": ("for a guest", "for a visitor"),
    "boss": ("for the boss", "for the manager"),
    "customer": ("for a customer", "for a client"),
    "relative": ("for a relative", "for a cousin"),
    "rival": ("for a rival", "for a competitor"),
}

STANCES: dict[str, tuple[str, ...]] = {
    "right": (
        "A has the|no right to V O @",
        "A is|isn't entitled to V O @",
        "A has|lacks permission to V O @",
    ),
    "duty": (
        "A has a|no duty to V O @",
        "A has an|no obligation to V O @",
        "it is|isn't the task of A to V O @",
    ),
    "chance": ("there is a|no chance that S", "it is|isn't possible that S"),
    "hope": ("people|nobody hope|hopes that S", "people|nobody long|longs for A to V O @"),
    "fear": ("people|nobody fear|fears that S", "the worry is|isn't that S"),
    "plan": (
        "A has a|no plan to V O @",
        "A has every|no intention to V O @",
        "the aim is|isn't for A to V O @",
    ),
    "promise": (
        "A has|hasn't promised to V O @",
        "A has made a|no vow to V O @",
        "A has|hasn't pledged to V O @",
    ),
    "wish": ("A has a|no wish to V O @", "A has a|no desire to V O @", "A has an|no urge to V O @"),
}
"""The stances of abstract sentences on an event, as the plainest template (see `grammar`)."""

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "agent": AGENTS,
    "attribute": ATTRIBUTES,
    "action": ACTIONS,
    "object": {name: (name,) for name in OBJECTS},
    "stance": STANCES,
    "place": PLACES,
    "time": TIMES,
    "recipient": RECIPIENTS,
}
"""All wordings by the kind of slot."""

# Phrases that add nothing to the meaning. Half of them contain a word of the abstract sentences
# ("by right", "before long"), so that such a word does not reveal the kind of sentence. None of
# their words states a slot.

BEFORE = (
    "apparently", "clearly", "indeed", "luckily", "evidently", "naturally", "finally", "meanwhile", "eventually",
    "by chance", "by right", "of course", "in fact", "as promised", "as pledged", "as usual", "before long",
    "with permission", "in truth", "once again",
    "out of duty", "according to plan", "to be fair", "as a rule", "in the end", "all being well", "for some reason",
    "as people say", "needless to say",
    "as far as possible", "true to a vow", "as we all know", "as it so happens", "to the general surprise",
    "as luck would have it", "as far as anyone knows", "to the surprise of many", "for reasons nobody can explain",
    "for what it is worth",
    "if what we hear is true", "as has been said many times", "contrary to what people might expect",
    "as far as we can tell",
)  # fmt: skip
"""Phrases at the start, followed by a comma."""

AFTER = (
    "again", "anyway",
    "by chance", "by right", "before long", "with permission", "as promised", "as pledged", "as usual",
    "without fear", "in hope", "at last", "on purpose", "with ease",
    "out of duty", "according to plan", "without a word", "without a worry", "without any desire", "without any aim",
    "without any obligation", "against every wish", "with every intention", "on an urge", "in good spirits",
    "true to a vow", "as far as possible", "hoping for the best", "for all to see", "without a second thought",
    "with hardly a sound",
    "in the line of duty", "with no sign of haste", "without having to be asked",
    "with no thought of any reward",
)  # fmt: skip
"""Phrases at the end."""

ASIDE = (
    "though", "apparently", "indeed", "evidently",
    "of course", "by chance", "as promised",
    "as people say", "a thankless task",
    "as people will do", "feeling every bit entitled", "as we all know", "as it so happens",
    "just as it should be", "a promise made long before", "as one does when busy",
    "and nobody seems to mind", "as far as anyone knows", "as luck would have it",
    "and nobody can say exactly why", "as has always been the custom", "and that is all there is",
    "which is nothing to worry about",
)  # fmt: skip
"""Phrases after those, preceded by a comma."""
