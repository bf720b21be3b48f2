"""What an ablation found: scores with intervals, differences with tests, and a sentence that they justify."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from theworld_train.errors import UsageError
from theworld_train.evaluate.ablate.arms import Arm
from theworld_train.evaluate.ablate.plan import Plan
from theworld_train.evaluate.records import Record
from theworld_train.evaluate.statistics import Mean, Paired, holm, mean_score, over_runs, paired_test

Verdict = Literal["better", "worse", "same", "open"]
Answers = Mapping[Arm, Sequence[Record]]
"""Each run's records of one task, all in the same order."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The reference against another arm, on one kind of question.

    Attributes:
        found: the reference's score less the other's.
        p: corrected for the number of comparisons of its table.
        by_seed: the difference of each seed's pair of runs.
        runs_low, runs_high, runs_p: of the mean of those.
        verdict: of the reference: better or worse than the other arm, the same within the plan's margin, or open.
    """

    kind: str
    reference: str
    other: str
    found: Paired
    p: float
    by_seed: Mapping[int, float]
    runs_low: float
    runs_high: float
    runs_p: float
    verdict: Verdict
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """Questions of one kind, and every arm's score on them."""

    kind: str
    is_part: bool
    """A family of those that are summed up above."""
    questions: int
    chance: float
    scores: Mapping[str, Mean]


@dataclass(frozen=True, kw_only=True)
class TaskFindings:
    """Of one task."""

    task: str
    rows: Sequence[Row]
    comparisons: Sequence[Comparison]
    by_family: Sequence[Comparison]
    """The same for every family, corrected for their own number."""
    unusable: int
    """Questions that some run has no answer to for an error; they are left out of everything."""


def find(plan: Plan, task: str, answers: Answers, pairs: Sequence[tuple[str, str]]) -> TaskFindings:
    """Compare arms on a task.

    Args:
        pairs: names of arms, each with the reference that it is compared with: (reference, other).

    Raises:
        UsageError: there is a family of which no question was answered by all runs.
    """
    table = _Table(answers)
    sums = _sums(plan, table.families)
    rows = []
    for kind, families in sums.items():
        rows.append(table.row(kind, families))
        rows += [table.row(family, (family,), is_part=True) for family in families if len(families) > 1]
    parts = {family: (family,) for families in sums.values() for family in families}
    return TaskFindings(
        task=task,
        rows=rows,
        comparisons=_compare(plan, table, sums, pairs),
        by_family=_compare(plan, table, parts, pairs),
        unusable=table.unusable,
    )


class _Table:
    """Scores of all arms on the questions that all runs answered."""

    def __init__(self, answers: Answers) -> None:
        broken = {one.key for records in answers.values() for one in records if one.error is not None}
        self.unusable = len(broken)
        self.arms: dict[str, dict[int, list[Record]]] = {}
        for arm, records in answers.items():
            self.arms.setdefault(arm.name, {})[arm.seed] = [one for one in records if one.key not in broken]
        first = next(iter(answers.values()))
        self.families = list(dict.fromkeys(one.family for one in first))
        if lost := set(self.families) - {one.family for one in first if one.key not in broken}:
            why = next(one.error for records in answers.values() for one in records if one.error and one.family in lost)
            raise UsageError(
                f"{min(lost)}: each question has an error in some run, so nothing can be compared. The first: {why}"
            )

    def of(self, arm: str, seed: int, families: Sequence[str]) -> list[Record]:
        return [one for one in self.arms[arm][seed] if one.family in families]

    def row(self, kind: str, families: Sequence[str], *, is_part: bool = False) -> Row:
        scores = {}
        for arm, seeds in self.arms.items():
            records = [one for seed in seeds for one in self.of(arm, seed, families)]
            scores[arm] = mean_score([one.score or 0.0 for one in records], [_group(one) for one in records])
        first = self.of(arm := next(iter(self.arms)), next(iter(self.arms[arm])), families)
        chance = sum(one.chance for one in first) / len(first)
        return Row(kind=kind, is_part=is_part, questions=len(first), chance=chance, scores=scores)

    def pair(self, reference: str, other: str, families: Sequence[str]) -> tuple[Paired, dict[int, float]]:
        a, b, groups, by_seed = list[float](), list[float](), list[str](), dict[int, float]()
        for seed in self.arms[reference]:
            if seed in self.arms[other]:
                mine, theirs = self.of(reference, seed, families), self.of(other, seed, families)
                scores = [one.score or 0.0 for one in mine], [one.score or 0.0 for one in theirs]
                by_seed[seed] = (sum(scores[0]) - sum(scores[1])) / len(mine)
                a, b, groups = a + scores[0], b + scores[1], groups + [_group(one) for one in mine]
        return paired_test(a, b, groups), by_seed


