"""Downloading and unpacking archives."""

import hashlib
import io
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import miniatures
import pytest
from conftest import full_disk
from fileserver import serve_files

from skd_plugins import SkdError
from skd_plugins.commands.prepare import data
from skd_plugins.data.datasets import Archive
from skd_plugins.data.datasets.archives import provide, unpack


def pack(path: Path, folder: Path, *names: str) -> Path:
    """A .tar, .tgz or .zip of files and folders of a folder."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                for file in [folder / name, *(folder / name).rglob("*")]:
                    archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
            for name in names:
                tar.add(folder / name, arcname=name)
    return path


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("a/../../above.txt"),
        member("link", type=tarfile.SYMTYPE, linkname="../../etc"),
        member("link", type=tarfile.LNKTYPE, linkname="../above.txt"),
        member("null", type=tarfile.CHRTYPE),
    ],
)
def test_tar_members_outside_are_refused(bad: tarfile.TarInfo, tmp_path: Path) -> None:
    path = tmp_path / "in" / "x.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        archive.addfile(member("fine.txt"), io.BytesIO())
        archive.addfile(bad, io.BytesIO())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SkdError, match=r"x.tar has a member outside its folder or of a special kind"):
        unpack(path, tmp_path / "in" / "out")
    assert sorted(tmp_path.rglob("*")) == before, "nothing stays"


@pytest.mark.parametrize("name", ["../above.txt", "a/../../above.txt", "/tmp/skd-plugins-above.txt"])
def test_zip_members_and_absolute_names_stay_inside(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, "")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(member("/tmp/skd-plugins-above.txt"), io.BytesIO())
    for kind in ("zip", "tar"):
        unpack(tmp_path / f"x.{kind}", tmp_path / "in" / kind)
        (file,) = (file for file in (tmp_path / "in" / kind).rglob("*") if file.is_file())
        assert file.name == Path(name if kind == "zip" else "skd-plugins-above.txt").name
    assert not Path("/tmp/skd-plugins-above.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "x.tar", "x.zip"]


def test_damaged_archives_leave_nothing(tmp_path: Path) -> None:
    miniatures.cub200(tmp_path / "in")
    path = pack(tmp_path / "x.tgz", tmp_path / "in", "CUB_200_2011")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SkdError, match=r"x.tgz is damaged or no archive: "):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(SkdError, match=r"x.tgz is damaged or no archive: .*; fetch it again"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_an_unpacking_that_fails_is_done_again(kind: str, tmp_path: Path) -> None:
    """ImageNet's archive fills the folder that it is unpacked into, so a part of it could be taken for all of it."""
    root = tmp_path / "root"
    for folder in (root, tmp_path / "a" / "b"):
        folder.mkdir(parents=True)
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    (tmp_path / "a" / "b" / "c.txt").write_text("hello")
    path = pack(root / f"x.{kind}", tmp_path, "image", "a")
    archive = Archive(url=f"http://host.example/x.{kind}", contents="train", into="train")
    with full_disk(1 << 16), pytest.raises(OSError, match=f"x.{kind} can't be unpacked: File too large"):
        provide(archive, root, download=False)
    assert not (root / "train").exists()
    (root / "train" / ".unpack-killed").mkdir(parents=True)  # what kill -9 leaves
    assert provide(archive, root, download=False) == f"took {path}"
    assert (root / "train" / "image").stat().st_size == 1 << 20
    assert (root / "train" / "a" / "b" / "c.txt").read_text() == "hello"
    assert sorted(file.name for file in (root / "train").iterdir()) == [".unpack-killed", "a", "image"]
    assert provide(archive, root, download=False) == ""
    with pytest.raises(SkdError, match="train/a exists already"):
        unpack(path, root / "train")


def test_archives_of_archives(tmp_path: Path) -> None:
    """ImageNet's training images come as one archive per class."""
    root = miniatures.imagenet(tmp_path / "in")
    for wnid in miniatures.WNIDS:
        pack(tmp_path / f"{wnid}.tar", root / "train" / wnid, f"{wnid}_0.JPEG")
    outer = pack(tmp_path / "outer.tar", tmp_path, *(f"{wnid}.tar" for wnid in miniatures.WNIDS))
    unpack(outer, tmp_path / "train", nested=True)
    files = {str(file.relative_to(tmp_path / "train")) for file in (tmp_path / "train").rglob("*.*")}
    assert files == {f"{wnid}/{wnid}_0.JPEG" for wnid in miniatures.WNIDS}


def test_an_archive_is_downloaded_verified_and_unpacked(tmp_path: Path) -> None:
    root, name = tmp_path / "root", "CUB_200_2011.tgz"
    content = pack(tmp_path / name, miniatures.cub200(tmp_path / "cub"), "CUB_200_2011").read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    with serve_files({f"/{name}": content}) as server:
        archive = Archive(url=f"{server.address}/{name}", contents="CUB_200_2011", md5=md5, free=True)
        with pytest.raises(SkdError, match="does not exist; add --download, or fetch it by hand: put http:.*CUB"):
            provide(archive, root, download=False)
        assert provide(archive, root, download=True) == f"downloaded {root / name}"
        images = Path("CUB_200_2011") / "images.txt"
        assert (root / images).read_text() == (tmp_path / "cub" / images).read_text()
        assert provide(archive, root, download=True) == "", "nothing to do"

        shutil.rmtree(root / "CUB_200_2011")
        for place in (root, tmp_path / "other"):
            with pytest.raises(SkdError, match=rf"is damaged or incomplete \(MD5 {md5}, not 0{{32}}\)"):
                provide(replace(archive, md5="0" * 32), place, download=True)
            assert not (place / "CUB_200_2011").exists()
        with pytest.raises(SkdError, match="could not be downloaded"):
            provide(replace(archive, url=f"{server.address}/no.tgz"), root, download=True)
    closed = replace(archive, free=False, into="birds")
    with pytest.raises(SkdError, match=r"does not exist; fetch it by hand: put .* at .*closed/CUB_200_2011.tgz"):
        provide(closed, tmp_path / "closed", download=True)
    (tmp_path / "rooms").mkdir()
    pack(tmp_path / "rooms" / name, miniatures.mit67(tmp_path / "in"), "MIT67")
    with pytest.raises(SkdError, match="does not contain .*CUB_200_2011; is it the right archive"):
        provide(replace(archive, md5=None), tmp_path / "rooms", download=False)


def test_the_archives_as_they_are_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stanford Dogs' and MIT67's files, put into the root as the descriptions say."""
    root, dogs = tmp_path / "root", miniatures.dogs(tmp_path / "in") / "StanfordDogs"
    rooms = miniatures.mit67(tmp_path / "in") / "MIT67"
    root.mkdir()
    pack(root / "images.tar", dogs, "Images")
    pack(root / "lists.tar", dogs, "train_list.mat", "test_list.mat")
    pack(root / "indoorCVPR_09.tar", rooms, "Images")
    for name in ("TrainImages.txt", "TestImages.txt"):
        shutil.copy(rooms / name, root)
    for name in ("dogs", "mit67"):
        data(name, root=root, subset=True)
    printed = capsys.readouterr().out
    assert f"took {root / 'indoorCVPR_09.tar'}" in printed
    assert "fine: MIT67 test set, 6 images, 3 classes" in printed
    assert "fine: Stanford Dogs training set, 9 images, 3 classes" in printed
