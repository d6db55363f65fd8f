"""One file from one place into a part file: bounded in size, resumed where it ended."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import SkdError
from ..common.files import file_sha256
from .manifest import ReleasedFile

if TYPE_CHECKING:
    from typing_extensions import Buffer


class UnreachableError(Exception):
    """The place does not give the file; the message says why.

    Attributes:
        again: whether another try may help.
    """

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


def transfer(place: Path | str, part: Path, file: ReleasedFile) -> None:
    """Completes the part file; what it has already is not transferred again, if the server can do that.

    The transfer is huggingface_hub's: it reconnects where a connection breaks or stalls (``HF_HUB_DOWNLOAD_TIMEOUT``
    seconds, 10), and shows a progress bar (``HF_HUB_DISABLE_PROGRESS_BARS=1`` does not).

    Raises:
        UnreachableError: it could not be completed. What arrived is kept.
        SkdError: the part file can't be written.
    """
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    with _Bounded(part, file.size) as target:
        if isinstance(place, Path):
            _copy(place, target)
        else:
            _get(place, target, file)
        os.fsync(target.fileno())


def has_content(path: Path, file: ReleasedFile) -> bool:
    """Whether the file is there with the size and the SHA-256 that the manifest states."""
    try:
        return path.stat().st_size == file.size and file_sha256(path) == file.sha256
    except OSError:  # not there, or not readable
        return False


class _Bounded(io.FileIO):
    """Appends to a file, which is not a link, up to a size: a server that goes on sending must not fill the disk."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit = path, limit
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise unwritable(path, error) from None
        super().__init__(handle, "w")
        self._begun = self.seek(0, os.SEEK_END) > 0

    def write(self, data: Buffer, /) -> int:
        left = memoryview(data)
        size = len(left)
        if self.tell() + size > self._limit:
            self.truncate(0)
            raise UnreachableError(
                f"it has more than the {self._limit} bytes that the manifest states", again=self._begun
            )
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            raise unwritable(self._path, error) from None
        return size


def unwritable(path: Path, error: OSError) -> SkdError:
    """The cache can't be written; says where it is and how to have it elsewhere."""
    return SkdError(
        f"the cache can't be written: {path}: {error.strerror or error}; SKD_CACHE=FOLDER puts the cache elsewhere"
    )


def _copy(place: Path, target: _Bounded) -> None:
    target.seek(0)
    target.truncate()
    try:
        with place.open("rb") as source:
            shutil.copyfileobj(source, target)
    except OSError as error:
        raise UnreachableError(error.strerror or str(error), again=False) from None


def _get(url: str, target: _Bounded, file: ReleasedFile) -> None:
    from huggingface_hub import constants, get_token
    from huggingface_hub.file_download import http_get

    headers = {"Accept-Encoding": "identity"}  # a range of a compressed answer is not a range of the file
    token = get_token()
    if token and url.startswith(f"{constants.ENDPOINT}/"):  # the user's token is for the Hub and for nobody else
        headers["Authorization"] = f"Bearer {token}"
    try:
        http_get(
            url, target, resume_size=target.tell(), headers=headers, expected_size=file.size,
            displayed_filename=file.name,
        )  # fmt: skip
    except (SkdError, UnreachableError):
        raise
    except Exception as error:  # of huggingface_hub's, or of the HTTP library that its version builds on
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"HTTP status {status}" if status else (str(error).splitlines() or [type(error).__name__])[0]
        # Nobody listens: huggingface_hub has knocked several times. It does not repeat a status of 500 and more, an
        # answer that ends early and, in older versions, a broken connection.
        again = status >= 500 if status else type(error).__name__ != "ConnectError"
        raise UnreachableError(reason, again=again) from None
