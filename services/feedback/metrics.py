"""What feedback counts, besides what every service does."""

from prometheus_client import Counter

EVENTS = Counter("diapason_feedback_events", "Events stored, by signal.", ["signal"])
DUPLICATES = Counter("diapason_feedback_duplicates", "Events that were stored before, by their idempotency keys.")
RATE_REFUSED = Counter("diapason_feedback_rate_refused", "Events refused because an actor sent too many.")
IMPRESSIONS = Counter("diapason_feedback_impressions", "Impressions stored.")
EXPIRED = Counter("diapason_feedback_expired", "Rows deleted for their age, by kind.", ["kind"])
