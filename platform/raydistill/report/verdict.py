"""What a comparison comes to, in one sentence with its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raydistill.report.columns import column, significant
from raydistill.report.document import Tile, Verdict
from raydistill.report.tables import Group

STUDENT, TEACHER, EXPORT, OTHER = "student", "teacher", "export", "other"
_EQUAL = 1.05
"""Ratio from which on two sizes or times are told apart."""
_COSTS = (("size_mb", "Size", "smaller", "larger", "MB"), ("latency_ms", "Speed", "faster", "slower", "ms a row"))


@dataclass(frozen=True)
class Judged:
    """Rows of a comparison by what they are, and the metric that decides."""

    students: Sequence[Group]
    """The trained ones."""
    teacher: Group | None
    others: Sequence[Group]
    metric: str
    greater_is_better: bool
    exports: Sequence[Group] = ()
    """Models in other runtimes."""

    @classmethod
    def of(cls, groups: Sequence[Group], roles: Mapping[str, str], metric: str, *, greater_is_better: bool) -> "Judged":
        """``roles`` has the role of each row by its name; of several teachers the best counts."""
        known = [row for row in groups if metric in row.figures]
        by_role = {
            role: [row for row in known if roles[row.name] == role] for role in (STUDENT, TEACHER, EXPORT, OTHER)
        }
        teacher = _best(by_role[TEACHER], metric, greater_is_better)
        return cls(by_role[STUDENT], teacher, by_role[OTHER], metric, greater_is_better, by_role[EXPORT])

    @property
    def student(self) -> Group | None:
        """The best student."""
        return _best(self.students, self.metric, self.greater_is_better)


def verdict(judged: Judged) -> Verdict:
    """The best student beside the teacher: quality kept, size and speed gained, runs and their spread."""
    student, teacher, style = judged.student, judged.teacher, column(judged.metric)
    if student is None:
        best = _best(judged.others, judged.metric, judged.greater_is_better) or teacher
        if best is None:
            return Verdict("Nothing was compared.")
        text = best.figures[judged.metric].text(style.text)
        return Verdict(f"By {style.heading} the best of {len(judged.others)} models is {best.name}, with {text}.")
    tiles: list[Tile] = []
    clauses = [_quality(judged, student, teacher, tiles)]
    gained = [] if teacher is None else [one for cost in _COSTS if (one := _cost(cost, student, teacher, tiles))]
    if gained:
        clauses.append(f"is {' and '.join(gained)}")
    _baseline(judged, student, tiles)
    _fastest_export(judged, student, tiles)
    runs = _runs(student, judged.metric, tiles)
    among = f", the best of {len(judged.students)} students," if len(judged.students) > 1 else ""
    said = f"{clauses[0]} and {clauses[1]}" if len(clauses) > 1 else clauses[0]
    return Verdict(f"{student.name}{among} {said}; {runs}.", tiles)


def _best(rows: Sequence[Group], metric: str, greater_is_better: bool) -> Group | None:
    sign = 1 if greater_is_better else -1
    return max(rows, key=lambda row: sign * row.figures[metric].mean, default=None)


def _quality(judged: Judged, student: Group, teacher: Group | None, tiles: list[Tile]) -> str:
    style, mine = column(judged.metric), student.figures[judged.metric]
    if teacher is None:
        tiles.append(Tile(_title(style.heading), style.text(mine.mean), student.name))
        return f"has {style.heading} {style.text(mine.mean)}"
    its = teacher.figures[judged.metric]
    both = f"{style.text(mine.mean)} against {style.text(its.mean)}"
    if judged.greater_is_better and its.mean > 0 and mine.mean >= 0:
        share = mine.mean / its.mean
        tiles.append(Tile("Quality kept", f"{share:.1%}", f"{style.heading} {both}"))
        return f"keeps {share:.1%} of the {style.heading} of {teacher.name} ({both})"
    if not judged.greater_is_better and its.mean > 0:
        change = mine.mean / its.mean - 1
        tiles.append(Tile(_title(style.heading), f"{change:+.1%}", both))
        where = "above" if change >= 0 else "below"
        return f"has a {style.heading} {abs(change):.1%} {where} that of {teacher.name} ({both})"
    tiles.append(Tile(_title(style.heading), style.text(mine.mean), both))
    return f"has {style.heading} {both} of {teacher.name}"


def _cost(cost: tuple[str, str, str, str, str], student: Group, teacher: Group, tiles: list[Tile]) -> str:
    """How much smaller or faster, empty where that is not known."""
    name, title, *_, unit = cost
    text, value = _gain(cost, student, teacher)
    if text:
        mine, its = (column(name).text(row.figures[name].mean) for row in (student, teacher))
        tiles.append(Tile(title, value, f"{mine} of {its} {unit}"))
    return text


def _gain(cost: tuple[str, str, str, str, str], student: Group, teacher: Group) -> tuple[str, str]:
    """How much smaller or faster one model is than another, in a clause and in a word; empty for what is not known."""
    name, _, less, more, _ = cost
    if name not in student.figures or name not in teacher.figures or not student.figures[name].mean:
        return "", ""
    mine, its = student.figures[name].mean, teacher.figures[name].mean
    ratio = its / mine
    own = column(name).own_spread
    spread = max((row.figures[own].mean for row in (student, teacher) if own in row.figures), default=0.0)
    if ratio and abs(its - mine) < spread:
        text, value = "as fast within the spread of the measurements", "not told apart"
    elif 1 / _EQUAL < ratio < _EQUAL:
        text, value = ("as large", "equal") if less == "smaller" else ("as fast", "equal")
    elif ratio >= _EQUAL:
        text = value = f"{significant(ratio, 2)} times {less}"
    else:
        text = value = f"{significant(1 / ratio, 2)} times {more}"
    return text, value


def _baseline(judged: Judged, student: Group, tiles: list[Tile]) -> None:
    """The best other model of the student's size, which tells what the teacher was good for."""
    size = student.figures.get("parameters")
    equal = [row for row in judged.others if size is not None and _is_near(row, size.mean)]
    best, style = _best(equal, judged.metric, judged.greater_is_better), column(judged.metric)
    if best is not None:
        value = style.text(best.figures[judged.metric].mean)
        tiles.append(Tile(best.name, value, f"{style.heading} of a model of the same size"))


