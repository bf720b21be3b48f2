"""The two checkpoints that an adapter goes onto, as others can get them: by a name on the hub, or together with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from theworld_encoders import spec_of
from theworld_fusion import is_hub_id
from theworld_train.errors import UsageError

GEMMA = "Gemma Terms of Use"
TOY = "Apache-2.0"
LICENCES = {
    GEMMA: "https://ai.google.dev/gemma/terms",
    "NVIDIA Open Model License": "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "MIT": "https://opensource.org/license/mit",
    "DINOv3 License": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
}
"""Where the licences that encoders of this repository name are published."""

Role = Literal["vlm", "world"]


@dataclass(frozen=True, kw_only=True)
class Base:
    """One of the two.

    Attributes:
        source: what the adapter records: a hub id or a folder.
        hub_id: its name on the hub; ``None`` if it has none that is known.
        toy: its folder, if it is one of a toy pair, which is made of random numbers and may go anywhere.
    """

    role: Role
    source: str
    hub_id: str | None
    revision: str | None
    toy: Path | None
    licence: str

    @property
    def licence_link(self) -> str | None:
        return LICENCES.get(self.licence)


def find_bases(assembly: Mapping[str, Any], toy: Path | None, named: Mapping[Role, str | None]) -> list[Base]:
    """The bases of an adapter.

    Args:
        assembly: as the adapter's description has it.
        toy: folder of the toy pair, if they are one.
        named: hub ids to take instead of what was recorded.

    Raises:
        UsageError: what ``named`` has is no hub id, or a toy is to have one.
    """
    spec = spec_of(assembly["encoder"])
    recorded: dict[Role, tuple[str, str | None]] = {
        "vlm": (assembly["vlm"], assembly["revision"]),
        "world": (assembly["world"] or spec.repo_id, assembly["world_revision"]),
    }
    # What the hub gave has its commit recorded for the VLM: without one, ``a/b`` was a folder, seen from elsewhere.
    found = {"vlm": assembly["revision"] is not None, "world": True}
    bases = []
    for role, (source, revision) in recorded.items():
        other = named.get(role)
        if other is not None and toy is not None:
            raise UsageError(f"--base-{role} is {other}, but the {role} is a toy, which goes along. Leave it out.")
        if other is not None and not is_hub_id(other):
            raise UsageError(f"--base-{role} is {other}, which is no name on the hub. Give it as owner/name.")
        licence = TOY if toy else GEMMA if role == "vlm" else spec.licence
        bases.append(
            Base(
                role=role,
                source=source,
                hub_id=other or (source if found[role] and is_hub_id(source) and toy is None else None),
                revision=None if other else revision,
                toy=toy and toy / role,
                licence=licence,
            )
        )
    return bases
