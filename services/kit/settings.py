"""Settings from `DIAPASON_…` in the environment and from flags, which win."""

import sys
from typing import TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.kit.logs import LogFormat


class ServiceSettings(BaseSettings):
    """What every service can be told. Each service adds its own."""

    model_config = SettingsConfigDict(
        env_prefix="DIAPASON_", extra="ignore", cli_kebab_case=True, cli_implicit_flags=True
    )

    listen: str = Field(description="host:port on which to serve gRPC")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    log_format: LogFormat = "json"
    metrics_listen: str = Field("", description="host:port on which to serve Prometheus metrics; empty for none")
    drain_seconds: float = Field(20.0, ge=0, description="how long requests in flight may take to finish on SIGTERM")
    max_requests: int = Field(256, ge=1, description="unary requests at work at once; more are refused")
    request_timeout_seconds: float = Field(
        30.0, gt=0, description="most that a unary request may take; also when the caller sets no deadline"
    )


Settings = TypeVar("Settings", bound=BaseSettings)


def load(kind: type[Settings], program: str, arguments: list[str]) -> Settings:
    """Read the settings, or end the process with status 2 and a sentence for each that is wrong."""
    try:
        return kind(_cli_parse_args=arguments, _cli_prog_name=program)
    except ValidationError as error:
        for wrong in error.errors():
            name = "_".join(map(str, wrong["loc"])).upper()
            given = "" if wrong["type"] == "missing" else f" (it is {wrong['input']!r})"
            sys.stderr.write(f"{program}: DIAPASON_{name}: {wrong['msg'].lower()}{given}\n")
        sys.exit(2)
