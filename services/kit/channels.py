"""Channels to other services: one way to open them, with retries where a retry is safe."""

import json
from typing import Any

import grpc

# Requests are bounded by their contracts well below this; 4 MiB, gRPC's own limit, is too little
# for a full batch of long documents.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024

# A call that met UNAVAILABLE may have been carried out before the connection broke, so what is
# repeated must be safe to repeat: all our unary calls are, those that write by an idempotency
# key, an id or a compare-and-set. Time-outs are set on each call.
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A service that restarts is found again within a second, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel for the event loop. ``address`` is host:port or any name that gRPC resolves."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)


def open_blocking_channel(address: str) -> grpc.Channel:
    """A channel for threads (Celery tasks)."""
    return grpc.insecure_channel(address, options=OPTIONS)
