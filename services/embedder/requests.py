"""Checks of what callers send: every broken rule is named, with the remedy."""

from collections.abc import Sequence

from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from services.embedder.residents import Resident, Residents
from services.kit.errors import InvalidArgument, Violation

# A passage's, at least.
_LEAST_TOKENS = 16


class Checks:
    """The limits of this embedder, and the rules of the contract."""

    def __init__(self, residents: Residents, limits: pb.Limits) -> None:
        self._residents = residents
        self.limits = limits

    def embed(self, request: pb.EmbedRequest) -> Resident:
        """The version that the request names. Raises ``InvalidArgument`` and what `Residents.find` does."""
        wrong = [*_version(request.version), *_role(request.role), *_lane(request.lane), *self.texts(request.texts)]
        return self._encoder(request.version, request.dimensions, wrong)

    def stream(self, config: pb.EmbedStreamConfig) -> Resident:
        """The same of a stream."""
        wrong = [*_version(config.version), *_role(config.role), *_lane(config.lane)]
        return self._encoder(
            config.version, config.dimensions, [Violation(f"config.{v.field}", v.description) for v in wrong]
        )

    def rerank(self, request: pb.RerankRequest) -> Resident:
        """The same of a reranking."""
        wrong = [*_version(request.version), *_lane(request.lane)]
        if fault := self.text(request.query):
            wrong.append(Violation("query", fault))
        wrong += self.texts(request.texts)
        resident = self._find(request.version, wrong)
        if not resident.reranker:
            raise InvalidArgument(
                Violation("version", f"names {_name(resident)}, an encoder; use Embed, or name a reranker")
            )
        return resident

    def split(self, request: pb.SplitRequest) -> tuple[Resident, int]:
        """The same of cutting, and the tokens that a passage may have. A text may be blank."""
        long = [(i, self._length(text)) for i, text in enumerate(request.texts)]
        wrong = [*_version(request.version), *self.count(request.texts)]
        wrong += [Violation(f"texts[{i}]", fault) for i, fault in long if fault]
        resident = self._encoder(request.version, 0, wrong)
        reads = resident.manifest.max_tokens
        most, overlap = request.max_tokens or reads, request.overlap_tokens
        if request.max_tokens and not _LEAST_TOKENS <= request.max_tokens <= reads:
            wrong.append(Violation("max_tokens", f"is {most}; give {_LEAST_TOKENS} to {reads}, or 0 for {reads}"))
        if overlap and overlap * 2 >= most:
            wrong.append(Violation("overlap_tokens", f"is {overlap}; give less than half of max_tokens, {most}"))
        if wrong:
            raise InvalidArgument(*wrong)
        return resident, most

    def count(self, texts: Sequence[str]) -> list[Violation]:
        """Whether there are too few or too many."""
        if 1 <= len(texts) <= self.limits.max_texts:
            return []
        return [Violation("texts", f"has {len(texts)} texts; send 1 to {self.limits.max_texts}")]

    def texts(self, texts: Sequence[str]) -> list[Violation]:
        """Everything wrong with a list of texts."""
        faults = [(i, self.text(text)) for i, text in enumerate(texts)]
        return [*self.count(texts), *(Violation(f"texts[{i}]", fault) for i, fault in faults if fault)]

    def text(self, text: str) -> str | None:
        """What is wrong with one text, if anything is."""
        if not text or text.isspace():
            return "is empty; leave it out"
        return self._length(text)

    def _length(self, text: str) -> str | None:
        if len(text) > self.limits.max_text_characters:
            return f"has {len(text)} characters; the most is {self.limits.max_text_characters}"
        return None

    def _encoder(self, version: VersionRef, dimensions: int, wrong: list[Violation]) -> Resident:
        resident = self._find(version, wrong)
        if resident.reranker:
            raise InvalidArgument(
                Violation("version", f"names {_name(resident)}, a reranker; use Rerank, or name an encoder")
            )
        if dimensions and dimensions not in resident.manifest.dimensions:
            sizes = ", ".join(map(str, resident.manifest.dimensions))
            raise InvalidArgument(Violation("dimensions", f"is {dimensions}; this version was trained for {sizes}"))
        return resident

    def _find(self, asked: VersionRef, wrong: list[Violation]) -> Resident:
        if wrong:
            raise InvalidArgument(*wrong)
        resident = self._residents.find(asked.model, asked.number, asked.digest)
        known = resident.desired
        if (asked.model and asked.model != known.model) or (asked.number and asked.number != known.number):
            raise InvalidArgument(
                Violation("version", f"says {asked.model}/{asked.number}, but its digest is that of {_name(resident)}")
            )
        return resident


def _name(resident: Resident) -> str:
    return f"{resident.desired.model}/{resident.desired.number}"


def _version(asked: VersionRef) -> list[Violation]:
    if asked.digest or (asked.model and asked.number):
        return []
    return [Violation("version", "is missing; give a digest, or a model and a number")]


def _role(role: pb.Role.ValueType) -> list[Violation]:
    if role in (pb.ROLE_QUERY, pb.ROLE_DOCUMENT):
        return []
    return [Violation("role", f"is {role}; say ROLE_QUERY or ROLE_DOCUMENT")]


def _lane(lane: pb.Lane.ValueType) -> list[Violation]:
    if lane in (pb.LANE_UNSPECIFIED, pb.LANE_INTERACTIVE, pb.LANE_BULK):
        return []
    return [Violation("lane", f"is {lane}; say LANE_INTERACTIVE or LANE_BULK")]
