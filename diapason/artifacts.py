"""Reading and writing `manifest.json`, and the digest that names a version."""

import hashlib

from google.protobuf import json_format

from diapason.artifact.v1.manifest_pb2 import FileRole, Manifest

MANIFEST_NAME = "manifest.json"
FORMAT = 1
# What an embedder fetches; the weights are for training only.
SERVING_ROLES = (FileRole.FILE_ROLE_OPENVINO, FileRole.FILE_ROLE_TOKENIZER)


class BadManifest(ValueError):
    """The bytes are not a manifest that this release can read."""


def encode(manifest: Manifest) -> bytes:
    """The bytes of manifest.json: the same message always gives the same bytes."""
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True, indent=2, sort_keys=True)
    return text.encode()


def decode(content: bytes) -> Manifest:
    """Read manifest.json. Raises ``BadManifest``."""
    try:
        manifest = json_format.Parse(content, Manifest(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise BadManifest(f"the manifest can't be read: {error}") from error
    if manifest.format != FORMAT:
        raise BadManifest(f"the manifest has format {manifest.format}; this release reads {FORMAT}")
    return manifest


def digest(content: bytes) -> str:
    """Lower-case hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()
