"""Uploads a folder to the Hub, by its own client."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from maskcls.errors import RunError


def push(folder: Path, repository: str) -> str:
    """Upload the folder as a model repository, which is made, private, if it is not there. Returns its address.

    The token is the client's: the variable HF_TOKEN, or what `hf auth login` kept.

    Raises RunError where the Hub refuses or cannot be reached.
    """
    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type="model", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id, folder_path=str(folder), repo_type="model", commit_message="Export of maskcls"
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(
            f"{folder} could not be uploaded as {repository}: {reason}. Check the name (USER/NAME) and the token (`hf "
            "auth login`, or HF_TOKEN). The folder is complete, so it can be uploaded again."
        ) from None
    return str(url)
