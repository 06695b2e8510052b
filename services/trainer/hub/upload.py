"""The process that uploads one folder to a model hub: `python -m services.trainer.hub.upload`.

A process of its own, since `huggingface_hub` takes its settings from the environment once, when it is imported, and
since only a process can be stopped in the middle of an upload. It reads an `Upload` from standard input and answers
with an `Outcome`, one JSON object each. The hub, the token and the way to upload are what `HF_…` in the environment
say; the token is never written anywhere.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlsplit

from services.trainer.process.spec import say, take_over_output

_LOOK_SECONDS = 0.5
_ADVICE = "set HF_TOKEN, with a token that may write there, in the environment of the trainer"


@dataclass(frozen=True)
class Upload:
    """What goes where."""

    folder: str
    repo: str
    private: bool
    message: str


@dataclass(frozen=True)
class Outcome:
    """Where it lies now; or which rule kept it away, and whether trying again may help."""

    url: str = ""
    commit: str = ""
    rule: str = ""
    reason: str = ""
    passing: bool = False


def upload(job: Upload) -> Outcome:
    """Make the repository if it is not there, and commit the folder to it."""
    from huggingface_hub import HfApi, constants, get_token

    hub = _without_secrets(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        return Outcome(rule="HUB_OFFLINE", reason="the trainer runs with HF_HUB_OFFLINE; take it out and start again")
    token = get_token()
    if not token:
        return Outcome(rule="HUB_TOKEN", reason=f"there is no token for the model hub {hub}; {_ADVICE}")
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    try:
        # Without a wish, a new repository is as its owner's settings say.
        url = api.create_repo(job.repo, private=job.private or None, exist_ok=True)
        if job.private and not api.model_info(job.repo).private:
            reason = f"{job.repo} is there already and is public; make it private on the hub, or name another"
            return Outcome(rule="REPO_IS_PUBLIC", reason=reason)
        done = api.upload_folder(repo_id=job.repo, folder_path=job.folder, commit_message=job.message)
    except Exception as error:
        known = _known(error, hub)
        if known is None:
            sys.stderr.write(traceback.format_exc().replace(token, "…"))
            raise SystemExit(1) from None
        # A hub may repeat what it was sent.
        return replace(known, reason=known.reason.replace(token, "…"))
    return Outcome(url=_without_secrets(str(url)), commit=done.oid)


def _known(error: BaseException, hub: str) -> Outcome | None:
    """What an error means, looked for among its causes too; None for one that is not the hub's."""
    import httpx2  # which huggingface_hub talks through
    from huggingface_hub.errors import HfHubHTTPError

    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            code = cause.response.status_code
            said = f": {cause.server_message}" if cause.server_message else ""
            if code in (401, 403):
                return Outcome(rule="HUB_TOKEN", reason=f"the model hub {hub} refused ({code}){said}; {_ADVICE}")
            if code == 429 or code >= 500:
                return Outcome(reason=f"the model hub {hub} can't take it now ({code}){said}", passing=True)
            return Outcome(rule="HUB_REFUSED", reason=f"the model hub {hub} does not take it ({code}){said}")
        if isinstance(cause, (httpx2.TransportError, ConnectionError, TimeoutError)):
            reason = f"the model hub {hub} does not answer ({type(cause).__name__}); HF_ENDPOINT says where it is"
            return Outcome(reason=reason, passing=True)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _without_secrets(url: str) -> str:
    """An address without the name and password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _end_with(parent: int) -> None:
    """End when the trainer that started us has ended: nobody waits for this any more."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    take_over_output()
    say(**asdict(upload(Upload(**json.load(sys.stdin)))))
    sys.stdout.flush()
