"""A trained model on its way to the Hugging Face hub: `--spo.push_to_hub NAME`."""

import os
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError

FLAG = "--spo.push_to_hub"


def check_name(name: str) -> None:
    """The hub would take the name. Raises UserError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{FLAG} {name!r}: {str(error).splitlines()[0]}") from None


def check_access() -> None:
    """There is a way to the hub, as far as that can be said without going there. Raises UserError."""
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{FLAG}: HF_HUB_OFFLINE is set, so nothing can be pushed; unset it or leave the option out")
    if not huggingface_hub.get_token():
        raise UserError(f"{FLAG}: no token of the hub; run `hf auth login` or set HF_TOKEN")


def push(folder: Path, name: str, *, endpoint: str | None = None, token: str | None = None) -> str:
    """Upload a model folder; its address. A repository that is not there is made, and is private.

    Raises whatever the hub or the way to it raises.
    """
    from huggingface_hub import HfApi

    api: Any = HfApi(endpoint=endpoint or os.environ.get("HF_ENDPOINT"), token=token)
    repository = api.create_repo(name, private=True, exist_ok=True).repo_id
    api.upload_folder(
        repo_id=repository,
        folder_path=folder,
        commit_message="Model trained by spo_rlhf",
        ignore_patterns=["global_step*"],
    )
    return f"{api.endpoint}/{repository}"


def push_or_tell(folder: Path, name: str) -> str:
    """Push, and say in a line where to, or why not and how to do it later. Raises nothing: the model is safe on the disk."""
    try:
        return f"pushed to {push(folder, name)}"
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        return (
            f"not pushed to {name} ({type(error).__name__}: {reason[:200]}); the model is in {folder}, push it by "
            f"`hf upload {name} {folder}`"
        )
