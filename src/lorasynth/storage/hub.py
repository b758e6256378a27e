"""The Hugging Face hub, both ways: the local copy of a repository, and a folder published as one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lorasynth.errors import ModelError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind = Literal["model", "dataset"]


def is_repo_id(name: str) -> bool:
    """Whether a name has the form of a hub repository's, ``owner/name``."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def local_copy(repo_id: str, kind: Kind, patterns: Sequence[str]) -> Path:
    """The local copy of a hub repository, downloaded where there is none yet.

    Args:
        repo_id: ``owner/name``.
        kind: of the repository.
        patterns: which files; nothing else is downloaded.

    Raises:
        ModelError: it is no repository's name, or the hub could not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, repo_type=kind, allow_patterns=list(patterns)))
    except HFValidationError:
        raise ModelError(f"{repo_id}: expected a folder, or a hub id; no such folder") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{repo_id}: no such folder, and the hub could not give it ({_first_line(error)}); check the name"
        ) from None


def publish(
    folder: Path, repo_id: str, kind: Kind, patterns: Sequence[str], *, private: bool = True, api: "HfApi | None" = None
) -> str:
    """Make a hub repository hold the files of a folder, in one commit. Files of the same patterns that it held go.

    Args:
        folder: what to publish.
        repo_id: ``owner/name``; made where there is none.
        kind: of the repository.
        patterns: which files.
        private: whether a repository that is made now is seen by its owner only.
        api: who talks to the hub: by default `huggingface_hub.HfApi`, with the token of ``hf auth login``.

    Returns:
        The address of the repository.

    Raises:
        UsageError: it is no repository's name, or the hub refused.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not is_repo_id(repo_id):
        raise UsageError(f"expected a hub id, owner/name, got {repo_id!r}")
    api = HfApi() if api is None else api
    try:
        address = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, repo_type=kind, folder_path=folder, allow_patterns=list(patterns),
            delete_patterns=list(patterns), commit_message=f"lorasynth: {kind}",
        )  # fmt: skip
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UsageError(
            f"{repo_id}: the hub did not take it ({_first_line(error)}); check the name, and `hf auth login`"
        ) from None
    return str(address)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
