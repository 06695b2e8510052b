"""Which version and which sizes an evaluation is about."""

from collections.abc import Sequence

from diapason.cli.output import Problem
from diapason.client import Client
from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER, MODEL_KIND_RERANKER, ModelKind, VersionRef
from diapason.embedder.v1.embedder_pb2 import VERSION_STATE_READY, VersionStatus
from diapason.evaluation.modes import Mode, needs_reranker, needs_words

_WORDS = {MODEL_KIND_ENCODER: "encoder", MODEL_KIND_RERANKER: "reranker"}


def version(client: Client, named: str, kind: ModelKind.ValueType = MODEL_KIND_ENCODER) -> VersionStatus:
    """The loaded version that MODEL or MODEL@NUMBER means; the newest of all encoders for an empty name.

    Raises ``Problem`` with what there is.
    """
    loaded = [v for v in client.embedder_info().versions if v.kind == kind and v.state == VERSION_STATE_READY]
    if not loaded:
        raise Problem(f"the embedder has no {_WORDS[kind]} loaded; `diapason status` shows what it has")
    if not named:
        models = {v.version.model for v in loaded}
        return _newest(loaded) if len(models) == 1 else _last_published(client, loaded)
    model, at, number = named.partition("@")
    if at and not number.isdecimal():
        raise Problem(f"{named!r} names no version; give MODEL or MODEL@NUMBER, for example minilm@1")
    found = [v for v in loaded if v.version.model == model and (not at or v.version.number == int(number))]
    if not found:
        there = ", ".join(sorted(f"{v.version.model}@{v.version.number}" for v in loaded))
        raise Problem(f"the embedder has no {_WORDS[kind]} {named!r} loaded; it has {there}")
    return _newest(found)


def serving(client: Client, ref: VersionRef) -> VersionStatus:
    """What the embedder says of the version that serves. Raises ``Problem`` if it does not hold it."""
    for held in client.embedder_info().versions:
        if held.version.digest == ref.digest and held.state == VERSION_STATE_READY:
            return held
    raise Problem(f"{ref.model} version {ref.number}, which serves, is not loaded; `diapason status` says why")


def sizes(given: str, full: int, offered: Sequence[int], whose: str) -> list[int]:
    """The sizes of ``--dimensions 384,128,64``; all there are if empty. Raises ``Problem``."""
    there = sorted({full, *offered}, reverse=True)
    if not given.strip():
        return there
    parts = [part.strip() for part in given.split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdecimal() or int(part) not in there]
    if wrong:
        raise Problem(f"--dimensions {given}: {wrong[0]!r} is not a size of {whose}; it has {_listed(there)}")
    return sorted({int(part) for part in parts}, reverse=True)


def modes(given: Sequence[Mode], words: bool, reranker: bool) -> list[Mode]:
    """The modes asked for; all that are possible if none are. Raises ``Problem`` for one that is not.

    ``words`` and ``reranker`` say whether the collection has BM25 and its route a reranker.
    """
    lacking = {mode: _lacks(mode, words, reranker) for mode in Mode}
    for mode in given:
        if lacking[mode]:
            raise Problem(f"--mode {mode} can't be measured: {lacking[mode]}")
    return list(dict.fromkeys(given)) or [mode for mode in Mode if not lacking[mode]]


def _lacks(mode: Mode, words: bool, reranker: bool) -> str:
    if needs_words(mode) and not words:
        return "the collection was created without BM25; leave --collection out, and one that has it is made"
    if needs_reranker(mode) and not reranker:
        return "no reranker serves; name one with --reranker, or set one on the collection's route"
    return ""


def _newest(versions: Sequence[VersionStatus]) -> VersionStatus:
    return max(versions, key=lambda held: held.version.number)


def _last_published(client: Client, loaded: Sequence[VersionStatus]) -> VersionStatus:
    published = {
        known.ref.digest: known.published_time.ToNanoseconds()
        for model in {held.version.model for held in loaded}
        for known in client.versions(model)
    }
    return max(loaded, key=lambda held: published.get(held.version.digest, 0))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
