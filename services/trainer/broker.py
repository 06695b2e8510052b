"""Nudges through Celery on Redis.

A message says only "look at this job": the job itself is a row, claimed by whoever looks first.
So a message that is lost, repeated or late does no harm, none needs acknowledging late, and
Redis needs no persistence (I7).
"""

import celery
import kombu.exceptions
import structlog
from redis.exceptions import RedisError

log = structlog.get_logger()

RUN_TASK, ROLLOUT_TASK = "diapason.run", "diapason.rollout"
_CONNECT_SECONDS = 2.0
# A nudge that nobody took in this time has been repeated by then.
_EXPIRES_SECONDS = 60.0


def celery_app(broker_url: str) -> celery.Celery:
    """The application, without tasks; the worker adds them."""
    app = celery.Celery("diapason", broker=broker_url)
    app.conf.update(
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_connect_timeout": _CONNECT_SECONDS, "socket_timeout": 30.0},
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
    )
    return app


class Nudger:
    """Sends nudges. Methods block; a broker that is away is an answer, not an error."""

    def __init__(self, broker_url: str) -> None:
        self._app = celery_app(broker_url)

    def nudge(self, task: str, job_id: str) -> bool:
        """Ask the workers to look at a job. False if the broker could not be reached."""
        try:
            self._app.send_task(task, [job_id], retry=False, expires=_EXPIRES_SECONDS)
        except (kombu.exceptions.OperationalError, RedisError, OSError) as error:
            log.warning("the broker does not answer", error=type(error).__name__)
            return False
        return True

    def reachable(self) -> str:
        """Empty if the broker answers, else why not."""
        try:
            with self._app.connection_for_write(connect_timeout=_CONNECT_SECONDS) as connection:
                connection.ensure_connection(max_retries=1, timeout=_CONNECT_SECONDS)
        except (kombu.exceptions.OperationalError, RedisError, OSError) as error:
            return f"the message broker does not answer ({type(error).__name__})"
        return ""

    def close(self) -> None:
        """Close connections."""
        self._app.close()
