"""A second verifier of evidence files, written from docs/FORMAT.md alone.

It shares no code with softmark or with scripts/recheck.py. Where it can, it computes by other
means: integers in place of floats, ranks and distributions of scipy, bases from scipy.linalg.
"""

import hashlib
import hmac
import json
import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.linalg import orth
from scipy.optimize import minimize_scalar
from scipy.special import betainc, ndtri
from scipy.stats import binom, rankdata

STATEMENT_KEYS = {
    "format",
    "method",
    "numbers",
    "classes",
    "probes",
    "labels",
    "victim",
    "triggers",
    "owner",
    "seals",
    "level",
    "beacon",
}
NUMBER_KEYS = {"beta", "eps", "feature_cosine", "feature_weight", "gamma", "margin"}
METHODS = ("csp", "usp", "csp_margin", "usp_margin")
LEAST_P = 1e-300
LEVEL = 1e-12
LEVEL_WITH_BEACON = 1e-6
TOLERANCE = 1e-3  # of the victim's matrices
STEPS = 20_000  # of the grid
GRID_WEIGHTS = 1000  # with more weights than these, only the Chernoff bound is used
UNIT = 10**12  # the largest weight in integer units
NOTHING = 1e-10  # a matrix this much shorter than what it came from is rounding alone


# Checks of types


def _need(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)


def _is_int(value: Any, least: int, most: int | None = None) -> bool:
    return type(value) is int and value >= least and (most is None or value <= most)


