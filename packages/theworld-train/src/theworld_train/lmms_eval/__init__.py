# pyright: reportMissingImports=false
# lmms-eval is no dependency: it finds this by its entry point, and nothing else imports it.
"""The model ``theworld`` of lmms-eval (0.7 and later): its tasks, run on TheWorld as they are.

``lmms-eval --model theworld --model_args pretrained=FOLDER,arm=on --tasks mmbench_en_dev``
"""

from typing import Any


def manifest() -> Any:
    """What lmms-eval's registry is told: chat tasks ask one class, ``--force_simple`` and likelihoods the other.

    The registry asks while lmms-eval is still being imported, so the classes' module is named and not imported.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="theworld",
        chat_class_path=f"{__name__}.models.TheWorldChat",
        simple_class_path=f"{__name__}.models.TheWorldSimple",
    )
