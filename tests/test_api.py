"""The public names, and what their import costs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import skd_plugins

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "timm", "numpy", "accelerate", "ffcv", "matplotlib", "pydantic", "tyro")


def test_every_public_name_is_there() -> None:
    assert skd_plugins.__all__
    for name in skd_plugins.__all__:
        assert getattr(skd_plugins, name).__doc__, f"{name} has no docstring"
    assert set(skd_plugins.__all__) <= set(dir(skd_plugins))
    with pytest.raises(AttributeError, match="nothing"):
        _ = skd_plugins.nothing


COMMANDS = """if True:
    import sys
    from skd_plugins.cli import COMMANDS, main
    for arguments in [*([name, "--help"] for name in COMMANDS), ["list"], ["list", "models"], ["list", "datasets"],
                      ["weights", "list"], ["reproduce", "--list"]]:
        try:
            main(arguments)
        except SystemExit as exited:
            assert not exited.code, arguments
        print("heavy:", arguments, [name for name in ("torch", "ffcv", "sklearn", "matplotlib") if name in sys.modules])
"""


def test_help_and_lists_start_without_torch(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("heavy:")]
    assert len(found) == 20
    assert [line for line in found if not line.endswith("[]")] == []


WITHOUT_EXTRAS = """if True:
    import sys
    for name in ("accelerate", "jinja2", "matplotlib", "sklearn", "scipy", "submitit", "tensorboard", "tyro"):
        sys.modules[name] = None  # as if it were not installed
    import timm, torch, skd_plugins
    from skd_plugins.losses import cs_kd_loss
    for method in skd_plugins.list_methods():
        if method not in ("adacos", "kd", "virtual_softmax", "ps_kd"):  # they want more than a plain network
            net = timm.create_model("resnet10t", num_classes=4, channels=(8, 8, 16, 16))
            task = skd_plugins.create_task(method, net)
            task.method.begin_epoch(0, 1)
            count = len(task.method.segments)
            task(torch.randn(4 * count, 3, 32, 32), torch.arange(4).repeat(count))["loss"].backward()
    try:
        skd_plugins.train
    except ModuleNotFoundError as error:
        print(error)
    import skd_plugins.cli
"""


def test_without_extras_there_are_the_methods_and_a_way_to_the_rest() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True, env=environment)
    assert done.stdout == "train needs accelerate, which is not installed: pip install 'skd_plugins[train]'\n"
    assert done.stderr.endswith("error: the command skd needs more packages: pip install 'skd_plugins[train]'\n")


def test_importing_the_package_and_the_help_of_skd_import_nothing_heavy() -> None:
    code = f"""if True:
        import sys, skd_plugins
        print([name for name in {HEAVY!r} if name in sys.modules])
        from skd_plugins.cli import main
        try:
            main(["--help"])
        finally:
            print([name for name in {HEAVY[:-2]!r} if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    first, *_, last = done.stdout.splitlines()
    assert first == last == "[]"