def _is_number(value: Any) -> bool:
    """Whether it is an int or a finite float, and no bool."""
    if type(value) is int:
        return True
    return type(value) is float and math.isfinite(value)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _array(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Nested lists of numbers as float64; nothing but finite numbers in that shape."""
    flat = [value]
    for size in shape:
        fits = all(isinstance(part, list) and len(part) == size for part in flat)
        _need(fits, f"The {name} should be nested lists of shape {shape}.")
        flat = [entry for part in flat for entry in part]
    _need(all(_is_number(entry) for entry in flat), f"The {name} hold something else than numbers.")
    try:
        return np.array(flat, np.float64).reshape(shape)
    except OverflowError:
        raise ValueError(f"The {name} hold a number that is too large.") from None


# The statement


def _canonical(value: Any) -> bytes:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
    except (TypeError, RecursionError):
        raise ValueError("The statement cannot be written as JSON.") from None


def commitment_of(statement: dict) -> str:
    """SHA-256 of the canonical statement, in hex."""
    return hashlib.sha256(_canonical(statement)).hexdigest()


def _check_probes(probes: Any) -> None:
    keys = {"count", "sha256", "shape", "type"}
    _need(isinstance(probes, dict) and set(probes) == keys, "The statement's probes are malformed.")
    _need(_is_int(probes["count"], 1), "The statement's number of probes is malformed.")
    _need(_is_hash(probes["sha256"]), "The hash of the probes is malformed.")
    shape = probes["shape"]
    fits = isinstance(shape, list) and all(_is_int(side, 1) for side in shape)
    _need(fits, "The shape of the probes is malformed.")
    try:
        kind = np.dtype(probes["type"]) if isinstance(probes["type"], str) else None
    except (TypeError, ValueError, SyntaxError):
        kind = None
    fits = kind is not None and kind.kind in "buif" and kind.name == probes["type"]
    _need(fits, "The type of the probes is malformed.")


def _check_beacon(beacon: Any) -> None:
    keys = {"chain", "genesis", "period", "round"}
    _need(isinstance(beacon, dict) and set(beacon) == keys, "The beacon is malformed.")
    _need(isinstance(beacon["chain"], str) and beacon["chain"] != "", "The chain is malformed.")
    _need(_is_int(beacon["genesis"], 0), "The genesis of the beacon is malformed.")
    _need(_is_int(beacon["period"], 1), "The period of the beacon is malformed.")
    _need(_is_int(beacon["round"], 1), "The round of the beacon is malformed.")


def _check_statement(statement: Any) -> None:
    _need(isinstance(statement, dict), "The statement is no object.")
    _need(set(statement) == STATEMENT_KEYS, "The statement has other keys than it should.")
    _need(statement["format"] == "softmark statement 2", "The statement's format is unknown.")
    method = statement["method"]
    _need(isinstance(method, str) and method in METHODS, "The method is unknown.")
    numbers = statement["numbers"]
    fits = isinstance(numbers, dict) and set(numbers) == NUMBER_KEYS
    _need(fits, "The statement's numbers have other keys than they should.")
    fits = all(type(value) is float and math.isfinite(value) for value in numbers.values())
    _need(fits, "One of the statement's numbers is no float.")
    _need(_is_int(statement["classes"], 5, 100_000), "The number of classes is malformed.")
    _check_probes(statement["probes"])
    for name in ("labels", "victim"):
        fits = statement[name] is None or _is_hash(statement[name])
        _need(fits, f"The hash of the {name} is malformed.")

    triggers = statement["triggers"]
    _need(_is_int(triggers, 0), "The number of triggers is malformed.")
    fits = (triggers > 0) == method.endswith("_margin")
    _need(fits, "The number of triggers does not fit the method.")
    seals = statement["seals"]
    fits = isinstance(seals, list) and len(seals) > 0 and all(_is_hash(seal) for seal in seals)
    _need(fits, "The seals are malformed.")
    _need(_is_hash(statement["owner"]), "The owner's seal is malformed.")
    if triggers:
        _need(len(seals) == 1, "There are triggers, so there should be one seal alone.")
        probes = statement["probes"]
        fits = probes["type"] == "uint8" and len(probes["shape"]) == 3
        _need(fits, "There are triggers, so the probes should be uint8 pictures.")

    if statement["beacon"] is not None:
        _check_beacon(statement["beacon"])
    level = statement["level"]
    if level is not None:
        _need(_is_number(level) and level > 0, "The level is malformed.")
        own = LEVEL if statement["beacon"] is None else LEVEL_WITH_BEACON
        _need(level <= own, "The level of the statement is weaker than softmark's own.")


def level_of(statement: dict, beacon_checked: bool) -> float:
    """The largest p that is a claim; `beacon_checked`: its round was looked up by the verifier."""
    _check_statement(statement)
    known = statement["beacon"] is not None and beacon_checked
    own = LEVEL_WITH_BEACON if known else LEVEL
    return own if statement["level"] is None else min(own, float(statement["level"]))


# The secret's streams


def root_of(seed: bytes, bound: bytes) -> bytes:
    return hashlib.scrypt(seed, salt=bound, n=65536, r=8, p=1, maxmem=2**28, dklen=32)


def _stream(key: bytes, size: int) -> bytes:
    blocks = range(-(-size // 32))
    parts = [hmac.digest(key, block.to_bytes(8, "big"), "sha256") for block in blocks]
    return b"".join(parts)[:size]


def _signs(roots: list[bytes], classes: int) -> np.ndarray:
    """csp: a sign for each pair of each root, the owner's (sums) before the customer's."""
    count = classes * (classes - 1) // 2
    bits = [
        np.unpackbits(np.frombuffer(_stream(root, -(-count // 8)), np.uint8))[:count]
        for root in roots
    ]
    return 2 * np.concatenate(bits).astype(np.int64) - 1


def _gaussian_pattern(roots: list[bytes], classes: int) -> np.ndarray:
    """usp: normal sums and differences of each pair, without each row's mean."""
    first, second = np.triu_indices(classes, 1)
    halves = np.zeros((2, len(first)))  # without a customer the differences are 0
    for half, root in zip(halves, roots, strict=False):
        numbers = np.frombuffer(_stream(root, 8 * len(first)), ">u8").astype(np.float64)
        # A float64 near 1 may round up to 1 itself, where the inverse is infinite.
        half[:] = ndtri(np.minimum((numbers + 0.5) / 2.0**64, math.nextafter(1.0, 0.0)))
    pattern = np.zeros((classes, classes))
    pattern[first, second] = (halves[0] + halves[1]) / math.sqrt(2)
    pattern[second, first] = (halves[0] - halves[1]) / math.sqrt(2)
    return _without_means(pattern)


def _without_means(matrix: np.ndarray) -> np.ndarray:
    """Of each row the mean of the entries off the diagonal is taken off; the diagonal is 0."""
    away = ~np.eye(len(matrix), dtype=bool)
    return (matrix - matrix.sum(1, keepdims=True) / (len(matrix) - 1)) * away


def _kernel(x: Fraction) -> Fraction:
    if x <= 1:
        return Fraction(5, 4) * x**3 - Fraction(9, 4) * x**2 + 1
    return Fraction(-3, 4) * x**3 + Fraction(15, 4) * x**2 - 6 * x + 3


@lru_cache(maxsize=64)
def _enlargement(size: int) -> np.ndarray:
    """(size, 4): the integer weight of each of 4 rows for each place."""
    weights = np.zeros((size, 4), np.int64)
    for place in range(size):
        position = Fraction((2 * place + 1) * 4 - size, 2 * size)
        start = math.floor(position)
        t = position - start
        for row, x in zip(range(start - 1, start + 3), (1 + t, t, 1 - t, 2 - t), strict=True):
            # round() of a Fraction goes to the nearest, half to even.
            weights[place, min(max(row, 0), 3)] += round(4096 * _kernel(x))
    return weights


def _pictures(root: bytes, count: int, shape: list[int]) -> np.ndarray:
    """The trigger pictures, uint8 (count, C, H, W)."""
    channels, height, width = shape
    stream = _stream(hmac.digest(root, b"triggers", "sha256"), 16 * count * channels)
    squares = np.frombuffer(stream, np.uint8).reshape(count, channels, 4, 4).astype(np.int64)
    values = _enlargement(height) @ squares @ _enlargement(width).T
    low = values.min(axis=(1, 2, 3), keepdims=True)
    span = values.max(axis=(1, 2, 3), keepdims=True) - low
    pixels = (2 * 255 * (values - low) + span) // (2 * np.maximum(span, 1))
    return pixels.astype(np.uint8)


# What is read of the answers


def _tops(ranks: np.ndarray) -> np.ndarray:
    return ranks.argmax(1)  # the first of the largest


def _tail_sums(ranks: np.ndarray, tops: np.ndarray) -> np.ndarray:
    """S: the tails summed by top class.

    Twice a tail's ranks are integers. Tails of the same length are summed as integers, and
    divided by their length at the end, so that what cancels is exactly 0.
    """
    count, classes = ranks.shape
    rest = np.ones(ranks.shape, bool)
    rest[np.arange(count), tops] = False
    tails = rankdata(ranks[rest].reshape(count, classes - 1), axis=1)
    doubled = np.zeros(ranks.shape, np.int64)
    doubled[rest] = np.rint(2 * tails).astype(np.int64).ravel() - classes
    squares = (doubled**2).sum(1)
    sums = np.zeros((classes, classes))
    for square in np.unique(squares[squares > 0]):
        chosen = squares == square
        whole = np.zeros((classes, classes), np.int64)
        np.add.at(whole, tops[chosen], doubled[chosen])
        sums += whole / math.sqrt(square)
    return sums / math.sqrt(classes - 1)


def _errors(
    ranks: np.ndarray,
    tops: np.ndarray,
    committed: np.ndarray | None,
    checked: np.ndarray | None,
    shares: np.ndarray | None,
) -> np.ndarray:
    """E: how the clear errors of labelled probes differ from those to be expected."""
    classes = ranks.shape[1]
    away = ~np.eye(classes, dtype=bool)
    counts = np.zeros((classes, classes), np.int64)
    if committed is not None and checked is not None:
        used = (ranks.max(1) == classes) & (committed == checked) & (committed != tops)
        np.add.at(counts, (committed[used], tops[used]), 1)
    totals = counts.sum(1, keepdims=True)
    expected = totals / (classes - 1) if shares is None else totals * shares
    return (np.sqrt(counts + 0.375) - np.sqrt(expected + 0.375)) * away


def _without(matrix: np.ndarray, rows: np.ndarray, positive: bool) -> np.ndarray:
    """Each row without its part along the other matrix's row; `positive`: only where it is > 0."""
    parts = (matrix * rows).sum(1, keepdims=True)
    left = matrix - (np.maximum(parts, 0) if positive else parts) * rows
    lengths = np.sqrt((matrix**2).sum(1, keepdims=True))
    return np.where(np.abs(left) < 1e-5 * lengths, 0.0, left)


# The test of csp


def _gridded(weights: np.ndarray, score: int) -> float:
    """An upper bound of P(sum >= score), with each weight rounded to the grid.

    A rounded weight is at most half a step off. A sum, whatever its signs, is then off by at
    most half a step for each weight, and so much is taken off the score.
    """
    step = int(weights.sum()) / STEPS
    rounded = np.sort(np.rint(weights / step).astype(np.int64))
    total = int(rounded.sum())
    # chances[k]: that the weights with + add up to k steps; the sum is then 2 k - total.
    chances = np.zeros(total + 1)
    chances[0] = 1.0
    reached = 0
    for weight in rounded.tolist():
        before = chances[: reached + 1] * 0.5
        chances[: reached + 1] = before
        reached += weight
        chances[weight : reached + 1] += before
    least = math.ceil((math.floor(score / step - len(weights) / 2) + total) / 2)
    if least <= 0:
        return 1.0
    return float(chances[least:].sum())


def _chernoff(weights: np.ndarray, score: int) -> float:
    """The logarithm of min over x >= 0 of exp(-x score) times the product of cosh(x w)."""
    if score <= 0:
        return 0.0
    scale = math.sqrt(float((weights.astype(np.float64) ** 2).sum()))
    scaled, target = weights / scale, score / scale

    def logarithm(log_x: float) -> float:
        product = math.exp(log_x) * scaled
        logs = product + np.log1p(np.exp(-2 * product)) - math.log(2)
        return float(logs.sum() - math.exp(log_x) * target)

    # The best x is about `target`, and larger only where almost all signs agree.
    bounds = (math.log(target) - 3, math.log(target) + 7)
    best = minimize_scalar(logarithm, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return min(0.0, float(best.fun))


def _coins(weights: np.ndarray, signs: np.ndarray) -> float | None:
    """log P(sum of +-weights >= that with these signs), or a bound; None where all are 0."""
    largest = float(np.abs(weights).max(initial=0.0))
    if largest < 1e-12:
        return None
    whole = np.rint(weights * (UNIT / largest)).astype(np.int64)
    score = int((whole * signs).sum())
    whole = np.abs(whole[whole != 0])
    # Two sums that are equal may differ by a unit for each weight once these are integers.
    score -= len(whole)
    bound = _chernoff(whole, score)
    if len(whole) > GRID_WEIGHTS:
        return bound
    return min(bound, math.log(_at_least(_gridded(whole, score))))


def _signs_p(
    signs: np.ndarray,
    sums: np.ndarray,
    errors: np.ndarray,
    rows: np.ndarray | None,
    owner_alone: bool,
) -> list[float]:
    """The logarithm of p of each test of csp for which something was seen."""
    upper = np.triu_indices(len(sums), 1)
    pairs = len(upper[0])

    def weights(matrix: np.ndarray) -> np.ndarray:
        one, other = matrix[upper], matrix.T[upper]
        return np.concatenate([one + other, one - other])

    found = []
    for tails in (sums, -sums):
        for matrix in [tails] if rows is None else [tails, _without(tails, rows, positive=True)]:
            both = weights(matrix)
            if not owner_alone:
                found.append(_coins(both, signs))
            if owner_alone or pairs > 20:
                found.append(_coins(both[:pairs], signs[:pairs]))
    last = pairs if owner_alone else 2 * pairs
    found.append(_coins(weights(errors)[:last], signs[:last]))
    return [p for p in found if p is not None]


# The tests of usp


def _cosine(seen: np.ndarray, pattern: np.ndarray, scale: float) -> float:
    """Their cosine; 0 where what was seen is rounding alone, beside its `scale`."""
    length, other = np.linalg.norm(seen), np.linalg.norm(pattern)
    if length <= NOTHING * scale or other == 0:
        return 0.0
    return float(np.clip((seen * pattern).sum() / (length * other), -1, 1))


def _direction_p(cosine: float, dimensions: int) -> float:
    if cosine <= 0:
        return 1.0
    return float(betainc((dimensions - 1) / 2, 0.5, (1 - cosine) * (1 + cosine))) / 2


def _symmetric_test(
    sums: np.ndarray, pattern: np.ndarray, rows: np.ndarray | None
) -> tuple[float, int]:
    """Cosine and dimensions of the symmetric parts.

    A symmetric matrix with diagonal 0 is given by its pairs (i, j), i < j. Each constraint is a
    vector over the pairs; what lies along any of them is taken off.
    """
    classes = len(sums)
    first, second = np.triu_indices(classes, 1)
    pairs = np.arange(len(first))

    def constraints(matrix: np.ndarray) -> np.ndarray:
        columns = np.zeros((len(first), classes))
        columns[pairs, first] = matrix[first, second]
        columns[pairs, second] = matrix[second, first]
        return columns

    columns = constraints(np.ones((classes, classes)))
    if rows is not None:
        columns = np.concatenate([columns, constraints(rows)], axis=1)
    basis = orth(columns)

    def project(matrix: np.ndarray) -> np.ndarray:
        vector = (matrix[first, second] + matrix[second, first]) / 2
        return vector - basis @ (basis.T @ vector)

    scale = float(np.linalg.norm(sums))
    return _cosine(project(sums), project(pattern), scale), len(first) - basis.shape[1]


def _directions_p(
    pattern: np.ndarray,
    sums: np.ndarray,
    errors: np.ndarray,
    rows: np.ndarray | None,
    owner_alone: bool,
) -> list[float]:
    """The p of each test of usp that is of enough dimensions and for which something was seen."""
    classes = len(sums)
    full = classes * (classes - 2)
    length = float(np.linalg.norm(sums))
    whole = [(_cosine(sums, pattern, length), full)]
    halves = [_symmetric_test(sums, pattern, None)]
    if rows is not None:
        left = _without(sums, rows, positive=False)
        other = pattern - (pattern * rows).sum(1, keepdims=True) * rows
        dimensions = full - int((rows != 0).any(1).sum())
        whole.append((_cosine(left, other, length), dimensions))
        halves.append(_symmetric_test(sums, pattern, rows))
    tests = halves if owner_alone else [*whole, *halves]
    tests = [*tests, *((-cosine, dimensions) for cosine, dimensions in tests)]
    errors, scale = _without_means(errors), float(np.linalg.norm(errors))
    if owner_alone:
        tests.append(_symmetric_test(errors, pattern, None))
    else:
        tests.append((_cosine(errors, pattern, scale), full))
    least = min(18, full)
    return [_direction_p(c, d) for c, d in tests if d >= least and c != 0]


# The evidence


def _check_victim(matrices: np.ndarray) -> None:
    tails, shares = matrices
    lengths, sums = np.linalg.norm(tails, axis=1), shares.sum(1)

    def near(values: np.ndarray, *targets: float) -> bool:
        return bool(np.min([np.abs(values - x) for x in targets], axis=0).max() <= TOLERANCE)

    _need(near(lengths, 0, 1), "A row of the victim's tails is neither of unit length nor 0.")
    _need(near(tails.sum(1), 0), "A row of the victim's tails does not have the sum 0.")
    _need(near(sums, 0, 1), "A row of the victim's shares has neither the sum 1 nor 0.")
    _need(bool((shares >= 0).all()), "A share of the victim's is negative.")
    fits = near(np.diagonal(tails), 0) and near(np.diagonal(shares), 0)
    _need(fits, "A diagonal of the victim's is not 0.")


def _read_victim(statement: dict, disclosed: dict) -> np.ndarray | None:
    """The victim's matrices as float64, or None."""
    given = disclosed["victim"]
    if statement["victim"] is None:
        _need(given is None, "A victim is disclosed, but the statement names none.")
        return None
    _need(given is not None, "The statement names a victim, but none is disclosed.")
    classes = statement["classes"]
    wide = _array(given, (2, classes, classes), "victim's matrices")
    _need(bool((np.abs(wide) < 1e6).all()), "An entry of the victim's matrices is impossible.")
    matrices = wide.astype("<f4")
    found = hashlib.sha256(matrices.tobytes()).hexdigest()
    _need(found == statement["victim"], "The disclosed victim is not the one of the statement.")
    exact = matrices.astype(np.float64)
    _check_victim(exact)
    return exact


def _read_labels(statement: dict, given: Any) -> np.ndarray | None:
    """The committed labels, or None."""
    if statement["labels"] is None:
        _need(given is None, "There are labels, but the statement names none.")
        return None
    count, classes = statement["probes"]["count"], statement["classes"]
    fits = isinstance(given, list) and len(given) == count
    fits = fits and all(_is_int(label, 0, classes - 1) for label in given)
    _need(fits, "The committed labels are malformed or missing.")
    labels = np.array(given, "<i4")
    found = hashlib.sha256(labels.tobytes()).hexdigest()
    _need(found == statement["labels"], "The labels are not the ones of the statement.")
    return labels.astype(np.int64)


def _read_ranks(given: Any, rows: int, classes: int) -> np.ndarray:
    _need(isinstance(given, list) and len(given) == rows, f"There should be {rows} rows of ranks.")
    ranks = _array(given, (rows, classes), "ranks")
    fits = bool((rankdata(ranks, axis=1) == ranks).all())
    _need(fits, "A row of the ranks is no rank vector.")
    return ranks


def _read_randomness(statement: dict, given: Any, looked_up: bytes) -> bytes:
    """The round's randomness: the evidence's, which must be what was looked up, if anything was."""
    fits = given is None or (isinstance(given, str) and re.fullmatch("([0-9a-f]{2})*", given))
    _need(bool(fits), "The randomness of the evidence is malformed.")
    own = bytes.fromhex(given or "")
    if statement["beacon"] is None:
        fits = own == b"" and looked_up == b""
        _need(fits, "There is randomness, but the statement names no beacon.")
        return b""
    _need(len(own) == 32, "The statement names a beacon, so there should be 32 random bytes.")
    _need(looked_up in (b"", own), "The randomness is not that of the beacon's round.")
    return own


def _check_inputs(statement: dict, inputs: np.ndarray) -> None:
    probes = statement["probes"]
    count, shape, kind = probes["count"], probes["shape"], probes["type"]
    expected = (count + statement["triggers"], *shape)
    _need(inputs.shape == expected, f"The inputs should have the shape {expected}.")
    _need(inputs.dtype.name == kind, f"The inputs should be of the type {kind}.")
    head = _canonical([kind, [count, *shape]])
    body = inputs[:count].astype(inputs.dtype.newbyteorder("<")).tobytes()
    found = hashlib.sha256(head + body).hexdigest()
    _need(found == probes["sha256"], "The probes are not the ones of the statement.")


def _orders(ranks: np.ndarray, tops: np.ndarray, labels: np.ndarray | None) -> int:
    """How many orders of the columns the committed labels leave open."""
    classes = ranks.shape[1]
    clear = ranks.max(1) == classes
    unseen = 0
    for label in range(classes):
        rows = np.zeros(len(ranks), bool) if labels is None else (labels == label) & clear
        right = int((tops[rows] == label).sum())
        unseen += not (right >= 5 and 2 * right > int(rows.sum()))
    return math.perm(classes, unseen) * unseen**2 if unseen > 1 else 1


def _at_least(p: float) -> float:
    return max(p, LEAST_P)


def _combined(tails: float, hit: np.ndarray, classes: int) -> tuple[float, float, float]:
    """p of the tails, of the triggers, and of both."""
    triggers = _at_least(float(binom.sf(int(hit.sum()) - 1, len(hit), 1 / classes)))
    product = _at_least(tails * triggers)
    return tails, triggers, _at_least(product * (1 - math.log(product)))


def _seeds(statement: dict, disclosed: dict) -> list[bytes]:
    """The owner's seed, and the customer's if one is named."""
    found = []
    for name, seals in (("owner", [statement["owner"]]), ("seed", statement["seals"])):
        if name == "seed" and disclosed[name] is None and len(seals) > 1:
            continue
        _need(_is_hash(disclosed[name]), f"The disclosed {name} is malformed.")
        seed = bytes.fromhex(disclosed[name])
        seal = hashlib.sha256(b"softmark seal 1\n" + seed).hexdigest()
        _need(seal in seals, "The statement has no seal of the disclosed seed.")
        found.append(seed)
    return found


def p_of(
    statement: dict,
    evidence: dict,
    probes: np.ndarray,
    labels: np.ndarray | None = None,
    randomness: bytes = b"",
) -> float:
    """The verdict's p, times the keys tried and the orders, at most 1.

    `probes`: all inputs, (N + T, ...). `labels`: those of whoever verifies, (N,), -1 where
    unknown. `randomness`: that of the beacon's round, as looked up; without it, the evidence's.
    Raises ValueError for whatever has to be refused.
    """
    _check_statement(statement)
    _need(isinstance(evidence, dict), "The evidence is no object.")
    needed = ("statement", "commitment", "randomness", "ranks", "labels", "tried", "p", "disclosed")
    for name in ("format", *needed):
        _need(name in evidence, f"The evidence has no {name}.")
    _need(evidence["format"] == "softmark evidence 5", "The evidence's format is unknown.")
    same = _canonical(evidence["statement"]) == _canonical(statement)
    _need(same, "The evidence's statement is not the published one.")
    commitment = commitment_of(statement)
    _need(evidence["commitment"] == commitment, "The commitment does not fit the statement.")
    tried, claimed = evidence["tried"], evidence["p"]
    _need(_is_int(tried, 1), "The number of keys tried is malformed.")
    _need(_is_number(claimed) and 0 <= claimed <= 1, "The p of the evidence is malformed.")

    disclosed = evidence["disclosed"]
    fits = isinstance(disclosed, dict) and {"owner", "seed", "victim"} <= set(disclosed)
    _need(fits, "The evidence does not disclose the seeds.")
    seeds = _seeds(statement, disclosed)

    classes, count = statement["classes"], statement["probes"]["count"]
    triggers = statement["triggers"]
    victim = _read_victim(statement, disclosed)
    committed = _read_labels(statement, evidence["labels"])
    ranks = _read_ranks(evidence["ranks"], count + triggers, classes)
    own = _read_randomness(statement, evidence["randomness"], bytes(randomness))
    inputs = np.asarray(probes)
    _check_inputs(statement, inputs)
    checked = None
    if labels is not None:
        checked = np.asarray(labels)
        fits = checked.shape == (count,) and checked.dtype.kind in "iu"
        fits = fits and checked.min() >= 0 and checked.max() < classes
        _need(bool(fits), f"The labels of whoever verifies should be {count} classes.")

    bound = hashlib.sha256(b"softmark pattern 1\n" + bytes.fromhex(commitment) + own).digest()
    roots = [root_of(seeds[0], bound)]
    roots += [hmac.digest(seed, roots[0], "sha256") for seed in seeds[1:]]
    if triggers:
        drawn = _pictures(roots[0], triggers, statement["probes"]["shape"])
        _need(np.array_equal(inputs[count:], drawn), "The triggers are not those of the seed.")

    tops = _tops(ranks)
    tied = int((np.ptp(ranks[:count], axis=1) == 0).sum())
    _need(tied <= 0.05 * count, "Too many answers tell nothing.")
    sums = _tail_sums(ranks[:count], tops[:count])
    rows, shares = (None, None) if victim is None else victim
    errors = _errors(ranks[:count], tops[:count], committed, checked, shares)

    def tails(owner_alone: bool) -> float:
        seen = (sums, errors, rows, owner_alone)
        if statement["method"].startswith("csp"):
            found = _signs_p(_signs(roots, classes), *seen)
        else:
            found = _directions_p(_gaussian_pattern(roots, classes), *seen)
            found = [math.log(_at_least(p)) for p in found]
        return min(0.0, min(found) + math.log(len(found))) if found else 0.0

    customers = len(statement["seals"])
    if customers > 1:
        named = [math.log(customers) + tails(False)] if len(roots) > 1 else []
        log_p = min(0.0, math.log(2) + min(tails(True), *named, 0.0))
    else:
        log_p = tails(False)
    if triggers:
        numbers = np.frombuffer(
            _stream(hmac.digest(roots[0], b"labels", "sha256"), 8 * triggers), ">u8"
        )
        hit = tops[count:] == (numbers % classes).astype(np.int64)
        _, *others = _combined(math.exp(log_p), hit, classes)
        log_p = min(0.0, math.log(3) + min(log_p, *map(math.log, others)))
    tried *= _orders(ranks[:count], tops[:count], committed)
    return _at_least(math.exp(min(0.0, log_p + math.log(tried))))