def _fastest_export(judged: Judged, student: Group, tiles: list[Tile]) -> None:
    """The export that is fastest, or smallest where no time was measured: its quality, and its gain on the student."""
    cost = next((name for name, *_ in reversed(_COSTS) if all(name in row.figures for row in judged.exports)), None)
    if cost is None or not judged.exports:
        return
    best, style = min(judged.exports, key=lambda row: row.figures[cost].mean), column(judged.metric)
    gained = [text for one in _COSTS if (text := _gain(one, best, student)[0])]
    value = style.text(best.figures[judged.metric].mean)
    tiles.append(Tile(best.name, value, f"{style.heading}; {' and '.join(gained)}, beside {student.name}"))


def _is_near(row: Group, size: float) -> bool:
    return "parameters" in row.figures and abs(row.figures["parameters"].mean / size - 1) < 0.01


def _runs(student: Group, metric: str, tiles: list[Tile]) -> str:
    found, style = student.figures[metric], column(metric)
    if found.spread is None:
        tiles.append(Tile("Runs", "1 seed", "its spread is not known"))
        return "one seed, so its spread is not known"
    spread = style.text(found.spread)
    tiles.append(Tile("Runs", f"{found.n} seeds", f"spread {spread}"))
    return f"mean of {found.n} seeds with a spread of {spread}"


def _title(heading: str) -> str:
    return heading[:1].upper() + heading[1:]
