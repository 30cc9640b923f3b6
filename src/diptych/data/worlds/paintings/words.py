"""What is said of paintings: emotions, what supports them, phrases, and the affect of words.

`AFFECT` has valence, arousal and dominance from -1 to 1; the numbers are those of this project.
"""

EMOTIONS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
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
    "amusement": {"bright": 1.0, "pale": 0.2, "warm": 0.3, "lively": 1.0, "wild": 0.2, "crowded": 0.8, "centred": 0.3},
    "awe": {"bright": 0.5, "cool": 0.7, "lively": 0.5, "wild": 0.4, "still": 0.2, "open": 1.0, "centred": 0.9},
    "contentment": {"warm": 1.0, "pale": 0.4, "cool": 0.7, "still": 1.0, "open": 0.8, "centred": 0.3},
    "excitement": {"bright": 1.0, "warm": 0.6, "lively": 1.0, "wild": 0.7, "crowded": 1.0},
    "anger": {"warm": 0.8, "bright": 0.3, "dark": 0.4, "wild": 1.0, "crowded": 0.6, "centred": 0.5},
    "disgust": {"pale": 0.7, "dark": 0.6, "cool": 0.2, "lively": 0.4, "wild": 0.3, "crowded": 0.9},
    "fear": {"dark": 1.0, "wild": 1.0, "lively": 0.2, "crowded": 0.7, "centred": 0.3},
    "sadness": {"pale": 1.0, "dark": 0.7, "cool": 0.4, "still": 0.8, "open": 0.5, "centred": 0.4},
}  # fmt: skip
"""How much each value speaks for each emotion; 0 where it is not listed."""

FEELINGS: dict[str, tuple[str, ...]] = {
    "amusement": (
        "amused", "silly", "funny", "cheerful", "merry", "ridiculous", "whimsical", "comical", "witty",
        "cheeky", "jolly", "absurd", "goofy", "mischievous", "entertained", "quirky", "odd", "droll", "foolish",
        "tickled",
    ),
    "awe": (
        "amazed", "humble", "inspired", "moved", "majestic", "astonished", "reverent", "spellbound",
        "overwhelmed", "sublime", "speechless", "solemn", "sacred", "infinite", "mighty", "glorious",
        "enchanted", "blessed", "timeless", "divine",
    ),
    "contentment": (
        "calm", "peaceful", "gentle", "safe", "relaxed", "serene", "content", "quiet", "rested", "soothed",
        "comfortable", "tranquil", "cosy", "mellow", "satisfied", "untroubled", "restful", "secure", "balanced",
        "pleased",
    ),
    "excitement": (
        "joyful", "thrilled", "eager", "playful", "alive", "excited", "energetic", "vibrant", "bold",
        "restless", "breathless", "dazzled", "spirited", "electric", "festive", "adventurous", "passionate",
        "elated", "exuberant", "daring",
    ),
    "anger": (
        "angry", "furious", "enraged", "irritated", "hostile", "bitter", "outraged", "violent", "aggressive",
        "hateful", "fierce", "resentful", "annoyed", "vengeful", "provoked", "cruel", "insulted", "spiteful",
        "jealous", "defiant",
    ),
    "disgust": (
        "disgusted", "sick", "repelled", "nauseous", "filthy", "foul", "rotten", "revolted", "dirty", "slimy",
        "unclean", "sickened", "stained", "queasy", "ugly", "vile", "gross", "grimy", "polluted", "putrid",
    ),
    "fear": (
        "afraid", "anxious", "threatened", "uneasy", "trapped", "scared", "terrified", "nervous", "frightened",
        "helpless", "panicked", "hunted", "tense", "worried", "alarmed", "vulnerable", "shaken", "haunted",
        "wary", "doomed",
    ),
    "sadness": (
        "lonely", "gloomy", "weary", "sorrowful", "hollow", "sad", "mournful", "lost", "forgotten", "abandoned",
        "tearful", "hopeless", "melancholy", "heartbroken", "regretful", "bleak", "unhappy", "wistful",
        "desolate", "homesick",
    ),
}  # fmt: skip
REMINDERS: dict[str, tuple[str, ...]] = {
    "amusement": (
        "a joke", "a clown", "a cartoon", "a circus", "a prank", "a puppet", "laughter", "a monkey", "a riddle",
        "a toy",
    ),
    "awe": (
        "a miracle", "a cathedral", "eternity", "a mountain", "heaven", "a temple", "creation", "an angel",
        "a waterfall", "an eclipse",
    ),
    "contentment": (
        "rest", "home", "a holiday", "a garden", "a meadow", "a cradle", "tea", "a nap", "a lullaby",
        "a harvest",
    ),
    "excitement": (
        "a dance", "a feast", "fireworks", "a race", "a parade", "a victory", "a carnival", "a concert",
        "a journey", "a birthday",
    ),
    "anger": (
        "war", "a fight", "revenge", "a riot", "a battle", "an insult", "a quarrel", "betrayal", "a tyrant",
        "hatred",
    ),
    "disgust": (
        "garbage", "vomit", "a sewer", "a swamp", "mud", "decay", "a rat", "a wound", "slime", "a stench",
    ),
    "fear": (
        "danger", "a storm", "a nightmare", "a ghost", "a monster", "a trap", "a wolf", "an abyss", "a flood",
        "a scream",
    ),
    "sadness": (
        "loss", "grief", "a farewell", "a funeral", "a grave", "winter", "a tear", "an orphan", "exile",
        "a ruin",
    ),
}  # fmt: skip
FORMS = (
    "the {seen} make me feel {feeling}",
    "the {seen} look {feeling}",
    "i feel {feeling} as i see the {seen}",
    "the {seen} remind me of {reminder}",
    "with the {seen} it seems {feeling}",
)

