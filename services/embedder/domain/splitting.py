"""Where a text is cut into passages, from the offsets of its tokens.

The text is seen as pieces that are best not cut: a token, or several that share a character, as those of an
emoji do. A passage is a run of pieces without the white space around it.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

# Start and end in characters (Unicode code points) of a text, the end not included.
Span = tuple[int, int]
# How many tokens a passage, read alone, has more than it may; at most 0 if it fits.
Excess = Callable[[Span], int]

_ENDS = frozenset(".!?…")
# These end a sentence also where no space follows.
_WIDE_ENDS = frozenset("。！？｡")
_CLOSING = "\"'”’»)]}」』）】》"
_NEVER_FIRST = _ENDS | _WIDE_ENDS | frozenset(_CLOSING + ",;:、，；：")
# Ideographs and kana: written without spaces, so that any token may begin a word.
_UNSPACED = re.compile("[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def passages(text: str, offsets: Iterable[Span], room: int, overlap: int, excess: Excess) -> list[Span]:
    """Passages of at most ``room`` tokens, in order, that together hold all of a text but white space.

    ``offsets`` are those of the whole text's tokens, in order. Neighbours share up to ``overlap`` tokens, in whole
    words, though no more than half of ``room``. A substring may have more tokens than it had within the whole:
    ``excess`` says so of each passage before it is taken, and it becomes shorter until it fits. Both starts and ends
    ascend strictly. A blank text is one passage.
    """
    pieces = _pieces(text, offsets)
    if not pieces.spans:
        return [(0, len(text))]
    overlap = min(overlap, room // 2)
    found: list[Span] = []
    first = done = 0
    while done < len(pieces.spans):
        last = _fitting(pieces, first, done, room, excess)
        if last is not None:
            found.append(pieces.span(first, last))
            first, done = pieces.start(first, last, overlap), last
        elif first < done:
            first = done  # what would be shared leaves no room for anything new
        else:
            found += _by_characters(text, pieces.spans[done], excess)
            first = done = done + 1
    return found


@dataclass(frozen=True)
class _Pieces:
    """``before[i]`` tokens come before the i-th piece; a last entry has them all."""

    text: str
    spans: list[Span]
    before: list[int]

    def span(self, first: int, last: int) -> Span:
        """Of a passage from one piece to before another."""
        return self.spans[first][0], self.spans[last - 1][1]

    def end(self, first: int, done: int, room: int) -> int | None:
        """Before which piece a passage from ``first`` on ends best; None if what is beyond ``done`` has no room.

        A sentence's end in the last quarter of the room, else a word's. Each passage brings a quarter of new tokens
        (``room`` is at least twice the overlap), so that there are not too many of them.
        """
        most = bisect_right(self.before, self.before[first] + room) - 1
        if most <= done:
            return done + 1 if first == done else None
        if most == len(self.spans):
            return most
        late = bisect_left(self.before, self.before[first] + room - room // 4, done + 1, most)
        early = bisect_left(self.before, self.before[done] + room // 4, done + 1, most)
        sentence = next((i for i in range(most, late - 1, -1) if self._ends_sentence(i)), None)
        return sentence or next((i for i in range(most, early - 1, -1) if self._begins_word(i)), most)

    def start(self, first: int, last: int, overlap: int) -> int:
        """With which piece to begin after a passage, so that at most ``overlap`` tokens come again."""
        lowest = bisect_left(self.before, self.before[last] - overlap, first + 1, last)
        return next((i for i in range(lowest, last) if self._begins_word(i)), last)

    def _begins_word(self, piece: int) -> bool:
        end, start = self.spans[piece - 1][1], self.spans[piece][0]
        if start > end:  # only white space lies between pieces
            return True
        around = self.text[end - 1] + self.text[start]
        return _UNSPACED.search(around) is not None and around[1] not in _NEVER_FIRST

    def _ends_sentence(self, piece: int) -> bool:
        """Whether one ends before the piece. A blank line ends one too; abbreviations are not known."""
        end, start = self.spans[piece - 1][1], self.spans[piece][0]
        last = self.text[max(0, end - 4) : end].rstrip(_CLOSING)[-1:]
        if last in _WIDE_ENDS:
            return start > end or self.text[start] not in _NEVER_FIRST
        return start > end and (last in _ENDS or self.text.count("\n", end, start) > 1)


def _pieces(text: str, offsets: Iterable[Span]) -> _Pieces:
    """White space counts with the piece before it; so does what no token covers."""
    begins, counts, reach = [0], [0], 0
    for start, end in offsets:
        if reach <= start < end and counts[-1]:
            begins.append(start)
            counts.append(0)
        counts[-1] += 1
        reach = max(reach, end)
    spans: list[Span] = []
    tokens = [0]  # the first entry: of white space before everything
    for begin, end, count in zip(begins, [*begins[1:], len(text)], counts, strict=True):
        if span := _trimmed(text, begin, end):
            spans.append(span)
            tokens.append(count)
        else:
            tokens[-1] += count
    return _Pieces(text, spans, list(accumulate(tokens)))


def _fitting(pieces: _Pieces, first: int, done: int, room: int, excess: Excess) -> int | None:
    """As `_Pieces.end`, for a passage that fits also when read alone; None if not even one new piece does.

    Ever more is taken off, so that there are no more tries than ``room`` has binary digits, and one.
    """
    tries = 0
    while (last := pieces.end(first, done, room)) is not None:
        over = excess(pieces.span(first, last))
        if over <= 0:
            return last
        if last == done + 1:
            return None
        room = max(1, pieces.before[last] - pieces.before[first] - (over << tries))
        tries += 1
    return None


def _by_characters(text: str, span: Span, excess: Excess) -> list[Span]:
    """A piece that is too long, halved until its parts fit. A single character is left as it is."""
    start, end = span
    if end - start == 1 or excess(span) <= 0:
        return [span]
    middle = (start + end) // 2
    halves = [_trimmed(text, start, middle), _trimmed(text, middle, end)]
    return [part for half in halves if half for part in _by_characters(text, half, excess)]


def _trimmed(text: str, start: int, end: int) -> Span | None:
    """Without white space at its ends; None if there is nothing else."""
    part = text[start:end]
    bare = part.lstrip()
    return (end - len(bare), end - len(bare) + len(bare.rstrip())) if bare else None
