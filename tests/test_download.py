"""Downloads from a real server that cuts, stalls, corrupts and refuses; several real processes; hostile caches."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fileserver import FileServer, serve_files
from huggingface_hub import constants
from skd_plugins.weights.places import places

from skd_plugins import SkdError
from skd_plugins.weights.download import download, is_downloaded, release_folder, verify
from skd_plugins.weights.manifest import Release

NAME = "net.tag"
CHUNK = constants.DOWNLOAD_CHUNK_SIZE  # huggingface_hub writes so many bytes at a time
SMALL = np.random.default_rng(0).bytes(300_000)
LARGE = np.random.default_rng(1).bytes(2 * CHUNK + 3_000_000)
CARD = b'{"architecture": "resnet18"}'


def release_of(content: bytes, *urls: str) -> Release:
    files = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in (("model.safetensors", content), ("config.json", CARD))
    ]
    return Release.model_validate(
        {"name": NAME, "files": files, "urls": urls or ["https://nowhere.invalid/net.tag"], "metrics": {"top1": 0.5},
         "evaluation": "", "recipe": "", "commit": None, "data": "", "license": "Apache-2.0"}
    )  # fmt: skip


def served(content: bytes) -> dict[str, bytes]:
    return {f"/{NAME}/model.safetensors": content, f"/{NAME}/config.json": CARD}


def part_of(release: Release) -> Path:
    file = release.files[0]
    path = release_folder(NAME) / f".{file.name}.{file.sha256[:12]}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serve_files(served(SMALL)) as server:
        monkeypatch.setenv("SKD_WEIGHTS_MIRROR", server.address)
        yield server


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serve_files(served(LARGE)) as server:
        monkeypatch.setenv("SKD_WEIGHTS_MIRROR", server.address)
        yield server


def test_downloaded_once_and_verified_each_time(small: FileServer, cache: Path) -> None:
    release = release_of(SMALL)
    assert not is_downloaded(release)
    folder = download(release)
    assert folder == cache / "weights" / NAME
    assert (folder / "model.safetensors").read_bytes() == SMALL
    assert names(folder) == [".lock", "config.json", "model.safetensors"]
    assert [path for path, _ in small.requests] == [f"/{NAME}/model.safetensors", f"/{NAME}/config.json"]
    assert download(release) == verify(release) == folder
    assert len(small.requests) == 2

    (folder / "model.safetensors").write_bytes(SMALL[:-1] + b"x")
    with pytest.raises(SkdError, match=f"was not what the manifest states and is deleted: skd weights download {NAME}"):
        verify(release)
    assert not (folder / "model.safetensors").exists()
    with pytest.raises(SkdError, match="is not in the cache"):
        verify(release)
    (folder / "config.json").write_bytes(CARD[:-1] + b"x")
    assert download(release) == verify(release), "what is damaged is downloaded again"
    assert len(small.requests) == 4


def test_a_cut_transfer_continues_where_it_ended(large: FileServer) -> None:
    large.cuts = [CHUNK + 5_000_000]
    folder = download(release_of(LARGE))
    assert (folder / "model.safetensors").read_bytes() == LARGE
    assert [asked for _, asked in large.requests[:2]] == [None, f"bytes={CHUNK}-"]


def test_a_stalled_transfer_continues(large: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    large.stalls = [CHUNK + 1_000_000]
    assert (download(release_of(LARGE)) / "model.safetensors").read_bytes() == LARGE
    assert [asked for _, asked in large.requests[:2]] == [None, f"bytes={CHUNK}-"]


def test_a_slow_server_is_waited_for(small: FileServer) -> None:
    small.delay = 0.1
    assert (download(release_of(SMALL)) / "model.safetensors").read_bytes() == SMALL
    assert len(small.requests) == 2


def test_a_killed_download_leaves_no_half_file_and_is_continued(large: FileServer) -> None:
    release = release_of(LARGE)
    part = part_of(release)
    large.stalls, large.stall_seconds = [CHUNK + 1_000_000], 60
    process = multiprocessing.get_context("fork").Process(target=download, args=(release,))
    process.start()
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size == CHUNK) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert names(part.parent) == [".lock", part.name]
    assert (download(release) / "model.safetensors").read_bytes() == LARGE
    assert large.requests[1] == (f"/{NAME}/model.safetensors", f"bytes={CHUNK}-")
    assert names(part.parent) == [".lock", "config.json", "model.safetensors"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_truncated_file_is_continued_or_begun_anew(ranges: bool, small: FileServer) -> None:
    release, small.ranges = release_of(SMALL), ranges
    part_of(release).write_bytes(SMALL[:123_456])
    assert (download(release) / "model.safetensors").read_bytes() == SMALL
    assert small.requests[0] == (f"/{NAME}/model.safetensors", "bytes=123456-")


@pytest.mark.parametrize("size", [1000, len(SMALL), len(SMALL) + 1])
def test_a_wrong_beginning_is_given_up(size: int, small: FileServer) -> None:
    release = release_of(SMALL)
    part_of(release).write_bytes(bytes(size))
    assert (download(release) / "model.safetensors").read_bytes() == SMALL
    assert small.requests[-2] == (f"/{NAME}/model.safetensors", None)


def test_a_wrong_checksum_is_refused_and_deleted(small: FileServer) -> None:
    release, small.corrupt = release_of(SMALL), True
    with pytest.raises(SkdError, match="model.safetensors could not be had: .*checksum is not the manifest's") as error:
        download(release)
    assert "\n" not in str(error.value)
    assert names(release_folder(NAME)) == [".lock"]
    assert len(small.requests) == 1, "the same bytes are not asked for twice"
    small.corrupt = False
    assert (download(release) / "model.safetensors").read_bytes() == SMALL


def test_a_server_without_end_does_not_fill_the_disk(small: FileServer) -> None:
    release, small.endless = release_of(SMALL), True
    with pytest.raises(SkdError, match=f"more than the {len(SMALL)} bytes"):
        download(release)
    assert sum(path.stat().st_size for path in release_folder(NAME).iterdir()) <= len(SMALL)


def test_errors_that_may_pass_are_tried_again(small: FileServer) -> None:
    small.statuses = [500, 503]
    assert (download(release_of(SMALL)) / "model.safetensors").read_bytes() == SMALL
    assert len(small.requests) == 4


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, 3)])
def test_errors_that_stay(status: int, requests: int, small: FileServer) -> None:
    small.statuses = [status] * 3
    with pytest.raises(SkdError, match=f"{small.address}/{NAME}/model.safetensors: HTTP status {status}"):
        download(release_of(SMALL))
    assert len(small.requests) == requests


def test_four_processes_one_transfer(small: FileServer, tmp_path: Path) -> None:
    small.delay = 0.1  # half a second: all processes are there before it ends
    release = release_of(SMALL)
    context = multiprocessing.get_context("fork")
    together = context.Barrier(4)

    def work(number: int) -> None:
        together.wait(timeout=30)
        content = (download(release) / "model.safetensors").read_bytes()
        (tmp_path / f"{number}.sha256").write_text(hashlib.sha256(content).hexdigest())

    processes = [context.Process(target=work, args=(number,)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    got = {(tmp_path / f"{number}.sha256").read_text() for number in range(4)}
    assert got == {release.files[0].sha256}
    assert sorted(path for path, _ in small.requests) == sorted(served(SMALL))


# ---- places ----------------------------------------------------------------------------------------------------------


def test_local_places_come_first_and_the_next_one_helps(tmp_path: Path, small: FileServer) -> None:
    wrong, right = tmp_path / "wrong", tmp_path / "a folder"
    for folder, content in ((wrong, SMALL[::-1]), (right, SMALL)):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
        (folder / "config.json").write_bytes(CARD)
    release = release_of(SMALL, "https://nowhere.invalid", (tmp_path / "none").as_uri(), wrong.as_uri(), right.as_uri())
    assert (download(release) / "model.safetensors").read_bytes() == SMALL
    assert small.requests == []


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [
        "https://host.example/a%20b",
        "hf://owner/net.tag@v1",
        "hf://owner/x",
        "file:///data/a%20b",
    ]
    release = release_of(SMALL, *urls)
    hub = constants.ENDPOINT
    assert places(release, "config.json") == [
        Path("/data/a b/config.json"),
        "https://host.example/a%20b/config.json",
        f"{hub}/owner/net.tag/resolve/v1/config.json",
        f"{hub}/owner/x/resolve/main/config.json",
    ]
    monkeypatch.setenv("SKD_WEIGHTS_MIRROR", "https://mirror.example/skd/")
    assert places(release, "config.json") == [
        Path("/data/a b/config.json"),
        f"https://mirror.example/skd/{NAME}/config.json",
    ]
    monkeypatch.setenv("SKD_WEIGHTS_MIRROR", "ftp://mirror.example")
    with pytest.raises(SkdError, match="SKD_WEIGHTS_MIRROR should be an address with https://"):
        places(release, "config.json")


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_files({}) as gone:
        pass
    monkeypatch.setenv("SKD_WEIGHTS_MIRROR", gone.address)
    with pytest.raises(SkdError, match=f"weights '{NAME}': model.safetensors could not be had: {gone.address}.*copy"):
        download(release_of(SMALL))


def test_offline(small: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    release = release_of(SMALL)
    with pytest.raises(SkdError, match="HF_HUB_OFFLINE is set, so the network is not asked.*; or copy the file to"):
        download(release)
    assert small.requests == []
    (tmp_path / "model.safetensors").write_bytes(SMALL)
    (tmp_path / "config.json").write_bytes(CARD)
    folder = download(release_of(SMALL, tmp_path.as_uri()))
    assert download(release) == folder, "what is in the cache needs no network"


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "model.safetensors", "part", ".lock"])
def test_links_in_the_cache_are_refused(place: str, small: FileServer, tmp_path: Path) -> None:
    release = release_of(SMALL)
    outside = tmp_path / "outside"
    folder = release_folder(NAME)
    if place == "folder":
        folder.parent.mkdir(parents=True)
        outside.mkdir()
        folder.symlink_to(outside)
    else:
        outside.write_text("precious")
        path = part_of(release) if place == "part" else folder / place
        folder.mkdir(parents=True, exist_ok=True)
        path.symlink_to(outside)
    with pytest.raises(SkdError, match="is a link, and the cache has none|can't be written"):
        download(release)
    assert small.requests == []
    assert list(outside.iterdir()) == [] if place == "folder" else outside.read_text() == "precious"


def test_a_cache_that_cannot_be_written(small: FileServer, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(SkdError, match=r"the cache can't be written: .*Not a directory; SKD_CACHE=FOLDER puts"):
        download(release_of(SMALL))
    assert small.requests == []


def test_a_full_disk(small: FileServer) -> None:
    """A file may not grow beyond a limit, in a process of its own: the same error path as a disk without space."""
    release = release_of(SMALL)

    def work() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            download(release)
        except SkdError as error:
            os._exit(7 if "the cache can't be written" in str(error) and "File too large" in str(error) else 1)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 7
    assert (download(release) / "model.safetensors").read_bytes() == SMALL
