"""Writing features over placeholder embeddings: the one place where modalities meet."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_REMEDY = "Build prompt and features with one processor call, and do not truncate it."


def scatter_features(
    embeds: Float[Tensor, "b l d"], slots: Bool[Tensor, "b l"], features: Float[Tensor, "n w"]
) -> Float[Tensor, "b l d"]:
    """Replace the embeddings at ``slots`` by ``features``, in order of row and position; the length never changes.

    Features are flat, because the items of a batch may have different numbers of them. Only static shapes are looked
    at and the device is never waited for: on an accelerator a wrong count fails as a device-side assertion.

    Raises:
        ValueError: the widths differ, or the number of slots is not the number of features.
    """
    found, wanted = slots.sum(), features.shape[0]
    if features.shape[-1] != embeds.shape[-1]:
        raise ValueError(
            f"features are {features.shape[-1]} wide, embeddings {embeds.shape[-1]}. Use the projector of this model."
        )
    try:
        torch._assert_async(found == wanted, f"the prompt does not have {wanted} slots, one a feature. {_REMEDY}")
    except RuntimeError as error:  # the CPU looks at once, and then there is time to count
        raise ValueError(f"the prompt has {int(found)} slots for {wanted} features. {_REMEDY}") from error
    # Slot number i of the flattened batch takes feature i; elsewhere the index is clamped and its value not used.
    index = (slots.flatten().cumsum(0) - 1).clamp(0, max(wanted - 1, 0)).view_as(slots)
    return torch.where(slots.unsqueeze(-1), features.to(embeds.dtype)[index], embeds)
