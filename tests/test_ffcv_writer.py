"""FFCV's writer: what goes wrong in its processes is an error that names the image, and it ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Pixels
from test_write import _leaves_nothing, broken, fails, source_of  # noqa: F401  the first is a fixture of every test

from skd_plugins.common.errors import SkdError
from skd_plugins.data import Source, write_beton
from skd_plugins.data.beton.file import BetonFile, beton_available

BAD_IMAGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("broken data stream", fails, {}),
    ("broken data stream", fails, {"raw_share": 0.5}),  # there all images are looked at beforehand, for the page's size
    ("broken data stream", fails, {"raw_share": 0.5, "max_resolution": 60}),
    ("by zero", lambda: 1 // 0, {}),
]


@pytest.mark.parametrize(("message", "what", "options"), BAD_IMAGES, ids=[message for message, *_ in BAD_IMAGES])
def test_a_bad_image_is_named(
    photographs: list[Pixels], tmp_path: Path, message: str, what: Any, options: dict[str, Any]
) -> None:
    source = source_of(photographs, broken(11, photographs, what))
    with pytest.raises(SkdError, match=rf"picture number 11 \(index 11\) can't be read: .*{message}"):
        write_beton(source, tmp_path / "a.beton", workers=2, **options)
    assert list(tmp_path.iterdir()) == []


def dies() -> Pixels:
    """The end of a writer's process, as by the kernel when memory runs out; never of the tests' own."""
    if os.getpid() == MAIN:  # which looks at small images beforehand
        return np.zeros((4, 4, 3), np.uint8)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fills_the_disk() -> Pixels:
    """What is written after this fails, as on a full disk, though every sample has been counted."""
    import resource

    if os.getpid() != MAIN:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return np.zeros((4, 4, 3), np.uint8)


MAIN = os.getpid()
DEATHS = {  # index, what happens, workers, handler of SIGINT
    "first": (0, dies, 1, signal.SIG_IGN),
    "last": (15, dies, 2, signal.default_int_handler),
    "full disk": (15, fills_the_disk, 1, signal.default_int_handler),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_dead_process_is_an_error(photographs: list[Pixels], tmp_path: Path, death: str) -> None:
    """FFCV would wait for it for ever. A shell's background jobs ignore interrupts, so those are no way to notice."""
    index, what, workers, interrupts = DEATHS[death]
    source = source_of(photographs, broken(index, photographs, what))
    before = signal.signal(signal.SIGINT, interrupts)
    start = time.monotonic()
    try:
        with pytest.raises(SkdError, match="a process of FFCV's writer died"):
            write_beton(source, tmp_path / "a.beton", workers=workers)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 60
    assert list(tmp_path.iterdir()) == []


def _interrupted(path: Path, whom: str) -> None:
    """Runs in a process of its own, in a session of its own, so that only it and its children can be interrupted."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    main = os.getpid()

    def load(index: int) -> Pixels:
        if index == 30 and os.getpid() != main:  # which looks at small images beforehand
            time.sleep(0.3)
            os.killpg(main, signal.SIGINT) if whom == "group" else os.kill(main, signal.SIGINT)
            time.sleep(600)
        return np.full((8, 8, 3), index, np.uint8)

    try:
        write_beton(Source("x", ["one"], np.zeros(60, np.int64), load, str), path, workers=2)
    except KeyboardInterrupt:
        os._exit(40 + len(multiprocessing.active_children()))


@pytest.mark.parametrize("whom", ["main", "group"])
def test_ctrl_c_leaves_nothing(beton: Path, tmp_path: Path, whom: str) -> None:
    """A terminal interrupts all processes, ``kill -INT`` one. (With `beton` FFCV is imported before the fork.)"""
    process = multiprocessing.get_context("fork").Process(target=_interrupted, args=(tmp_path / "a.beton", whom))
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 40  # KeyboardInterrupt, and no process was left
    assert list(tmp_path.iterdir()) == []


ONE_PROCESSOR = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
from skd_plugins.data import open_source, write_beton
write_beton(open_source("digits", True).subset(2, seed=0), Path(sys.argv[1]), workers=1)
print("written", flush=True)
"""


def test_the_process_ends_on_one_processor(tmp_path: Path) -> None:
    """Where numba's default threads (TBB), which FFCV starts, would keep a process that has forked for ever."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_PROCESSOR, str(tmp_path / "a.beton")],
        capture_output=True, text=True, timeout=200, check=False, cwd=Path(__file__).parents[1],
        env={name: value for name, value in os.environ.items() if name != "NUMBA_THREADING_LAYER"},
    )  # fmt: skip
    assert done.stdout == "written\n", done.stderr[-2000:]
    assert done.returncode == 0
    assert len(BetonFile(tmp_path / "a.beton")) == 20


def test_from_another_thread(photographs: list[Pixels], tmp_path: Path) -> None:
    """Signals can't be handled there, but writing works, and leaves torch's threads alone."""
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1) as pool:
            path = pool.submit(write_beton, source_of(photographs), tmp_path / "a.beton", workers=1).result(60)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert len(BetonFile(path)) == 16


def test_without_ffcv(digits_source: Source, tmp_path: Path, no_ffcv: None) -> None:
    with pytest.raises(SkdError, match=r"writing .beton files needs FFCV .*: install skd_plugins\[ffcv\]"):
        write_beton(digits_source, tmp_path / "a.beton")
    assert list(tmp_path.iterdir()) == []
    assert not beton_available()
