"""Grids cut to what proves something: every two values of two axes meet, not all of all."""

from collections import Counter
from itertools import combinations, product


def pairwise(*axes):
    """Combinations of one value of each axis in which every two values of two axes meet.

    The two longest axes are crossed; the others' values are taken by turns. The same each time.
    """
    axes = [list(axis) for axis in axes]
    first, second, *others = sorted(range(len(axes)), key=lambda i: -len(axes[i]))
    met, used, rows = set(), Counter(), []

    def pair(i, a, j, b):
        return (i, a, j, b) if i < j else (j, b, i, a)

    for a, b in product(range(len(axes[first])), range(len(axes[second]))):
        row = {first: a, second: b}
        for i in others:

            def gain(value, i=i, row=row):
                new = sum(pair(i, value, j, other) not in met for j, other in row.items())
                return new, -used[i, value]

            row[i] = max(range(len(axes[i])), key=gain)
            used[i, row[i]] += 1
        met.update(pair(i, row[i], j, row[j]) for i, j in combinations(row, 2))
        rows.append(row)
    for i, j in combinations(range(len(axes)), 2):
        for a, b in product(range(len(axes[i])), range(len(axes[j]))):
            if pair(i, a, j, b) not in met:
                row = dict.fromkeys(range(len(axes)), 0) | {i: a, j: b}
                met.update(pair(k, row[k], m, row[m]) for k, m in combinations(row, 2))
                rows.append(row)
    return [tuple(axes[i][row[i]] for i in range(len(axes))) for row in rows]
