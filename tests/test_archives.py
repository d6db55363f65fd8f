"""Fetching and unpacking archives."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import resource
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import miniatures
import pytest

from skd_plugins import SkdError
from skd_plugins.commands.prepare import prepare
from skd_plugins.data.datasets import Archive, find_dataset
from skd_plugins.data.datasets.archives import provide, unpack


def tar(path: Path, folder: Path, names: list[str], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name in names:
            archive.add(folder / name, arcname=name)
    return path


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


# ----------------------------------------------------------------------------------------------------------- unpacking


@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_unpack(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "a" / "b").mkdir(parents=True)
    (tmp_path / "in" / "a" / "b" / "c.txt").write_text("hello")
    (tmp_path / "in" / "d.txt").write_text("there")
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "in" / "a" / "b" / "c.txt", "a/b/c.txt")
            archive.write(tmp_path / "in" / "d.txt", "d.txt")
    else:
        tar(path, tmp_path / "in", ["a", "d.txt"], "w" if kind == "tar" else "w:gz")
    unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b" / "c.txt").read_text() == "hello"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a", "d.txt"], "nothing else is left"
    with pytest.raises(SkdError, match=f"{tmp_path / 'out' / 'a'} is there already"):
        unpack(path, tmp_path / "out")


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


MEMBERS = {
    "above": member("../above.txt"),
    "deep above": member("a/../../above.txt"),
    "symbolic link": member("link", type=tarfile.SYMTYPE, linkname="../../etc"),
    "hard link": member("link", type=tarfile.LNKTYPE, linkname="../above.txt"),
    "device": member("null", type=tarfile.CHRTYPE),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_tar_members_outside_are_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "in" / "x.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        archive.addfile(member("fine.txt"), io.BytesIO())
        archive.addfile(MEMBERS[case], io.BytesIO())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SkdError, match=r"x.tar has a member outside its folder or of a special kind"):
        unpack(path, tmp_path / "in" / "out")
    assert sorted(tmp_path.rglob("*")) == before, "nothing stays"


def test_absolute_names_in_a_tar_stay_inside(tmp_path: Path) -> None:
    """Python's filter takes the slash away."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(member(f"{tmp_path}/above.txt"), io.BytesIO())
    unpack(path, tmp_path / "out")
    assert not (tmp_path / "above.txt").exists()
    assert [file.name for file in (tmp_path / "out").rglob("*.txt")] == ["above.txt"]


