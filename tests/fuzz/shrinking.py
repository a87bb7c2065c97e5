"""Making a case that fails smaller, as long as it fails in the same way."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def shrunk(
    case: Any,
    fails: Callable[[Any], bool],
    simpler: Mapping[str, list[Any]],
    seconds: float,
) -> Any:
    """The smallest case that is found within the time and still fails."""
    until = time.monotonic() + seconds
    again = True
    while again and time.monotonic() < until:
        again = False
        for other in smaller(case, simpler):
            if time.monotonic() > until:
                break
            if fails(other):
                case, again = other, True
                break
    return case


def smaller(case: Any, simpler: Mapping[str, list[Any]]) -> Iterator[Any]:
    """Cases with one thing left out, or one number or choice that is simpler; large steps first."""
    for place in list(_places(case)):
        for value in _instead(_at(case, place), place[-1], simpler):
            other = copy.deepcopy(case)
            owner = _at(other, place[:-1])
            if value is _GONE:
                del owner[place[-1]]
            else:
                owner[place[-1]] = value
            yield other


_GONE = object()


def _places(case: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = case.items() if isinstance(case, dict) else enumerate(case)
    for key, value in inner:
        yield (*here, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*here, key))


def _at(case: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        case = case[key]
    return case


def _instead(value: Any, key: Any, simpler: Mapping[str, list[Any]]) -> Iterator[Any]:
    if key in simpler:
        known = simpler[key]
        yield from known[: known.index(value)] if value in known else ()
        return
    if isinstance(key, int):
        yield _GONE
    if isinstance(value, bool):
        yield from [False] * value
    elif isinstance(value, int) and value not in (0, 1):
        yield from dict.fromkeys((1, value // 2, value - 1 if value > 0 else value + 1))
    elif isinstance(value, list) and len(value) > 2:
        yield value[: len(value) // 2]
        yield value[len(value) // 2 :]
