"""What feedback can be told."""

from pydantic import Field

from services.kit.settings import ServiceSettings


class FeedbackSettings(ServiceSettings):
    """`DIAPASON_…` and flags of feedback."""

    listen: str = "127.0.0.1:7073"
    database_url: str = Field(description="SQLAlchemy URL, for example sqlite:////data/feedback.db")
    actor_events_per_minute: int = Field(
        600, ge=0, description="events taken of one actor by each process; more are refused; 0: no limit"
    )
    feedback_retention_days: int = Field(0, ge=0, le=36_500, description="feedback is deleted after so long; 0: never")
    impression_retention_days: int = Field(
        0, ge=0, le=36_500, description="impressions are deleted after so long; 0: never"
    )
