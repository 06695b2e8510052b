"""Cutting a text into passages, with the tokenizer of a loaded version."""

from services.embedder.domain.splitting import Span, passages
from services.embedder.worker.runtime import Cut, Model, Passages

# With less than this for its own text, a passage would be a word or two after a prompt.
_LEAST_ROOM = 8


def cut(model: Model, asked: Cut) -> Passages:
    """What the pure decision says, each passage read with prompt and special tokens, as `Embed` will read it.

    There are no passages if prompt and special tokens leave too little room for any.
    """
    prompt, text, max_tokens, overlap_tokens = asked
    if not text.strip():
        return Passages([(0, len(text))])
    room = max_tokens - model.special_tokens - len(model.offsets(prompt))
    if room < _LEAST_ROOM:
        return Passages([])

    def excess(span: Span) -> int:
        return len(model.offsets(prompt + text[slice(*span)])) + model.special_tokens - max_tokens

    offsets, begin = model.offsets(prompt + text), len(prompt)
    if len(offsets) + model.special_tokens <= max_tokens:
        return Passages([(0, len(text))])
    # A token may begin in the prompt's last space.
    own = ((max(0, start - begin), end - begin) for start, end in offsets if end > begin)
    return Passages(passages(text, own, room, overlap_tokens, excess))
