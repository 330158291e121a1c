"""What the build adds to a wheel: `zoo/index.json`, made of the checkpoints' config.json."""

import json
import sys
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Index(BuildHookInterface):
    """An installed wheel lists the published checkpoints by it, and knows the SHA-256 of their weights."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Write it beside, and have it included; an editable installation reads `checkpoints/` itself."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from zoo.hub.places import made_index

        self.folder = tempfile.TemporaryDirectory(prefix="zoo-index-")
        path = Path(self.folder.name, "index.json")
        path.write_text(json.dumps(made_index(Path(self.root, "checkpoints")), ensure_ascii=False), encoding="utf-8")
        build_data["force_include"][str(path)] = "zoo/index.json"

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        """Remove what is in the wheel now."""
        if hasattr(self, "folder"):
            self.folder.cleanup()
