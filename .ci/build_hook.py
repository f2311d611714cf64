"""Hook of the build: a wheel and an sdist hold the commit that they were built from, and a wheel the experiments."""

import importlib.util
import json
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildHook(BuildHookInterface):
    """The hook that hatchling calls, for each wheel and sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the commit to the package, and to a wheel the experiments as `jaxheads.experiments`."""
        if version == "editable":  # its code is the checkout's, which git knows
            return
        root = Path(self.root)
        source_state = _module(root / "jaxheads" / "source_state.py")
        state = source_state.source_state(root / "jaxheads")
        self.scratch = tempfile.TemporaryDirectory()
        built_from = Path(self.scratch.name) / source_state.BUILT_FROM
        built_from.write_text(json.dumps(state) + "\n", encoding="utf-8")
        included = build_data["force_include"]
        if not (root / "jaxheads" / source_state.BUILT_FROM).exists():
            included[str(built_from)] = f"jaxheads/{source_state.BUILT_FROM}"
        if self.target_name == "wheel":
            included[str(root / "experiments")] = "jaxheads/experiments"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        if version != "editable":
            self.scratch.cleanup()


def _module(path: Path) -> ModuleType:
    """Import a file of the package without the package, whose dependencies a build does not have."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
