"""What Prometheus sees of the embedder; labels name the model and its version's number."""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import Counter, Histogram
from prometheus_client.core import REGISTRY, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.embedder.domain.batching import Batch
from services.embedder.residents import Resident, Residents
from services.embedder.scheduler import Item, Scheduler
from services.embedder.worker.runtime import Output
from services.kit.metrics import SECONDS

_VERSION = ("model", "version")
_LANE = (*_VERSION, "lane")

_BATCH_TEXTS = Histogram(
    "diapason_embedder_batch_texts", "Texts in one forward pass.", _LANE, buckets=(1, 2, 4, 8, 16, 32)
)
_BATCH_TOKENS = Histogram(
    "diapason_embedder_batch_tokens",
    "Tokens in one forward pass, padding included.",
    _LANE,
    buckets=(16, 32, 64, 128, 256, 512, 1024),
)
_TOKENS = Counter("diapason_embedder_tokens", "Tokens computed, without padding.", _LANE)
_PADDING = Counter("diapason_embedder_padding_tokens", "Tokens computed only to fill up a batch.", _LANE)
_STAGE = Histogram(
    "diapason_embedder_stage_seconds",
    "Time of each batch by stage: queue (its oldest text), tokenization, inference, transport.",
    (*_LANE, "stage"),
    buckets=SECONDS,
)
_TRUNCATED = Counter("diapason_embedder_truncated_texts", "Texts that were cut to the version's length.", _VERSION)
_REFUSED = Counter("diapason_embedder_refusals", "Requests refused, by reason.", (*_VERSION, "reason"))
_FAILED = Counter("diapason_embedder_failed_texts", "Texts that could not be computed.", _VERSION)
_CACHE = Counter(
    "diapason_embedder_cache_lookups", "Queries looked up in the cache: hit or miss.", (*_VERSION, "result")
)
_CHANGE = Histogram(
    "diapason_embedder_version_seconds",
    "Time a version spent in each state on its way; `swap` is from wanted to ready.",
    (*_VERSION, "stage"),
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
_LOST = Counter("diapason_embedder_processes_lost", "Inference processes that ended unasked.", _VERSION)


@dataclass(frozen=True)
class Labels:
    """A version, as metrics name it."""

    model: str
    number: int

    @classmethod
    def of(cls, resident: Resident) -> "Labels":
        """A resident version's."""
        return cls(resident.desired.model, resident.desired.number)

    @property
    def values(self) -> tuple[str, str]:
        """In the order of the label names."""
        return self.model, str(self.number)


def refused(labels: Labels, reason: str) -> None:
    """A request was refused."""
    _REFUSED.labels(*labels.values, reason).inc()


def looked_up(labels: Labels, hits: int, misses: int) -> None:
    """Queries were looked up in the cache."""
    _CACHE.labels(*labels.values, "hit").inc(hits)
    _CACHE.labels(*labels.values, "miss").inc(misses)


def answered(labels: Labels, truncated: int, failed: int) -> None:
    """A request's texts were answered."""
    if truncated:
        _TRUNCATED.labels(*labels.values).inc(truncated)
    if failed:
        _FAILED.labels(*labels.values).inc(failed)


def spent(labels: Labels, stage: str, seconds: float) -> None:
    """A version has left a stage of its life."""
    _CHANGE.labels(*labels.values, stage).observe(seconds)


def lost(labels: Labels) -> None:
    """An inference process ended unasked."""
    _LOST.labels(*labels.values).inc()


def forget(labels: Labels) -> None:
    """A version is gone, and with it its series."""
    for metric in (
        _STAGE,
        _BATCH_TEXTS,
        _BATCH_TOKENS,
        _TOKENS,
        _PADDING,
        _TRUNCATED,
        _REFUSED,
        _FAILED,
        _CACHE,
        _LOST,
    ):
        metric.remove_by_labels({"model": labels.model, "version": str(labels.number)})
    _CHANGE.remove_by_labels({"model": labels.model, "version": str(labels.number)})


class BatchMetrics:
    """The scheduler's observer. ``labels`` finds a version's by its digest."""

    def __init__(self) -> None:
        self._labels: dict[str, Labels] = {}

    def know(self, digest: str, labels: Labels) -> None:
        """Name a version whose batches will come."""
        self._labels[digest] = labels

    def forget(self, digest: str) -> None:
        """It is gone."""
        self._labels.pop(digest, None)

    def computed(self, batch: Batch[Item], output: Output, queued: float, seconds: float) -> None:
        """A batch was answered."""
        if batch.version not in self._labels:
            return
        labels = (*self._labels[batch.version].values, batch.lane.value)
        tokens = sum(output.tokens)
        _BATCH_TEXTS.labels(*labels).observe(len(batch.items))
        _BATCH_TOKENS.labels(*labels).observe(output.padded_tokens)
        _TOKENS.labels(*labels).inc(tokens)
        _PADDING.labels(*labels).inc(output.padded_tokens - tokens)
        for stage, value in (
            ("queue", queued),
            ("tokenization", output.tokenization),
            ("inference", output.inference),
            ("transport", seconds - output.tokenization - output.inference),
        ):
            _STAGE.labels(*labels, stage).observe(value)


class LiveGauges(Collector):
    """What is read at the moment of the scrape: queues, batches in flight, memory."""

    def __init__(self, residents: Residents, scheduler: Scheduler) -> None:
        self._residents = residents
        self._scheduler = scheduler

    def register(self) -> None:
        """Have it scraped."""
        REGISTRY.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing fixed."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The families."""
        known = {resident.desired.digest: Labels.of(resident).values for resident in self._residents.all()}
        texts = GaugeMetricFamily("diapason_embedder_queued_texts", "Texts that wait.", labels=_LANE)
        tokens = GaugeMetricFamily("diapason_embedder_queued_tokens", "Tokens that wait, estimated.", labels=_LANE)
        age = GaugeMetricFamily("diapason_embedder_queue_age_seconds", "Age of the oldest text.", labels=_LANE)
        for lane, version, count, estimate, oldest in self._scheduler.waiting():
            labels = (*known.get(version, ("", "")), lane.value)
            texts.add_metric(labels, count)
            tokens.add_metric(labels, estimate)
            age.add_metric(labels, oldest)
        flight = GaugeMetricFamily("diapason_embedder_batches_in_flight", "Batches being computed.", labels=_VERSION)
        for version, batches in self._scheduler.in_flight():
            flight.add_metric(known.get(version, ("", "")), batches)
        memory = GaugeMetricFamily(
            "diapason_embedder_resident_bytes", "Memory of a version's inference process.", labels=_VERSION
        )
        for resident in self._residents.all():
            memory.add_metric(Labels.of(resident).values, resident.resident_bytes())
        return [texts, tokens, age, flight, memory]
