"""What search counts, besides what every service does."""

from prometheus_client import Counter

RERANK_SKIPPED = Counter(
    "diapason_search_rerank_skipped", "Searches whose first-stage order was returned though reranking was asked for."
)
IMPRESSIONS_DROPPED = Counter(
    "diapason_search_impressions_dropped", "Impressions that the feedback service did not take in time."
)
