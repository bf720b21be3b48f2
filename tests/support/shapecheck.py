"""The checker behind jaxtyping's import hook, in tests only: beartype, for functions decorated one by one."""

from typing import Self

from beartype import BeartypeConf, FrozenDict, beartype

# A function on its own does not know its class, so beartype would refuse `Self` there.
check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: object})))