@pytest.mark.parametrize("name", ["../above.txt", "a/../../above.txt", "/above.txt", "..\\above.txt", "C:/above.txt"])
def test_zip_members_outside_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fine.txt", "")
        archive.writestr(name, "")
    with pytest.raises(SkdError, match=r"x.zip has a member outside its folder .*; it is not unpacked"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_archives(tmp_path: Path) -> None:
    miniatures.cub200(tmp_path / "in")
    path = tar(tmp_path / "x.tgz", tmp_path / "in", ["CUB_200_2011"])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SkdError, match=r"x.tgz is damaged"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing half unpacked"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(SkdError, match=r"x.tgz is neither a tar nor a zip archive; fetch it again"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_a_full_disk_is_not_a_damaged_archive(kind: str, tmp_path: Path) -> None:
    """A limit on the size of files stands for it: the system refuses to write further in the same way."""
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    path = tmp_path / f"x.{kind}"
    if kind == "tgz":
        tar(path, tmp_path, ["large"])
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "large", "large")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"x.{kind} can't be unpacked: File too large") as error:
            unpack(path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert not (tmp_path / "out").exists(), "nothing half unpacked"


def test_what_was_broken_off_is_not_taken_for_the_data(tmp_path: Path) -> None:
    """As ImageNet's: the archive's contents are the folder that it is unpacked into."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "image").write_bytes(bytes(1 << 20))
    root = tmp_path / "root"
    root.mkdir()
    tar(root / "x.tar", tmp_path / "in", ["image"], "w")
    archive = Archive(url="http://host.example/x.tar", contents="train", into="train")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            provide(archive, root, download=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (root / "train").exists()
    (root / "train" / ".unpack-killed").mkdir(parents=True)  # what kill -9 leaves
    assert provide(archive, root, download=False) == f"took {root / 'x.tar'}"
    assert (root / "train" / "image").stat().st_size == 1 << 20
    assert provide(archive, root, download=False) == ""


def test_archives_of_archives(tmp_path: Path) -> None:
    """As ImageNet's training images come."""
    root = miniatures.imagenet(tmp_path / "in")
    inner = [tar(tmp_path / f"{wnid}.tar", root / "train" / wnid, [f"{wnid}_0.JPEG"], "w") for wnid in miniatures.WNIDS]
    outer = tar(tmp_path / "ILSVRC2012_img_train.tar", tmp_path, [path.name for path in inner], "w")
    unpack(outer, tmp_path / "train", nested=True)
    assert sorted(str(file.relative_to(tmp_path / "train")) for file in (tmp_path / "train").rglob("*.*")) == sorted(
        f"{wnid}/{wnid}_0.JPEG" for wnid in miniatures.WNIDS
    )


# ----------------------------------------------------------------------------------------------------------- providing


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine, with CUB's miniature as an archive."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    miniatures.cub200(tmp_path / "cub")
    (tmp_path / "web").mkdir()
    tar(tmp_path / "web" / "CUB_200_2011.tgz", tmp_path / "cub", ["CUB_200_2011"])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web"))) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def test_download_check_unpack(server: str, tmp_path: Path) -> None:
    root, original = tmp_path / "root", tmp_path / "web" / "CUB_200_2011.tgz"
    archive = Archive(url=f"{server}/CUB_200_2011.tgz", contents="CUB_200_2011", md5=md5(original), free=True)
    with pytest.raises(SkdError, match=f"does not exist; add --download, or fetch it by hand: put {server}"):
        provide(archive, root, download=False)
    assert provide(archive, root, download=True) == f"downloaded {root / 'CUB_200_2011.tgz'}"
    assert (root / "CUB_200_2011" / "images.txt").read_text() == (
        tmp_path / "cub" / "CUB_200_2011" / "images.txt"
    ).read_text()
    assert provide(archive, root, download=True) == "", "nothing to do"
    shutil.rmtree(root / "CUB_200_2011")
    assert provide(archive, root, download=False) == f"took {root / 'CUB_200_2011.tgz'}"

    wrong = Archive(url=archive.url, contents="CUB_200_2011", md5="0" * 32, free=True)
    shutil.rmtree(root / "CUB_200_2011")
    with pytest.raises(SkdError, match=rf"is damaged or incomplete \(MD5 {md5(original)}, not 0{{32}}\)"):
        provide(wrong, root, download=False)
    with pytest.raises(SkdError, match="could not be downloaded"):
        provide(wrong, tmp_path / "other", download=True)
    with pytest.raises(SkdError, match="could not be downloaded"):
        provide(Archive(url=f"{server}/no.tgz", contents="no", md5="0" * 32, free=True), root, download=True)
    assert not (root / "CUB_200_2011").exists()


def test_what_is_not_free_is_not_downloaded(server: str, tmp_path: Path) -> None:
    archive = Archive(url=f"{server}/CUB_200_2011.tgz", contents="CUB_200_2011", into="birds")
    with pytest.raises(SkdError, match=r"does not exist; fetch it by hand: put .* at .*root/CUB_200_2011.tgz"):
        provide(archive, tmp_path / "root", download=True)


def test_another_archive_under_the_name(tmp_path: Path) -> None:
    miniatures.mit67(tmp_path / "in")
    tar(tmp_path / "CUB_200_2011.tgz", tmp_path / "in", ["MIT67"])
    with pytest.raises(SkdError, match="CUB_200_2011 is not there; is it another archive"):
        provide(Archive(url="http://x/CUB_200_2011.tgz", contents="CUB_200_2011"), tmp_path, download=False)


def test_the_archives_as_they_are_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stanford Dogs' and MIT67's files, put into the root as the descriptions say."""
    miniatures.dogs(tmp_path / "in")
    miniatures.mit67(tmp_path / "in")
    root, dogs, rooms = tmp_path / "root", tmp_path / "in" / "StanfordDogs", tmp_path / "in" / "MIT67"
    root.mkdir()
    tar(root / "images.tar", dogs, ["Images"], "w")
    tar(root / "lists.tar", dogs, ["train_list.mat", "test_list.mat"], "w")
    tar(root / "indoorCVPR_09.tar", rooms, ["Images"], "w")
    for name in ("TrainImages.txt", "TestImages.txt"):
        shutil.copy(rooms / name, root)
    for name in ("dogs", "mit67"):
        prepare(name, root, None, subset=True)
    with pytest.raises(SkdError, match=r"StanfordDogs/Annotation does not exist; fetch it by hand"):
        prepare("dogs-cropped", root, None, subset=True)
    printed = capsys.readouterr().out
    assert f"took {root / 'indoorCVPR_09.tar'}" in printed
    assert "fine: MIT67 test set, 6 images, 3 classes" in printed
    assert "fine: Stanford Dogs training set, 9 images, 3 classes" in printed


def test_imagenets_devkit_is_needed_for_a_flat_folder_only(tmp_path: Path) -> None:
    prepare("imagenet-1k", miniatures.imagenet(tmp_path), None, subset=True)
    assert [archive.optional for archive in find_dataset("imagenet-1k").archives] == [False, False, True]
