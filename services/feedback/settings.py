"""What feedback can be told."""

from pydantic import Field

from services.kit.settings import ServiceSettings


class FeedbackSettings(ServiceSettings):
    """`DIAPASON_…` and flags of feedback."""

    listen: str = "127.0.0.1:7073"
    database_url: str = Field(description="SQLAlchemy URL, for example sqlite:////data/feedback.db")
