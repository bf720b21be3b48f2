"""Plans as files: those that the package ships, one's own, and written out in full."""

from collections.abc import Sequence

from theworld_train import settings_file
from theworld_train.evaluate.ablate.plan import Plan
from theworld_train.recipe_yaml import dump_yaml


def load_plan(name_or_path: str, overrides: Sequence[str] = ()) -> Plan:
    """Read a shipped plan or a YAML file; ``overrides`` are those of ``load_recipe``.

    Raises:
        UsageError: there is no such plan, it is no YAML, or a field is unknown or wrong.
    """
    return settings_file.load_settings(Plan, "plan", name_or_path, overrides)


def dump_plan(plan: Plan) -> str:
    """The whole plan as YAML, defaults included; ``load_plan`` reads an equal one from it."""
    return dump_yaml(plan.model_dump())


def shipped_plans() -> dict[str, str]:
    """The plans of this package: name, and its first comment, which says what it is for."""
    return settings_file.shipped("plan")
