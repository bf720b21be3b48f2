"""The probes themselves: a ridge regression for numbers, a logistic one for classes, each as strong as it should be.

Both are fitted on training clips alone. How much they are held back is chosen by cross validation there, with every
matched group on one side.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold

_FOLDS = 5
_RIDGE = np.logspace(-4, 4, 9)
_LOGISTIC = np.logspace(-3, 2, 6)
"""Strengths of the penalty, for features whose variances add up to one."""


def fit(features: Float[np.ndarray, "n k"], targets: Shaped[np.ndarray, " n *numbers"], groups: list[str]) -> Any:
    """A fitted scikit-learn estimator: of numbers where ``targets`` has columns, else of classes."""
    if targets.ndim == 2:
        model, grid, wanted = Ridge(), {"alpha": _RIDGE}, "r2"
    else:
        model, grid, wanted = LogisticRegression(max_iter=300), {"C": 1 / _LOGISTIC}, "neg_log_loss"
    search = GridSearchCV(model, grid, scoring=wanted, cv=GroupKFold(min(_FOLDS, len(set(groups)))))
    with _patient():
        return search.fit(features, targets, groups=groups).best_estimator_


def fit_permuted(
    model: Any, features: Float[np.ndarray, "n k"], targets: Shaped[np.ndarray, " n *numbers"], *, seed: int
) -> Any:
    """The same probe on the same features, with the targets dealt out anew: what it finds is chance."""
    order = np.random.default_rng(seed).permutation(len(targets))
    fresh: Any = clone(model)
    with _patient():
        return fresh.fit(features, targets[order])


@contextmanager
def _patient() -> Iterator[None]:
    """With hardly any penalty, classes that can be told apart make weights grow on and on: what is left is nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
