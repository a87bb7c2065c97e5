"""A lift that goes where gestures send it: floors 0 to 13, pure arithmetic, no clock of its own."""

import re
from dataclasses import dataclass, field

FLOORS = 14
METRES_PER_FLOOR, METRES_PER_SECOND = 2.0, 1.0


def floor_of(gesture: str) -> int | None:
    """The last number in a gesture's name, if there is such a floor."""
    numbers = re.findall(r"\d+", gesture)
    return int(numbers[-1]) if numbers and int(numbers[-1]) < FLOORS else None


@dataclass
class Elevator:
    """Follows what is seen, once it has been seen long enough.

    A floor is called when it is seen `hold` times in a row, each time with `confidence` or more.
    Anything else in between starts the count anew. A call takes the place of the one before it.

    Attributes:
        hold: how many times in a row.
        confidence: in [0, 1].
        metres: how high the car is.
        target: the floor it goes to, or stands at.

    Raises:
        ValueError: hold is below 1, or confidence out of its range.
    """

    hold: int = 8
    confidence: float = 0.8
    metres: float = 0.0
    target: int = 0
    _seen: int | None = field(default=None, init=False, repr=False)
    _count: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.hold < 1:
            raise ValueError(f"hold must be 1 or more, got {self.hold}")
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence must be in [0, 1], got {self.confidence}")

    def see(self, floor: int | None, confidence: float) -> None:
        """Takes note of one look: the floor that was shown, or None, and how sure that is.

        Raises:
            ValueError: there is no such floor.
        """
        if floor is not None and not 0 <= floor < FLOORS:
            raise ValueError(f"floor must be in 0 to {FLOORS - 1}, got {floor}")
        if floor is None or confidence < self.confidence:
            self._seen, self._count = None, 0
            return
        self._count = self._count + 1 if floor == self._seen else 1
        self._seen = floor
        if self._count >= self.hold:
            self.target = floor

    def move(self, seconds: float) -> None:
        """Lets time pass: the car goes towards its target, and stops there."""
        way = self.target * METRES_PER_FLOOR - self.metres
        step = METRES_PER_SECOND * seconds
        self.metres += max(-step, min(step, way))

    @property
    def floor(self) -> int:
        """The floor that the car is nearest to."""
        return round(self.metres / METRES_PER_FLOOR)

    @property
    def moving(self) -> bool:
        return self.metres != self.target * METRES_PER_FLOOR
