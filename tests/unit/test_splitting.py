"""Where texts are cut: nothing lost, everything in order, each passage short enough, and cuts where readers pause."""

import math
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.embedder.domain.splitting import Span, passages

# Letters, an ideograph, an emoji (four tokens below), a ligature, marks, spaces of several kinds.
CHARACTERS = st.sampled_from("abcdefgh漢字かé😀ﬁ\u0301.!?。」\"' \n\t\u00a0\u3000")
TEXTS = st.text(CHARACTERS, max_size=300)
ROOMS = st.integers(1, 40)


def tokens(text: str) -> list[Span]:
    """Of three characters at most; an emoji is four that share it; spaces belong to what follows, as in GPT-2's."""
    found: list[Span] = []
    for match in re.finditer(r"\s?[a-h]{1,3}|😀|\S|\s", text):
        found += [match.span()] * (4 if match[0] == "😀" else 1)
    return found


def words(text: str) -> list[Span]:
    """One token each."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def excess(text: str, room: int, count: Callable[[str], int]) -> Callable[[Span], int]:
    return lambda span: count(text[slice(*span)]) - room


def alone(text: str) -> int:
    """Read alone, a text has a few tokens more than it had within another."""
    return len(tokens(text)) + len(text) % 3


def split(text: str, room: int, overlap: int = 0) -> list[str]:
    """By words."""
    fits = excess(text, room, lambda part: len(words(part)))
    return [text[slice(*span)] for span in passages(text, words(text), room, overlap, fits)]


def check_order(text: str, found: list[Span]) -> None:
    for i in (0, 1):
        assert all(one[i] < other[i] for one, other in pairwise(found))
    assert all(0 <= start <= end <= len(text) for start, end in found)
    covered = {i for start, end in found for i in range(start, end)}
    assert all(character.isspace() for i, character in enumerate(text) if i not in covered)


@given(TEXTS, ROOMS, st.integers(0, 40))
@example("😀😀", 1, 0)
@example("a" + "\n" * 50 + "b", 4, 2)
def test_nothing_is_lost_and_each_passage_fits(text: str, room: int, overlap: int) -> None:
    found = passages(text, tokens(text), room, overlap, excess(text, room, alone))
    check_order(text, found)
    if not text.strip():
        assert found == [(0, len(text))]
        return
    for start, end in found:
        part = text[start:end]
        assert part == part.strip()
        assert alone(part) <= room or end - start == 1


@given(TEXTS, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 5))), ROOMS, st.integers(0, 40))
def test_nothing_is_lost_whatever_offsets_a_tokenizer_gives(
    text: str, offsets: list[tuple[int, int]], room: int, overlap: int
) -> None:
    """Out of order, overlapping, empty, with gaps: they come from other people's code."""
    given_ = [(min(start, len(text)), min(start + length, len(text))) for start, length in offsets]
    check_order(text, passages(text, given_, room, overlap, excess(text, room, alone)))


@given(TEXTS, st.integers(4, 40), st.integers(0, 20))
def test_neighbours_share_at_most_what_was_asked_in_whole_words(text: str, room: int, overlap: int) -> None:
    found = passages(text, tokens(text), room, overlap, excess(text, room, lambda part: len(tokens(part))))
    for (_, end), (start, _) in pairwise(found):
        if start < end:
            assert len([t for t in tokens(text) if t[1] > start and t[0] < end]) <= overlap
            assert text[start - 1].isspace() or re.search("[漢字か。」]", text[start - 1 : start + 1])


@given(TEXTS, st.integers(4, 40), st.integers(0, 20))
def test_a_token_is_whole_where_the_room_allows(text: str, room: int, overlap: int) -> None:
    found = passages(text, tokens(text), room, overlap, excess(text, room, lambda part: len(tokens(part))))
    inner = {i for start, end in tokens(text) for i in range(start + 1, end)}
    for start, end in found:
        assert start not in inner or text[start - 1].isspace()
        assert end not in inner or text[end].isspace()


@given(st.integers(1, 200), st.integers(0, 100), st.integers(1, 200))
def test_i10_the_tries_for_each_passage_are_bounded(room: int, overlap: int, really: int) -> None:
    """Where read alone always takes much more than it should have, and the reader says only that it is too much."""
    text, read = "ab c " * 70, 0

    def fits(span: Span) -> int:
        nonlocal read
        read += 1
        return 1 if len(tokens(text[slice(*span)])) > really else 0

    found = passages(text, tokens(text), room, overlap, fits)
    # Twice: a passage may be given up for what it shares, and begun again without.
    assert read <= 2 * (math.log2(room) + 2) * len(found)


def test_tokens_that_share_a_character_stay_together() -> None:
    assert passages("abcd", [(0, 2), (1, 3), (3, 4)], 1, 0, lambda span: 0) == [(0, 3), (3, 4)]


def test_i10_a_long_text_is_read_a_few_times_over_and_no_more() -> None:
    text = "abc defgh. " * 9000
    for room, overlap in ((500, 0), (500, 249), (500, 600), (16, 7)):
        read: list[int] = []

        def fits(span: Span, room: int = room, read: list[int] = read) -> int:
            read.append(span[1] - span[0])
            return len(tokens(text[slice(*span)])) - room

        found = passages(text, tokens(text), room, overlap, fits)
        assert len(found) > 40
        assert sum(read) < 4 * len(text)


def test_a_cut_falls_between_sentences_where_one_ends_late_enough() -> None:
    assert split("a b c d e f g. h i j k l", 8) == ["a b c d e f g.", "h i j k l"]
    assert split('a b c d e "f g!" h i j k l', 8) == ['a b c d e "f g!"', "h i j k l"]
    assert split("a b. c d e f g h i j k l", 8) == ["a b. c d e f g h", "i j k l"]  # too early to be worth it


def test_a_blank_line_ends_a_sentence_and_a_single_break_does_not() -> None:
    assert split("a b c d e f g\n\nh i j k l", 8)[0] == "a b c d e f g"
    assert split("a b c d e f g\nh i j k l", 8)[0] == "a b c d e f g\nh"


def test_a_number_is_no_sentence() -> None:
    text = "a bb 3.14 cc"
    offsets = [(0, 1), (2, 4), (5, 6), (6, 7), (7, 9), (10, 12)]
    assert passages(text, offsets, 5, 0, lambda span: 0) == [(0, 9), (10, 12)]
    assert passages(text, offsets, 4, 0, lambda span: 0) == [(0, 4), (5, 12)]


def test_scripts_without_spaces_are_cut_after_their_sentences_and_share_single_characters() -> None:
    text = "漢字漢字漢。」漢字漢字漢字漢字"
    each = [(i, i + 1) for i in range(len(text))]
    found = [text[slice(*span)] for span in passages(text, each, 8, 3, lambda span: span[1] - span[0] - 8)]
    assert found == ["漢字漢字漢。」", "漢。」漢字漢字漢", "漢字漢字漢字"]


def test_a_word_longer_than_the_room_is_cut_at_its_tokens() -> None:
    text = "ab " + "abcdefgh" * 10
    found = passages(text, tokens(text), 8, 0, excess(text, 8, lambda part: len(tokens(part))))
    assert found[0] == (0, 24)
    check_order(text, found)


@pytest.mark.parametrize("overlap", [0, 2, 4])
def test_overlap_repeats_the_last_words(overlap: int) -> None:
    text = " ".join(f"w{i}" for i in range(30))
    found = [part.split() for part in split(text, 8, overlap)]
    for one, other in pairwise(found):
        assert one[len(one) - overlap :] == other[:overlap]
