"""The public names, and what their import costs."""

from pathlib import Path

import pytest
from faults.common import python

import skd_plugins

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
    for arguments in [["--help"], *([name, "--help"] for name in COMMANDS), ["list"], ["list", "models"],
                      ["list", "datasets"], ["weights", "list"], ["reproduce", "--list"]]:
        try:
            main(arguments)
        except SystemExit as exited:
            assert not exited.code, arguments
        heavy = [name for name in ("torch", "timm", "ffcv", "sklearn", "matplotlib") if name in sys.modules]
        print("heavy:", arguments, heavy)
"""


def test_help_and_lists_start_without_torch(tmp_path: Path) -> None:
    done = python("-c", COMMANDS, cwd=tmp_path)
    found = [line for line in done.stdout.splitlines() if line.startswith("heavy:")]
    assert done.returncode == 0, done.stderr
    assert len(found) == 21
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
    done = python("-c", WITHOUT_EXTRAS)
    assert done.stdout == "train needs accelerate, which is not installed: pip install 'skd_plugins[train]'\n"
    assert done.stderr.endswith("error: the command skd needs more packages: pip install 'skd_plugins[train]'\n")


def test_importing_the_package_imports_nothing_heavy_and_metrics_no_torch() -> None:
    code = f"""if True:
        import sys, skd_plugins
        print([name for name in {HEAVY!r} if name in sys.modules])
        import skd_plugins.evaluation as e; e.compare, e.top1, e.recall_at_1
        print("torch" in sys.modules)
    """
    done = python("-c", code)
    assert done.stdout == "[]\nFalse\n"
