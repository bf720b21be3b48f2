"""What lets a process that never imported us load a saved folder: ``auto_map`` entries, and the file that they name."""

import shutil
from pathlib import Path
from typing import Any

_SHIM = Path(__file__).with_name("theworld_shim.py")


class RemoteCode:
    """Mixed into the two classes that write a JSON file which the Auto classes read first."""

    _auto_map: dict[str, str] = {}
    """Auto class to class; both are names."""

    def to_json_file(self, json_file_path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write the file, and beside it the shim that its ``auto_map`` names.

        This is the one step that every way of saving takes, and it comes before an upload to the hub.
        """
        ours = {auto: f"{_SHIM.stem}.{name}" for auto, name in self._auto_map.items()}
        self.auto_map = {**ours, **(getattr(self, "auto_map", None) or {})}
        super().to_json_file(json_file_path, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        shutil.copyfile(_SHIM, Path(json_file_path).with_name(_SHIM.name))

    @classmethod
    def register_for_auto_class(cls, *args: Any, **kwargs: Any) -> None:
        """For subclasses elsewhere, transformers' own; not for ours.

        transformers calls this on what it loads through ``auto_map``, and from then on would copy our source files into
        every folder that is saved.
        """
        if cls.__module__.partition(".")[0] != __package__:
            super().register_for_auto_class(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
