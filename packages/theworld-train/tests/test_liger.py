"""Liger's kernels reach this model through transformers' own switch; what is patched is Liger's affair."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers.integrations import liger as integration

from theworld_fusion import TheWorldForConditionalGeneration
from theworld_train import liger
from theworld_train.errors import UsageError
from theworld_train.liger import check_liger, teach_liger
from theworld_train.recipe_file import load_recipe

KERNELS = {"rope", "layer_norm", "rms_norm", "geglu"}
LOSSES = {"cross_entropy", "fused_linear_cross_entropy"}


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, set[str]]]:
    """What a stand-in for Liger, which runs on no CPU, was told to patch: a model, and the kernels that are on."""
    calls: list[tuple[Any, set[str]]] = []

    def apply_liger_kernel_to_gemma3(
        rope: bool = True,
        cross_entropy: bool = False,
        fused_linear_cross_entropy: bool = True,
        layer_norm: bool = True,
        rms_norm: bool = True,
        geglu: bool = True,
        model: Any = None,
    ) -> None:
        settings = dict(locals())
        calls.append((model, {name for name in KERNELS | LOSSES if settings[name]}))

    table: dict[str, Any] = {"gemma3": apply_liger_kernel_to_gemma3}

    def to_instance(model: Any, **kwargs: Any) -> None:
        if (apply := table.get(model.config.model_type)) is not None:
            apply(model=model, **kwargs)

    package, inner, patches = (ModuleType(f"liger_kernel{rest}") for rest in ("", ".transformers", ".transformers.x"))
    inner.__dict__["_apply_liger_kernel_to_instance"] = to_instance
    patches.__dict__.update(
        MODEL_TYPE_TO_APPLY_LIGER_FN=table, apply_liger_kernel_to_gemma3=apply_liger_kernel_to_gemma3
    )
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", inner)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", patches)
    monkeypatch.setattr(integration, "is_liger_kernel_available", lambda: True)
    return calls


def test_the_switch_of_transformers_patches_this_model_and_leaves_its_loss(
    pair: tuple[TheWorldForConditionalGeneration, Any], patched: list[tuple[Any, set[str]]]
) -> None:
    model, _ = pair
    integration.apply_liger_kernel(model, None)
    assert not patched  # a model type that Liger does not know: without a word nothing happens
    teach_liger()
    integration.apply_liger_kernel(model, None)
    assert patched == [(model, KERNELS)]
    integration.apply_liger_kernel(model, {"rope": False})
    assert patched[1] == (model, KERNELS - {"rope"})


def test_before_training_it_is_seen_whether_there_are_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    check_liger(load_recipe("smoke", []))
    recipe = load_recipe("smoke", ["model.liger=true"])
    with pytest.raises(UsageError, match=r"model\.liger needs liger-kernel\. Install it: pip install"):
        check_liger(recipe)
    monkeypatch.setattr(liger, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"model\.liger is true, and its kernels run on no CPU"):
        check_liger(recipe)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    check_liger(recipe)
