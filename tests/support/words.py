"""A small language: documents speak of topics by one word, people ask for them by another."""

_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "ke", "li", "mo", "nu")


def _words(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{_SYLLABLES[i // 10]}{_SYLLABLES[i % 10]}" for i in range(count))


TOPICS = 40
NAMES = _words("t", TOPICS)  # what documents say
ASKED = _words("s", TOPICS)  # what people say for the same
FILLERS = _words("w", 60)
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NAMES, *ASKED, *FILLERS)


def document(topic: int) -> str:
    """The text of the topic's document."""
    rest = " ".join(FILLERS[(topic * 7 + i) % len(FILLERS)] for i in range(8))
    return f"{NAMES[topic]} {NAMES[topic]} {rest}"


def query(topic: int, wording: int) -> str:
    """One of many ways to ask for a topic, none with a word of its name."""
    around = [FILLERS[(wording * 11 + topic + i) % len(FILLERS)] for i in range(2)]
    return f"{around[0]} {ASKED[topic]} {around[1]}"
