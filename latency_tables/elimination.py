"""Variable elimination: the exact minimum of a sum, or a maximum, of small tensors that share some variables.

Source: Dechter, "Bucket elimination: A unifying framework for reasoning", Artificial Intelligence 113, 1999, section 5;
the order is the greedy one that makes the smallest intermediate tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Factor = tuple[tuple[int, ...], npt.NDArray[np.float64]]
"""(numbers of the variables in ascending order, tensor with one axis a variable)."""


def minimise(factors: Sequence[Factor], choices: Sequence[int], combine: np.ufunc = np.add) -> list[int]:
    """An assignment of all variables that makes the combined value of the factors least.

    Args:
        factors: what is combined, each 0 or more; infinite where an assignment is not allowed.
        choices: number of values of each variable.
        combine: np.add for the sum of the factors, np.maximum for the greatest of them.

    Returns:
        One index a variable; 0 for a variable that no factor mentions.
    """
    remaining = list(factors)
    decided: list[tuple[int, tuple[int, ...], npt.NDArray[np.intp]]] = []
    variables = {variable for genes, _ in factors for variable in genes}
    while variables:
        scopes = {v: _scope(v, remaining) for v in variables}
        variable = min(variables, key=lambda v: (math.prod(choices[other] for other in scopes[v]), v))
        variables.remove(variable)
        scope = scopes[variable]
        total = np.zeros([choices[other] for other in scope])
        for genes, tensor in remaining:
            if variable in genes:
                total = combine(total, tensor.reshape([choices[other] if other in genes else 1 for other in scope]))
        remaining = [factor for factor in remaining if variable not in factor[0]]
        axis = scope.index(variable)
        others = scope[:axis] + scope[axis + 1 :]
        remaining.append((others, total.min(axis=axis)))
        decided.append((variable, others, total.argmin(axis=axis)))

    best = [0] * len(choices)
    for variable, others, argmin in reversed(decided):
        best[variable] = int(argmin[tuple(best[other] for other in others)])
    return best


def _scope(variable: int, factors: Sequence[Factor]) -> tuple[int, ...]:
    """All variables that share a factor with `variable`, itself included, ascending."""
    return tuple(sorted({other for genes, _ in factors if variable in genes for other in genes} | {variable}))
