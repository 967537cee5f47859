"""Where the weights of teachers lie while a student learns: a choice by sizes, workers and a limit of memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from raydistill.user_error import UserError

AUTO, REPLICATE, ZERO3, SEQUENTIAL, CAPTURED = "auto", "replicate", "zero3", "sequential", "captured"

_GIB = 2**30


@dataclass(frozen=True)
class Demand:
    """What models take, in bytes."""

    student: float
    """What a worker holds of the student: weights, gradients and moments."""
    teachers: tuple[float, ...]
    """Weights of each teacher."""


@dataclass(frozen=True)
class Options:
    """What there is to choose from."""

    asked: tuple[str, ...]
    """For each teacher what the user wants: ``auto``, or a placement that is kept."""
    num_workers: int = 1
    limit: float | None = None
    """Bytes that these may take of a worker's memory, None where that is not known."""
    is_strict: bool = False
    """Whether the user set the limit, so that more than it is refused."""
    one_at_a_time: bool = False
    """Whether the method asks its teachers one after the other."""
    can_capture: bool = False
    """Whether the method reads stored outputs of such teachers."""


@dataclass(frozen=True)
class TeacherPlacement:
    """A placement for each teacher, and one sentence why."""

    placements: tuple[str, ...]
    why: str

    @property
    def is_captured(self) -> bool:
        """Whether the teachers' outputs are stored before the training, so that none is loaded beside the student."""
        return CAPTURED in self.placements

    @property
    def summary(self) -> str:
        """Each placement once where all are the same, and the reason."""
        named = self.placements[:1] if len(set(self.placements)) == 1 else self.placements
        return f"{', '.join(named)}, because {self.why}"


def held(demand: Demand, placements: Sequence[str], *, num_workers: int) -> float:
    """Bytes of a worker at most: sharded teachers by their share, of sequential ones the largest."""
    placed = list(zip(demand.teachers, placements, strict=True))
    whole = sum(size for size, placement in placed if placement == REPLICATE)
    shared = sum(size for size, placement in placed if placement == ZERO3) / num_workers
    largest = max((size for size, placement in placed if placement == SEQUENTIAL), default=0.0)
    return demand.student + whole + shared + largest


def place(demand: Demand, options: Options) -> TeacherPlacement:
    """The first of these that fits: all replicated, captured, as few as need be sharded, one after the other.

    What the user asked for is kept. Raises ValueError, of one line, when nothing fits a limit that the user set; under
    one of the machine's the smallest is taken, and the reason says so.
    """
    asked = options.asked
    if CAPTURED in asked:
        return TeacherPlacement((CAPTURED,) * len(asked), "placement says so")
    plain = _filled(asked, REPLICATE)
    if AUTO not in asked and not options.is_strict:
        return TeacherPlacement(plain, "placement says so")
    if options.limit is None:
        return TeacherPlacement(
            plain, "nothing is known of the workers' memory; scaling.memory_per_worker sets a limit"
        )
    if _fits(demand, plain, options):
        why = f"with the student they take {_gib(demand, plain, options)} of {_of(options)}"
        return TeacherPlacement(plain, why if AUTO in asked else "placement says so")
    too_much = f"replicated, with the student, they would take {_gib(demand, plain, options)} of {_of(options)}"
    if options.can_capture and set(asked) == {AUTO} and max(demand.teachers) <= options.limit:
        return TeacherPlacement((CAPTURED,) * len(asked), f"{too_much}, and the method reads stored outputs as well")
    tried = [plain, *_sharded(demand, options), *_in_turn(options)]
    for placements in tried:
        if _fits(demand, placements, options):
            return TeacherPlacement(placements, f"{too_much}, so {_gib(demand, placements, options)}")
    least = min(tried, key=lambda one: held(demand, one, num_workers=options.num_workers))
    if options.is_strict:
        raise UserError(
            f"scaling.memory_per_worker is {options.limit / _GIB:g}, but student and teachers take "
            f"{_gib(demand, least, options)} even placed as {', '.join(dict.fromkeys(least))}; raise it, or "
            "scaling.num_workers where teachers can be sharded"
        )
    return TeacherPlacement(least, f"{too_much}, and nothing fits: this takes {_gib(demand, least, options)}")


def _filled(asked: Sequence[str], placement: str) -> tuple[str, ...]:
    return tuple(placement if one == AUTO else one for one in asked)


def _fits(demand: Demand, placements: Sequence[str], options: Options) -> bool:
    return options.limit is not None and held(demand, placements, num_workers=options.num_workers) <= options.limit


def _sharded(demand: Demand, options: Options) -> list[tuple[str, ...]]:
    """The largest teacher sharded, then the two largest, and so on; the rest replicated."""
    free = [number for number, one in enumerate(options.asked) if one == AUTO]
    largest_first = sorted(free, key=lambda number: -demand.teachers[number])
    found, current = [], list(_filled(options.asked, REPLICATE))
    for number in largest_first:
        current[number] = ZERO3
        found.append(tuple(current))
    return found


def _in_turn(options: Options) -> list[tuple[str, ...]]:
    return [_filled(options.asked, SEQUENTIAL)] if options.one_at_a_time else []


def _gib(demand: Demand, placements: Sequence[str], options: Options) -> str:
    return f"{held(demand, placements, num_workers=options.num_workers) / _GIB:.2f} GiB"


def _of(options: Options) -> str:
    assert options.limit is not None
    return f"{options.limit / _GIB:.2f} GiB a worker"
