"""Hatchling's hook: compiles the decoder for a wheel or an editable installation, if possible."""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Decoder(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the compiled decoder to a wheel, which stays pure Python without a compiler or libjpeg-turbo."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before any wheel is built, also an editable one."""
        native = runpy.run_path(str(Path(self.root, "skd_plugins/data/beton/native/compile.py")))
        try:
            library: Path = native["build"]()
        except native["BuildError"] as error:
            self.app.display_warning(f"the decoder is not compiled ({error}); .beton files can't be read")
            return
        build_data["artifacts"].append(str(library.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
