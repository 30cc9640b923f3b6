"""What is said of paintings: emotions, what supports them, phrases, and the affect of words.

`AFFECT` has valence, arousal and dominance from -1 to 1; the numbers are those of this project.
"""

EMOTIONS = ("contentment", "excitement", "awe", "sadness", "fear")
ASPECTS = ("palette", "energy", "composition")

PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "palette": {
        "warm": ("warm colours", "reds and yellows", "golden tones"),
        "bright": ("bright colours", "pure colours", "colours of every kind"),
        "cool": ("cool colours", "blues and greens", "watery tones"),
        "dark": ("dark colours", "browns and blacks", "heavy shadows"),
        "pale": ("pale colours", "greys and whites", "faded tones"),
    },
    "energy": {
        "still": ("even bands", "smooth surfaces", "slow strokes"),
        "lively": ("curved strokes", "waving lines", "round brushwork"),
        "wild": ("jagged strokes", "crossing lines", "sharp brushwork"),
    },
    "composition": {
        "open": ("open spaces", "wide skies", "empty distances"),
        "centred": ("large forms in the middle", "single forms", "tall figures"),
        "crowded": ("crowded forms", "forms in every corner", "many small figures"),
    },
}
"""The values of each aspect, and how people name what they see."""

SUPPORT: dict[str, dict[str, float]] = {
    "contentment": {"warm": 1.0, "pale": 0.4, "cool": 0.7, "still": 1.0, "open": 0.8, "centred": 0.3},
    "excitement": {"bright": 1.0, "warm": 0.6, "lively": 1.0, "wild": 0.7, "crowded": 1.0},
    "awe": {"bright": 0.5, "cool": 0.7, "lively": 0.5, "wild": 0.4, "still": 0.2, "open": 1.0, "centred": 0.9},
    "sadness": {"pale": 1.0, "dark": 0.7, "cool": 0.4, "still": 0.8, "open": 0.5, "centred": 0.4},
    "fear": {"dark": 1.0, "wild": 1.0, "lively": 0.2, "crowded": 0.7, "centred": 0.3},
}  # fmt: skip
"""How much each value speaks for each emotion; 0 where it is not listed."""

FEELINGS: dict[str, tuple[str, ...]] = {
    "contentment": ("calm", "peaceful", "gentle", "safe", "relaxed"),
    "excitement": ("joyful", "thrilled", "eager", "playful", "alive"),
    "awe": ("amazed", "humble", "inspired", "moved", "majestic"),
    "sadness": ("lonely", "gloomy", "weary", "sorrowful", "hollow"),
    "fear": ("afraid", "anxious", "threatened", "uneasy", "trapped"),
}
REMINDERS: dict[str, tuple[str, ...]] = {
    "contentment": ("rest", "home", "a holiday"),
    "excitement": ("a dance", "a feast", "fireworks"),
    "awe": ("a miracle", "a cathedral", "eternity"),
    "sadness": ("loss", "grief", "a farewell"),
    "fear": ("danger", "a storm", "a nightmare"),
}
FORMS = (
    "the {seen} make me feel {feeling}",
    "the {seen} look {feeling}",
    "i feel {feeling} as i see the {seen}",
    "the {seen} remind me of {reminder}",
    "with the {seen} it seems {feeling}",
)

