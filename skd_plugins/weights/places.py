"""Where the files of a release can be had, in the order in which they are tried."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ..common.errors import SkdError
from .manifest import Release

MIRROR = "SKD_WEIGHTS_MIRROR"


def places(release: Release, file: str) -> list[Path | str]:
    """Local files first, then addresses.

    With ``SKD_WEIGHTS_MIRROR`` (``https://``, ``http://`` or ``file://``; ``MIRROR/NAME/FILE`` is asked for) nothing
    else on the network is asked. The checksums are the manifest's in any case.

    Raises:
        SkdError: the mirror is none of these.
    """
    found = [_place(f"{url}/{file}") for url in release.urls]
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if mirror:
        if not mirror.startswith(("https://", "http://", "file:///")):
            raise SkdError(f"{MIRROR} should be an address with https://, http:// or file:///, got {mirror!r}")
        found = [*(place for place in found if isinstance(place, Path)), _place(f"{mirror}/{release.name}/{file}")]
    return sorted(found, key=lambda place: isinstance(place, str))  # stable: the manifest's order otherwise


def _place(url: str) -> Path | str:
    scheme, _, rest = url.partition(":")
    if scheme == "package":
        return Path(__file__).parent / "released" / rest
    if scheme == "file":
        return Path(unquote(urlsplit(url).path))
    if scheme == "hf":
        from huggingface_hub import hf_hub_url

        owner, repository, file = rest.removeprefix("//").split("/")
        repository, _, revision = repository.partition("@")
        return hf_hub_url(f"{owner}/{repository}", file, revision=revision or None)
    return quote(url, safe=":/?&=%@+~")
