"""What lets a process that never imported us load a saved folder: ``auto_map`` entries, and the file that they name."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

_SHIM = Path(__file__).with_name("theworld_shim.py")

Saved = TypeVar("Saved", bound=type)


def saved_with_shim(**auto_map: str) -> Callable[[Saved], Saved]:
    """For a class that writes a JSON file which the Auto classes read first; ``auto_map`` is Auto class to our class.

    A decorator, not a base: transformers looks at the first base of a processor to see what it overrides.
    """
    ours = {auto: f"{_SHIM.stem}.{name}" for auto, name in auto_map.items()}

    def decorate(cls: Any) -> Any:
        write, register = cls.to_json_file, cls.register_for_auto_class.__func__

        def to_json_file(self: Any, json_file_path: str | Path, *args: Any, **kwargs: Any) -> None:
            """Write the file, and beside it the shim that its ``auto_map`` names.

            This is the one step that every way of saving takes, and it comes before an upload to the hub.
            """
            before = getattr(self, "auto_map", None)
            self.auto_map = {**ours, **(before or {})}
            try:
                write(self, json_file_path, *args, **kwargs)
            finally:
                if before is None:
                    del self.auto_map
                else:
                    self.auto_map = before
            shutil.copyfile(_SHIM, Path(json_file_path).with_name(_SHIM.name))

        def register_for_auto_class(subclass: type, *args: Any, **kwargs: Any) -> None:
            """For subclasses elsewhere, transformers' own; not for ours.

            transformers calls this on what it loads through ``auto_map``, and from then on would copy our source files
            into every folder that is saved.
            """
            if subclass.__module__.partition(".")[0] != __package__:
                register(subclass, *args, **kwargs)

        cls.to_json_file, cls.register_for_auto_class = to_json_file, classmethod(register_for_auto_class)
        return cls

    return decorate
