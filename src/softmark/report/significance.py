"""Tests between methods: which difference in what is left after attacks is more than chance.

After Demšar 2006 and Benavoli et al. 2016: Friedman's test over all methods, then pairs with Holm's
correction. Every attack has one vote (exact McNemar), or every family of attacks (exact Wilcoxon),
as twenty distillations aren't twenty independent trials.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softmark.errors import InputError
from softmark.report.outcomes import Outcome, family

MAX_FLIPPED = 14  # differences of which all patterns of signs are tried
MIN_UNITS = 5  # attacks or families; of fewer no exact test can be significant
RESAMPLES = 9999  # of the bootstrap


@dataclass(frozen=True)
class Setting:
    """What counts as kept, and who has a vote.

    Attributes:
        unit: ``attack`` or ``family``.
        level: The p that every method is held to; None: each method's own level.
        useless: ``judged`` as they are, or ``survived`` whatever the verdict says: suspects more
            than 5 points below the watermarked model.
    """

    unit: str = "attack"
    level: float | None = None
    useless: str = "judged"

    @property
    def words(self) -> str:
        """Return the setting in words."""
        level = "each method's own level" if self.level is None else f"p ≤ {self.level:g} for all"
        useless = "judged" if self.useless == "judged" else "counted as survived"
        return f"by {self.unit}, {level}, useless suspects {useless}"


@dataclass(frozen=True)
class Scores:
    """The share of keys that each method keeps after each attack.

    Attributes:
        methods: M names.
        attacks: A names: those that every method went through.
        kept: Shares (A, M), from 0 to 1.
        num_left_out: Attacks that some method didn't go through.
    """

    methods: tuple[str, ...]
    attacks: tuple[str, ...]
    kept: np.ndarray
    num_left_out: int = 0

    @property
    def families(self) -> tuple[str, ...]:
        """Return the families of the attacks, each once."""
        return tuple(dict.fromkeys(map(family, self.attacks)))

    @functools.cached_property
    def by_family(self) -> np.ndarray:
        """Return the mean share over the attacks of each family: (F, M)."""
        names = np.array([family(attack) for attack in self.attacks])
        return np.array([self.kept[names == name].mean(0) for name in self.families])

    def within(self, name: str) -> Scores:
        """Return the scores after the attacks of the family ``name`` alone."""
        places = [i for i, attack in enumerate(self.attacks) if family(attack) == name]
        attacks = tuple(self.attacks[i] for i in places)
        return Scores(self.methods, attacks, self.kept[places])

    def votes(self, unit: str) -> np.ndarray:
        """Return one line of shares for each ``unit``: attack or family."""
        return self.kept if unit == "attack" else self.by_family


@dataclass(frozen=True)
class Pair:
    """Two methods compared.

    Attributes:
        method: One.
        rival: The other.
        better: Units after which more is left of ``method``; of attacks by majority of keys.
        worse: Units after which less is left.
        p: Of the exact test, two-sided.
        p_rivals: The same, Holm-corrected over all rivals of ``method``.
        p_pairs: The same, Holm-corrected over all pairs.
        difference: Of the mean shares over all attacks: method less rival.
        low: The lower end of its 95 % interval by a bootstrap over families.
        high: The upper end.
    """

    method: str
    rival: str
    better: int
    worse: int
    p: float
    p_rivals: float
    p_pairs: float
    difference: float
    low: float
    high: float


def scores_of(outcomes: Sequence[Outcome], setting: Setting) -> Scores:
    """Return what each method keeps after the attacks that all methods went through.

    Raises:
        InputError: there are too few methods or attacks for any test.
    """
    kept: dict[str, dict[str, float]] = {}
    for one in outcomes:
        excused = setting.useless == "survived" and one.apart == "useless"
        kept.setdefault(one.method, {})[one.attack] = 1.0 if excused else one.kept(setting.level)
    every = list(dict.fromkeys(one.attack for one in outcomes))
    common = [attack for attack in every if all(attack in row for row in kept.values())]
    if len(kept) < 2 or len(common) < MIN_UNITS:
        raise InputError(
            f"{len(kept)} methods with {len(common)} attacks in common: a comparison needs two "
            f"methods, and {MIN_UNITS} attacks on each"
        )
    table = np.array([[kept[method][attack] for method in kept] for attack in common])
    return Scores(tuple(kept), tuple(common), table, len(every) - len(common))


def mean_ranks(votes: np.ndarray) -> np.ndarray:
    """Return the mean rank of each method, 1 the best, over ``votes`` (A, M); ties share theirs.

    Example:
        >>> mean_ranks(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])).round(2).tolist()
        [1.17, 1.83]
    """
    from scipy.stats import rankdata

    return rankdata(-votes, axis=1).mean(0)


def friedman(votes: np.ndarray) -> tuple[float, float]:
    """Return Friedman's statistic and its p over ``votes`` (A, M); nan and 1 where all are tied."""
    from scipy.stats import friedmanchisquare

    if votes.shape[1] < 3 or bool((votes == votes[:, :1]).all()):
        return float("nan"), 1.0
    result = friedmanchisquare(*votes.T)
    return float(result.statistic), float(result.pvalue)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return ``p_values`` with Holm's correction for all of them.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    stepped = p[order] * np.arange(len(p), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return corrected


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Return the exact two-sided p of McNemar's test: of two series of yes and no, (A,) each.

    Example:
        >>> kept, lost = np.ones(6, bool), np.zeros(6, bool)
        >>> mcnemar(kept, lost), mcnemar(kept, kept)
        (0.03125, 1.0)
    """
    from scipy.stats import binomtest

    better, worse = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def wilcoxon(differences: np.ndarray) -> float:
    """Return the exact two-sided p of Wilcoxon's signed ranks; ``differences`` (F,), ties allowed.

    All patterns of signs are tried, at once for all: SciPy takes a tenth of a second for each pair.
    """
    from scipy import stats

    differences = differences[np.abs(differences) > 1e-12]
    if len(differences) == 0:
        return 1.0
    if len(differences) > MAX_FLIPPED:
        return float(stats.wilcoxon(differences).pvalue)
    ranks = stats.rankdata(np.abs(differences).round(12))
    sums = _signs(len(differences)) @ ranks  # (2^F,)
    return float((np.abs(sums) >= abs(np.sign(differences) @ ranks) - 1e-9).mean())


@functools.cache
def _signs(count: int) -> np.ndarray:
    """Return all patterns of ``count`` signs: (2^count, count)."""
    return np.array(list(itertools.product((-1.0, 1.0), repeat=count)))


def intervals(scores: Scores, values: np.ndarray) -> np.ndarray:
    """Return the 95 % intervals (2, P) of the means of ``values`` (P, A), a line for each mean.

    A bootstrap that draws families of attacks, not single ones.
    """
    from scipy.stats import bootstrap

    names = np.array([family(attack) for attack in scores.attacks])
    members = np.array([names == name for name in scores.families], float)  # (F, A)
    sums = values @ members.T  # (P, F)
    counts = np.broadcast_to(members.sum(1), sums.shape)
    if len(members) < 2:
        return np.stack([values.mean(1)] * 2)
    drawn = bootstrap(
        (sums, counts),
        lambda s, n, axis=-1: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=500,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return np.stack([drawn.low, drawn.high])


def compare_pairs(scores: Scores, unit: str) -> list[Pair]:
    """Return every ordered pair of methods, tested with one vote for each ``unit``."""
    votes, num = scores.votes(unit), len(scores.methods)
    by_attack = unit == "attack"
    decided = votes > 0.5 if by_attack else votes
    above = np.triu_indices(num, 1)
    p, of_pairs = np.ones((num, num)), np.ones((num, num))
    for i, j in zip(*above, strict=True):
        columns = decided[:, i], decided[:, j]
        p[i, j] = mcnemar(*columns) if by_attack else wilcoxon(columns[0] - columns[1])
    of_pairs[above] = holm(p[above])
    p, of_pairs = np.minimum(p, p.T), np.minimum(of_pairs, of_pairs.T)
    kept = scores.kept.T  # (M, A)
    ends = intervals(scores, kept[above[0]] - kept[above[1]])
    low, high = np.zeros((num, num)), np.zeros((num, num))
    low[above], high[above] = ends
    low, high = low - high.T, high - low.T
    found = []
    for i, method in enumerate(scores.methods):
        rivals = [j for j in range(num) if j != i]
        for j, corrected in zip(rivals, holm(p[i, rivals]), strict=True):
            votes_of = [decided[:, i], decided[:, j]]
            found.append(
                Pair(
                    method,
                    scores.methods[j],
                    better=int(np.greater(*votes_of).sum()),
                    worse=int(np.less(*votes_of).sum()),
                    p=float(p[i, j]),
                    p_rivals=float(corrected),
                    p_pairs=float(of_pairs[i, j]),
                    difference=float((kept[i] - kept[j]).mean()),
                    low=float(low[i, j]),
                    high=float(high[i, j]),
                )
            )
    return found