AFFECT: dict[str, tuple[float, float, float]] = {
    # emotions
    "contentment": (0.8, -0.5, 0.2), "excitement": (0.8, 0.9, 0.4), "awe": (0.6, 0.5, -0.2),
    "sadness": (-0.9, -0.4, -0.6), "fear": (-0.9, 0.8, -0.6), "amusement": (0.9, 0.6, 0.3),
    "anger": (-0.8, 0.8, 0.3), "disgust": (-0.9, 0.5, 0.0),
    # what is felt
    "calm": (0.7, -0.8, 0.1), "peaceful": (0.8, -0.8, 0.1), "peace": (0.8, -0.7, 0.2),
    "gentle": (0.7, -0.6, -0.1), "safe": (0.8, -0.6, 0.4), "relaxed": (0.8, -0.8, 0.2),
    "rest": (0.6, -0.9, 0.0), "home": (0.8, -0.4, 0.3), "holiday": (0.9, 0.2, 0.3),
    "joyful": (0.9, 0.7, 0.4), "joy": (0.9, 0.7, 0.4), "thrilled": (0.9, 0.9, 0.4), "eager": (0.6, 0.7, 0.3),
    "playful": (0.8, 0.6, 0.2), "alive": (0.8, 0.5, 0.4), "dance": (0.8, 0.7, 0.2), "feast": (0.8, 0.5, 0.3),
    "fireworks": (0.7, 0.9, 0.3), "happy": (0.9, 0.5, 0.4),
    "amazed": (0.8, 0.7, 0.1), "humble": (0.4, -0.3, -0.4), "inspired": (0.8, 0.5, 0.4), "moved": (0.5, 0.4, -0.1),
    "majestic": (0.7, 0.3, 0.6), "miracle": (0.9, 0.5, 0.3), "cathedral": (0.5, -0.1, 0.4),
    "eternity": (0.4, -0.2, 0.3), "wonder": (0.8, 0.5, 0.1),
    "lonely": (-0.8, -0.4, -0.6), "gloomy": (-0.8, -0.4, -0.4), "gloom": (-0.8, -0.3, -0.4),
    "weary": (-0.5, -0.7, -0.5), "sorrowful": (-0.9, -0.3, -0.5), "sorrow": (-0.9, -0.3, -0.5),
    "hollow": (-0.5, -0.5, -0.4), "loss": (-0.8, 0.1, -0.6), "grief": (-0.9, 0.2, -0.5), "sad": (-0.9, -0.4, -0.5),
    "farewell": (-0.4, -0.1, -0.3),
    "afraid": (-0.8, 0.7, -0.6), "anxious": (-0.7, 0.8, -0.5), "threatened": (-0.8, 0.8, -0.6),
    "uneasy": (-0.6, 0.5, -0.5), "trapped": (-0.8, 0.6, -0.8), "danger": (-0.8, 0.9, -0.1),
    "storm": (-0.4, 0.8, 0.3), "nightmare": (-0.9, 0.8, -0.5),
    # what is seen
    "warm": (0.6, -0.1, 0.1), "bright": (0.7, 0.4, 0.2), "cool": (0.4, -0.3, 0.2), "cold": (-0.3, -0.2, 0.0),
    "dark": (-0.5, 0.1, 0.0), "pale": (-0.2, -0.5, -0.3), "golden": (0.7, 0.2, 0.4), "pure": (0.7, -0.3, 0.2),
    "heavy": (-0.3, 0.1, 0.4), "shadows": (-0.3, -0.1, -0.1), "faded": (-0.4, -0.6, -0.4), "even": (0.2, -0.5, 0.1),
    "smooth": (0.5, -0.6, 0.0), "slow": (-0.1, -0.8, -0.2), "waving": (0.3, 0.2, 0.1), "round": (0.2, -0.3, 0.0),
    "jagged": (-0.3, 0.5, 0.2), "crossing": (-0.1, 0.3, 0.0), "sharp": (-0.2, 0.5, 0.4), "open": (0.5, 0.0, 0.3),
    "wide": (0.3, -0.1, 0.3), "empty": (-0.5, -0.5, -0.4), "large": (0.2, 0.2, 0.6), "tall": (0.3, 0.1, 0.5),
    "single": (-0.1, -0.2, 0.1), "crowded": (-0.3, 0.6, -0.1), "small": (0.0, -0.3, -0.5), "skies": (0.6, -0.2, 0.2),
    "red": (0.2, 0.6, 0.4), "orange": (0.4, 0.4, 0.2), "yellow": (0.5, 0.3, 0.1), "green": (0.5, -0.3, 0.1),
    "cyan": (0.4, -0.2, 0.0), "blue": (0.4, -0.5, 0.1), "purple": (0.3, 0.0, 0.2), "pink": (0.5, 0.0, -0.2),
    "black": (-0.4, 0.2, 0.4), "brown": (-0.1, -0.3, 0.1), "grey": (-0.3, -0.6, -0.2), "white": (0.4, -0.5, 0.1),
}  # fmt: skip