def _compare(
    plan: Plan, table: _Table, kinds: Mapping[str, Sequence[str]], pairs: Sequence[tuple[str, str]]
) -> list[Comparison]:
    made = [(kind, one, other, *table.pair(one, other, kinds[kind])) for kind in kinds for one, other in pairs]
    corrected = holm([found.p for *_, found, _ in made])
    comparisons = []
    for (kind, one, other, found, by_seed), p in zip(made, corrected, strict=True):
        low, high, runs_p = over_runs(list(by_seed.values()))
        verdict = judge(found, p, (low, high), level=plan.level, margin=plan.margin)
        comparisons.append(
            Comparison(
                kind=kind,
                reference=one,
                other=other,
                found=found,
                p=p,
                by_seed=by_seed,
                runs_low=max(-1.0, low),  # of one pair, any difference that scores can have
                runs_high=min(1.0, high),
                runs_p=runs_p,
                verdict=verdict,
                sentence=_sentence(kind, one, other, found, p, by_seed, verdict, plan),
            )
        )
    return comparisons


def judge(found: Paired, p: float, over: tuple[float, float], *, level: float, margin: float) -> Verdict:
    """What a difference says: found among the questions, and beyond what runs of one arm differ by themselves."""
    beyond_runs = over[0] > 0 or over[1] < 0
    if p < level and beyond_runs:
        return "better" if found.difference > 0 else "worse"
    return "same" if found.margin < margin else "open"


def _sentence(
    kind: str,
    one: str,
    other: str,
    found: Paired,
    p: float,
    by_seed: Mapping[int, float],
    verdict: Verdict,
    plan: Plan,
) -> str:
    interval = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    difference = f"{100 * found.difference:+.1f} points {interval}"
    start = f"{kind}: "
    if verdict in ("better", "worse"):
        runs = f"in the {len(by_seed)} pairs of runs {_points(by_seed.values())}"
        return f"{start}{one} is {verdict} than {other}: {difference}, p {p_text(p)} after correction; {runs}."
    if verdict == "same":
        return (
            f"{start}{one} and {other} are the same within {100 * plan.margin:.0f} points either way: {difference}, "
            f"p {p_text(p)}."
        )
    if p < plan.level:
        why = (
            "with one seed nobody can tell the arm from its seed. Add seeds."
            if len(by_seed) < 2
            else f"runs differ as much by their seed alone ({_points(by_seed.values())}). Add seeds."
        )
        return f"{start}the models of {one} and {other} differ ({difference}, p {p_text(p)}), but {why}"
    return f"{start}no difference found between {one} and {other}: {difference}, p {p_text(p)}."


def p_text(p: float) -> str:
    """With as many digits as it means."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def _points(values: Iterable[float]) -> str:
    return ", ".join(f"{100 * value:+.1f}" for value in values)


def _sums(plan: Plan, families: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The plan's kinds, with those of their families that the task has; without any, all together."""
    found = {kind: tuple(family for family in names if family in families) for kind, names in plan.sums.items()}
    found = {kind: names for kind, names in found.items() if names}
    return found or {"all": tuple(families)}


def _group(record: Record) -> str:
    """A question is one thing in all seeds, and goes with its matched ones."""
    return record.group or record.key
