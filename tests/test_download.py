"""Downloads from a real server that cuts, corrupts and refuses; several processes; a cache that can't be written."""

import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import umask
from fileserver import FileServer, serve_files
from huggingface_hub import constants

from skd_plugins import SkdError
from skd_plugins.weights.download import download, is_downloaded, release_folder, verify
from skd_plugins.weights.manifest import Release

NAME = "net.tag"
CONTENT = {"model.safetensors": np.random.default_rng(0).bytes(300_000), "config.json": b'{"architecture": "resnet18"}'}


def release_of(*urls: str) -> Release:
    files = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in CONTENT.items()
    ]
    about = {"metrics": {"top1": 0.5}, "evaluation": "", "recipe": "", "commit": None, "data": "", "license": "MIT"}
    return Release.model_validate({"name": NAME, "files": files, "urls": urls, **about})


def has_all(folder: Path) -> bool:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == CONTENT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_files({f"/{NAME}/{name}": data for name, data in CONTENT.items()}) as state:
        yield state


@pytest.fixture
def release(server: FileServer) -> Release:
    return release_of(f"{server.address}/{NAME}")


def test_downloaded_once_and_verified_each_time(release: Release, server: FileServer, cache: Path) -> None:
    assert not is_downloaded(release)
    with umask(0o027):
        folder = download(release)
    assert folder == cache / "weights" / NAME
    assert has_all(folder)
    assert {(folder / name).stat().st_mode & 0o777 for name in CONTENT} == {0o640}, "as the umask says"
    assert server.requests == [f"/{NAME}/{name}" for name in CONTENT]
    assert download(release) == verify(release) == folder
    assert len(server.requests) == 2

    path = folder / "model.safetensors"
    path.write_bytes(CONTENT[path.name][:-1] + b"x")
    with pytest.raises(SkdError, match=f"was damaged and is deleted; run: skd weights download {NAME}"):
        verify(release)
    with pytest.raises(SkdError, match=f"{path} is not in the cache"):
        verify(release)
    (folder / "config.json").write_bytes(b"damaged")
    assert has_all(download(release)), "what is damaged is downloaded again"
    assert len(server.requests) == 4


def test_what_fails_once_is_tried_again(release: Release, server: FileServer) -> None:
    server.corrupt = True
    with pytest.raises(SkdError, match=r"can't get model.safetensors of the weights net.tag: .*hash.* does not match"):
        download(release)
    assert {path.name for path in release_folder(NAME).iterdir()} <= {".lock"}
    server.corrupt = False
    server.requests.clear()
    server.statuses = [200]  # cut off
    assert has_all(download(release))
    assert len(server.requests) == 3


def test_four_processes_one_transfer(release: Release, server: FileServer) -> None:
    server.delay = 0.3  # all processes are there before it ends
    context = multiprocessing.get_context("fork")
    together = context.Barrier(4)

    def work() -> None:
        together.wait(timeout=30)
        os._exit(0 if has_all(download(release)) else 1)

    processes = [context.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert server.requests == [f"/{NAME}/{name}" for name in CONTENT]


def test_local_folders_come_first_and_the_next_one_helps(tmp_path: Path, server: FileServer) -> None:
    wrong, right = tmp_path / "wrong", tmp_path / "a folder"
    for folder in (wrong, right):
        folder.mkdir()
        for name, data in CONTENT.items():
            (folder / name).write_bytes(data if folder == right else data[::-1])
    missing = (tmp_path / "missing").as_uri()
    assert has_all(download(release_of(server.address, missing, wrong.as_uri(), right.as_uri())))
    assert server.requests == []


def test_errors_name_the_address_and_the_way_out(
    release: Release, server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(wanted: Release) -> str:
        with pytest.raises(SkdError) as error:
            download(wanted)
        assert "\n" not in str(error.value)
        return str(error.value)

    lost = release_of(f"{server.address}/lost")
    text = fails(lost)
    assert f"{server.address}/lost: 404" in text
    assert f"copy the file to {cache}/weights/{NAME}; SKD_CACHE=FOLDER puts the cache elsewhere" in text
    with serve_files({}) as gone:
        pass
    assert gone.address in fails(release_of(gone.address))

    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, so the network is not used" in fails(release)
    assert "HF_HUB_OFFLINE is set" in fails(release_of("hf://owner/net.tag"))
    assert server.requests == []
    for name, data in CONTENT.items():
        (release_folder(NAME) / name).write_bytes(data)
    assert has_all(download(release)), "what is in the cache needs no network"


def test_a_cache_that_cannot_be_written(release: Release, server: FileServer, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(SkdError, match=r"can't write to the cache .*Not a directory.*; SKD_CACHE=FOLDER puts"):
        download(release)
    assert server.requests == []
