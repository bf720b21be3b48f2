"""Liger's fused kernels (Hsu et al., arXiv 2410.10989) in Gemma 3's layers; the loss stays ours.

One kernel each for RMSNorm, GEGLU and rotary positions of the language model, and for SigLIP's LayerNorm.
"""

from functools import partial
from importlib.util import find_spec

import torch

from theworld_fusion import TheWorldConfig
from theworld_train.errors import UsageError
from theworld_train.recipe import Recipe


def check_liger(recipe: Recipe) -> None:
    """See before training that the kernels can be had.

    Raises:
        UsageError: they are asked for, and liger-kernel is not installed or there is no accelerator.
    """
    if not recipe.model.liger:
        return
    if find_spec("liger_kernel") is None:
        raise UsageError('model.liger needs liger-kernel. Install it: pip install "theworld-train[liger]"')
    if not torch.accelerator.is_available():
        raise UsageError("model.liger is true, and its kernels run on no CPU. Leave it out, or use an accelerator.")


def teach_liger() -> None:
    """Make ``TrainingArguments(use_liger_kernel=True)`` work for this model: Liger goes by a table of model types.

    Raises:
        ImportError: liger-kernel is not installed.
    """
    from liger_kernel.transformers.monkey_patch import (  # pyright: ignore[reportMissingImports]
        MODEL_TYPE_TO_APPLY_LIGER_FN,
        apply_liger_kernel_to_gemma3,
    )

    # Its own losses would replace the model's forward, and with it the world branch.
    kernels = partial(apply_liger_kernel_to_gemma3, cross_entropy=False, fused_linear_cross_entropy=False)
    MODEL_TYPE_TO_APPLY_LIGER_FN[TheWorldConfig.model_type] = kernels