AFFECT: dict[str, tuple[float, float, float]] = {
    # emotions
    "amusement": (0.9, 0.6, 0.3), "awe": (0.6, 0.5, -0.2), "contentment": (0.8, -0.5, 0.2),
    "excitement": (0.8, 0.9, 0.4), "anger": (-0.8, 0.8, 0.3), "disgust": (-0.9, 0.5, 0.0), "fear": (-0.9, 0.8, -0.6),
    "sadness": (-0.9, -0.4, -0.6),
    # amusement
    "amused": (0.8, 0.5, 0.3), "silly": (0.4, 0.4, -0.2), "funny": (0.9, 0.6, 0.3), "cheerful": (0.9, 0.4, 0.4),
    "merry": (0.9, 0.5, 0.3), "ridiculous": (0.1, 0.5, -0.2), "whimsical": (0.6, 0.2, 0.0),
    "comical": (0.7, 0.5, 0.2), "witty": (0.7, 0.4, 0.5), "cheeky": (0.4, 0.5, 0.3), "jolly": (0.9, 0.5, 0.4),
    "absurd": (0.0, 0.4, -0.1), "goofy": (0.4, 0.5, -0.1), "mischievous": (0.3, 0.6, 0.3),
    "entertained": (0.8, 0.4, 0.3), "quirky": (0.4, 0.3, 0.1), "odd": (-0.1, 0.2, -0.1), "droll": (0.5, 0.1, 0.1),
    "foolish": (-0.3, 0.2, -0.4), "tickled": (0.7, 0.6, 0.0), "joke": (0.8, 0.6, 0.2), "clown": (0.5, 0.6, -0.1),
    "cartoon": (0.7, 0.4, 0.1), "circus": (0.6, 0.7, 0.2), "prank": (0.3, 0.7, 0.3), "puppet": (0.3, 0.2, -0.4),
    "laughter": (0.9, 0.7, 0.4), "monkey": (0.4, 0.5, 0.0), "riddle": (0.4, 0.3, 0.1), "toy": (0.7, 0.3, 0.0),
    # awe
    "amazed": (0.8, 0.7, 0.1), "humble": (0.4, -0.3, -0.4), "inspired": (0.8, 0.5, 0.4), "moved": (0.5, 0.4, -0.1),
    "majestic": (0.7, 0.3, 0.6), "astonished": (0.5, 0.7, 0.0), "reverent": (0.5, -0.2, -0.2),
    "spellbound": (0.5, 0.3, -0.4), "overwhelmed": (-0.2, 0.6, -0.6), "sublime": (0.8, 0.3, 0.4),
    "speechless": (0.1, 0.2, -0.4), "solemn": (-0.1, -0.3, 0.2), "sacred": (0.6, 0.1, 0.5),
    "infinite": (0.4, 0.2, 0.4), "mighty": (0.5, 0.6, 0.9), "glorious": (0.9, 0.6, 0.7), "enchanted": (0.8, 0.3, 0.1),
    "blessed": (0.9, 0.0, 0.3), "timeless": (0.5, -0.2, 0.3), "divine": (0.8, 0.3, 0.7), "miracle": (0.9, 0.5, 0.3),
    "cathedral": (0.5, -0.1, 0.4), "eternity": (0.4, -0.2, 0.3), "mountain": (0.5, 0.1, 0.6),
    "heaven": (0.9, 0.0, 0.5), "temple": (0.5, -0.2, 0.4), "creation": (0.7, 0.4, 0.5), "angel": (0.9, 0.1, 0.3),
    "waterfall": (0.7, 0.3, 0.4), "eclipse": (0.3, 0.3, 0.4),
    # contentment
    "calm": (0.7, -0.8, 0.1), "peaceful": (0.8, -0.8, 0.1), "gentle": (0.7, -0.6, -0.1), "safe": (0.8, -0.6, 0.4),
    "relaxed": (0.8, -0.8, 0.2), "serene": (0.8, -0.8, 0.2), "content": (0.7, -0.5, 0.2), "quiet": (0.4, -0.8, -0.1),
    "rested": (0.7, -0.7, 0.2), "soothed": (0.7, -0.7, 0.0), "comfortable": (0.8, -0.6, 0.3),
    "tranquil": (0.8, -0.9, 0.1), "cosy": (0.8, -0.6, 0.1), "mellow": (0.5, -0.6, 0.0), "satisfied": (0.8, -0.2, 0.4),
    "untroubled": (0.6, -0.6, 0.3), "restful": (0.7, -0.9, 0.0), "secure": (0.7, -0.4, 0.6),
    "balanced": (0.6, -0.4, 0.5), "pleased": (0.8, 0.0, 0.3), "rest": (0.6, -0.9, 0.0), "home": (0.8, -0.4, 0.3),
    "holiday": (0.9, 0.2, 0.3), "garden": (0.8, -0.4, 0.2), "meadow": (0.7, -0.6, 0.1), "cradle": (0.6, -0.6, -0.2),
    "tea": (0.5, -0.6, 0.0), "nap": (0.5, -0.9, -0.2), "lullaby": (0.7, -0.9, -0.1), "harvest": (0.6, -0.1, 0.3),
    # excitement
    "joyful": (0.9, 0.7, 0.4), "thrilled": (0.9, 0.9, 0.4), "eager": (0.6, 0.7, 0.3), "playful": (0.8, 0.6, 0.2),
    "alive": (0.8, 0.5, 0.4), "excited": (0.8, 0.9, 0.4), "energetic": (0.7, 0.9, 0.6), "vibrant": (0.8, 0.7, 0.5),
    "bold": (0.5, 0.6, 0.7), "restless": (-0.1, 0.7, 0.0), "breathless": (0.2, 0.8, -0.2), "dazzled": (0.5, 0.7, 0.0),
    "spirited": (0.7, 0.7, 0.6), "electric": (0.4, 0.8, 0.5), "festive": (0.9, 0.6, 0.3),
    "adventurous": (0.7, 0.8, 0.6), "passionate": (0.8, 0.9, 0.6), "elated": (0.9, 0.8, 0.5),
    "exuberant": (0.8, 0.9, 0.5), "daring": (0.5, 0.8, 0.7), "dance": (0.8, 0.7, 0.2), "feast": (0.8, 0.5, 0.3),
    "fireworks": (0.7, 0.9, 0.3), "race": (0.3, 0.8, 0.4), "parade": (0.7, 0.6, 0.3), "victory": (0.9, 0.8, 0.8),
    "carnival": (0.8, 0.8, 0.3), "concert": (0.8, 0.7, 0.3), "journey": (0.6, 0.5, 0.3), "birthday": (0.9, 0.6, 0.3),
    # anger
    "angry": (-0.9, 0.8, 0.3), "furious": (-0.9, 0.9, 0.4), "enraged": (-0.9, 0.9, 0.4),
    "irritated": (-0.7, 0.6, 0.0), "hostile": (-0.9, 0.7, 0.4), "bitter": (-0.6, 0.3, 0.0),
    "outraged": (-0.8, 0.9, 0.3), "violent": (-0.9, 0.9, 0.5), "aggressive": (-0.6, 0.8, 0.7),
    "hateful": (-0.9, 0.7, 0.2), "fierce": (-0.3, 0.9, 0.7), "resentful": (-0.7, 0.4, 0.0),
    "annoyed": (-0.6, 0.6, 0.0), "vengeful": (-0.8, 0.7, 0.4), "provoked": (-0.5, 0.7, 0.1),
    "cruel": (-0.9, 0.6, 0.4), "insulted": (-0.8, 0.5, -0.2), "spiteful": (-0.8, 0.6, 0.2),
    "jealous": (-0.7, 0.5, -0.1), "defiant": (-0.2, 0.7, 0.6), "war": (-0.9, 0.9, 0.5), "fight": (-0.6, 0.9, 0.5),
    "revenge": (-0.7, 0.7, 0.4), "riot": (-0.7, 0.9, 0.4), "battle": (-0.5, 0.8, 0.6), "insult": (-0.8, 0.5, 0.0),
    "quarrel": (-0.7, 0.7, 0.1), "betrayal": (-0.9, 0.6, -0.1), "tyrant": (-0.9, 0.6, 0.8),
    "hatred": (-0.9, 0.8, 0.2),
    # disgust
    "disgusted": (-0.9, 0.4, -0.1), "sick": (-0.8, 0.0, -0.6), "repelled": (-0.6, 0.4, -0.1),
    "nauseous": (-0.8, 0.2, -0.6), "filthy": (-0.8, 0.3, -0.2), "foul": (-0.8, 0.3, 0.0), "rotten": (-0.8, 0.1, -0.2),
    "revolted": (-0.7, 0.6, 0.0), "dirty": (-0.6, 0.2, -0.2), "slimy": (-0.6, 0.2, -0.2),
    "unclean": (-0.6, 0.0, -0.3), "sickened": (-0.9, 0.3, -0.4), "stained": (-0.4, -0.1, -0.3),
    "queasy": (-0.7, 0.1, -0.5), "ugly": (-0.8, 0.1, -0.3), "vile": (-0.9, 0.5, 0.1), "gross": (-0.7, 0.4, 0.0),
    "grimy": (-0.6, -0.1, -0.2), "polluted": (-0.8, 0.1, -0.2), "putrid": (-0.8, 0.3, -0.1),
    "garbage": (-0.7, -0.1, -0.4), "vomit": (-0.9, 0.4, -0.5), "sewer": (-0.7, 0.1, -0.2), "swamp": (-0.4, -0.1, 0.1),
    "mud": (-0.3, -0.3, -0.2), "decay": (-0.7, -0.3, -0.4), "rat": (-0.6, 0.4, -0.2), "wound": (-0.8, 0.4, -0.5),
    "slime": (-0.6, 0.0, -0.2), "stench": (-0.9, 0.3, 0.0),
    # fear
    "afraid": (-0.8, 0.7, -0.6), "anxious": (-0.7, 0.8, -0.5), "threatened": (-0.8, 0.8, -0.6),
    "uneasy": (-0.6, 0.5, -0.5), "trapped": (-0.8, 0.6, -0.8), "scared": (-0.8, 0.8, -0.6),
    "terrified": (-0.9, 0.9, -0.7), "nervous": (-0.6, 0.8, -0.5), "frightened": (-0.8, 0.8, -0.6),
    "helpless": (-0.8, 0.0, -0.9), "panicked": (-0.9, 0.9, -0.6), "hunted": (-0.7, 0.8, -0.6),
    "tense": (-0.5, 0.7, -0.2), "worried": (-0.7, 0.6, -0.5), "alarmed": (-0.6, 0.9, -0.2),
    "vulnerable": (-0.5, 0.2, -0.8), "shaken": (-0.6, 0.6, -0.5), "haunted": (-0.7, 0.6, -0.3),
    "wary": (-0.4, 0.3, -0.1), "doomed": (-0.9, 0.4, -0.7), "danger": (-0.8, 0.9, -0.1), "storm": (-0.4, 0.8, 0.3),
    "nightmare": (-0.9, 0.8, -0.5), "ghost": (-0.5, 0.6, 0.0), "monster": (-0.8, 0.8, 0.4), "trap": (-0.7, 0.5, -0.2),
    "wolf": (-0.3, 0.7, 0.5), "abyss": (-0.6, 0.4, 0.0), "flood": (-0.7, 0.7, 0.2), "scream": (-0.7, 0.9, -0.1),
    # sadness
    "lonely": (-0.8, -0.4, -0.6), "gloomy": (-0.8, -0.4, -0.4), "weary": (-0.5, -0.7, -0.5),
    "sorrowful": (-0.9, -0.3, -0.5), "hollow": (-0.5, -0.5, -0.4), "sad": (-0.9, -0.4, -0.5),
    "mournful": (-0.8, -0.4, -0.5), "lost": (-0.7, 0.1, -0.7), "forgotten": (-0.7, -0.4, -0.7),
    "abandoned": (-0.9, -0.1, -0.8), "tearful": (-0.7, 0.1, -0.6), "hopeless": (-0.9, -0.3, -0.8),
    "melancholy": (-0.6, -0.5, -0.3), "heartbroken": (-0.9, 0.2, -0.7), "regretful": (-0.7, -0.2, -0.5),
    "bleak": (-0.7, -0.4, -0.3), "unhappy": (-0.9, -0.2, -0.4), "wistful": (-0.1, -0.5, -0.3),
    "desolate": (-0.8, -0.4, -0.5), "homesick": (-0.6, -0.2, -0.6), "loss": (-0.8, 0.1, -0.6),
    "grief": (-0.9, 0.2, -0.5), "farewell": (-0.4, -0.1, -0.3), "funeral": (-0.9, -0.1, -0.3),
    "grave": (-0.8, -0.4, -0.1), "winter": (-0.1, -0.3, 0.2), "tear": (-0.5, 0.2, -0.5), "orphan": (-0.7, -0.2, -0.8),
    "exile": (-0.7, 0.0, -0.6), "ruin": (-0.8, 0.1, -0.4),
    # what is seen, and others
    "peace": (0.8, -0.7, 0.2), "joy": (0.9, 0.7, 0.4), "happy": (0.9, 0.5, 0.4), "wonder": (0.8, 0.5, 0.1),
    "gloom": (-0.8, -0.3, -0.4), "sorrow": (-0.9, -0.3, -0.5),
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
