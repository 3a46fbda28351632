"""p of an evidence.json whose seed is disclosed, computed again with numpy alone.

    python recheck.py evidence.json softmark.commitment.json probes.npz
        [--labels FILE] [--answers FILE] [--round FILE --info FILE --published TIME]

Take the commitment from where it was published, and not from whoever accuses. docs/FORMAT.md says
every byte that is hashed, and every test.

--labels: the classes that you see in the probes, one number a line, for all of them. Without it no
test counts what the suspect mistakes for what. --answers: the suspect's answers as
you got them (.npy, or .csv without names): the order in the evidence must be theirs. --round,
--info: what a drand server gives for /CHAIN/public/ROUND and /CHAIN/info, of a key with a beacon;
--published: when the commitment was public, as 2026-12-01T10:00Z; --chain: the hash of a chain that
you trust, if it isn't quicknet's.

Exit status: 0 where p reaches softmark's level and is what the evidence says, 3 where not, 2 for
unusable files.
"""

import argparse
import hashlib
import hmac
import json
import re
import sys
import zipfile
from datetime import datetime
from fractions import Fraction
from math import ceil, floor, lgamma, log, perm
from pathlib import Path
from statistics import NormalDist

import numpy as np

LARGEST = 2**28  # bytes of a file, packed or not
QUICKNET = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
METHODS = ("csp", "usp", "csp_margin", "usp_margin")
NUMBERS = {"beta", "eps", "feature_cosine", "feature_weight", "gamma", "margin"}
KEYS = {"beacon", "classes", "format", "labels", "level", "method"}
KEYS |= {"numbers", "probes", "seals", "triggers", "victim"}


class Unusable(Exception):
    """A file that is no evidence, commitment or set of probes."""


class Refused(Exception):
    """Evidence that proves nothing."""


def need(fine, reason):
    if not fine:
        raise Refused(f"{reason}: this evidence proves nothing")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("evidence", "commitment", "probes"):
        parser.add_argument(name)
    for name in ("labels", "answers", "round", "info", "published", "chain"):
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    try:
        claimed = recheck(options)
    except Refused as error:
        sys.exit(stop(error, 3))
    except Unusable as error:
        sys.exit(stop(error, 2))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        OverflowError,
        RecursionError,
    ) as e:
        sys.exit(stop(f"not the files that are needed: {e!r:.200}", 2))
    sys.exit(0 if claimed else 3)


def stop(reason, status):
    print(reason, file=sys.stderr)
    return status


def recheck(options):
    """Print p and what could not be checked; whether it is a claim."""
    data, published = read_json(options.evidence), read_json(options.commitment)
    bound = published["statement"]
    check_formats(data, published)
    shown = data["disclosed"]
    if not shown:
        raise Unusable("the seed isn't disclosed: p can't be computed without it")
    need(data["p"] is not None, "nothing could be tested")
    K, N, T = bound["classes"], bound["probes"]["count"], bound["triggers"]
    seed = bytes.fromhex(shown["seed"])
    seal = hashlib.sha256(b"softmark seal 1\n" + seed).hexdigest()
    need(len(seed) == 32 and seal in bound["seals"], "the seed isn't one of the published")
    victim = checked_victim(shown["victim"], bound["victim"], K)
    labels = checked_labels(data["labels"], bound["labels"], K, N)
    randomness, level = beacon(options, data, bound)
    head = b"softmark pattern 1\n" + bytes.fromhex(published["commitment"]) + randomness
    root = hashlib.scrypt(
        seed, salt=hashlib.sha256(head).digest(), n=2**16, r=8, p=1, maxmem=2**27, dklen=32
    )
    triggers = stream(root, 8 * T)
    check_probes(options.probes, bound, root)
    ranks = checked_ranks(data["ranks"], K, N + T)
    mine = numbers_in(options.labels).astype(int).ravel() if options.labels else None
    if mine is not None and not (mine.shape == (N,) and 0 <= mine.min() <= mine.max() < K):
        raise Unusable(f"--labels: {len(mine)} numbers; a class for each of {N} probes is needed")
    seen = answers(options.answers, ranks) if options.answers else None
    tied = (ranks[:N] == ranks[:N, :1]).all(1).sum()
    need(tied <= 0.05 * N, f"{tied} of {N} answers tell nothing")
    p = p_of(bound, victim, labels, mine, ranks, root, triggers)
    tried = data["tried"] * len(bound["seals"]) * orders(bound, labels, ranks[:N])
    p = min(1.0, p * min(tried, 10**300))
    return told(data, bound, p, level, seal, mine, seen)


def read_json(name):
    if Path(name).stat().st_size > LARGEST:
        raise Unusable(f"{name}: more than {LARGEST} bytes")
    made = json.loads(Path(name).read_text(encoding="utf-8"))
    if not isinstance(made, dict):
        raise Unusable(f"{name}: a JSON object is needed")
    return made


def canonical(made):
    return json.dumps(made, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def whole(value, least, most):
    return type(value) is int and least <= value <= most


def check_formats(data, published):
    bound = published["statement"]
    if data["format"] != "softmark evidence 4" or bound["format"] != "softmark statement 1":
        raise Unusable("not an evidence.json and a softmark.commitment.json of this version")
    if hashlib.sha256(canonical(bound)).hexdigest() != published["commitment"]:
        raise Unusable("the commitment isn't the hash of its statement")
    probes, seals, level = bound["probes"], bound["seals"], bound["level"]
    margin = str(bound["method"]).endswith("_margin")
    numbers, beacon = bound["numbers"], bound["beacon"]
    fine = bound.keys() == KEYS and bound["method"] in METHODS
    fine = fine and probes.keys() == {"count", "sha256", "shape", "type"}
    fine = fine and numbers.keys() == NUMBERS and all(type(n) is float for n in numbers.values())
    fine = fine and whole(bound["classes"], 5, 100_000) and whole(probes["count"], 1, 10**9)
    fine = fine and whole(bound["triggers"], margin, 100_000 * margin)
    fine = fine and all(whole(size, 1, 10**6) for size in probes["shape"])
    fine = fine and 1 <= len(seals) <= (1 if margin else 10_000) and len(set(seals)) == len(seals)
    fine = fine and all(re.fullmatch("[0-9a-f]{64}", each) for each in [*seals, probes["sha256"]])
    if beacon is not None:
        fine = fine and beacon.keys() == {"chain", "genesis", "period", "round"}
        fine = fine and all(whole(beacon[n], 1, 10**12) for n in ("genesis", "period", "round"))
        fine = fine and re.fullmatch("[0-9a-f]{64}", beacon["chain"])
    own = 1e-6 if bound["beacon"] else 1e-12
    if not (fine and (level is None or (type(level) is float and 0 < level <= own))):
        raise Unusable("the commitment's statement isn't one of softmark's")
    same = data["commitment"] == published["commitment"] and data["statement"] == bound
    need(same, "the evidence is of another commitment")
    p, tried = data["p"], data["tried"]
    good = p is None or (type(p) is float and 0 < p <= 1) or p == 1
    need(good and whole(tried, 1, 10**300), "p or the number of keys tried is none")


def checked_victim(shown, said, K):
    """What the unmarked model shows, (2, K, K); None where nothing is said of it."""
    if shown is None:
        need(said is None, "what the unmarked model shows isn't disclosed")
        return None
    victim = np.array(shown, "<f4")
    fine = victim.shape == (2, K, K) and hashlib.sha256(victim.tobytes()).hexdigest() == said
    need(fine, "the unmarked model isn't the one that was committed to")
    victim = victim.astype(float)
    # Centred rows of length 1, and shares whose sum is 1; or rows of 0.
    sizes = np.stack([np.linalg.norm(victim[0], axis=1), victim[1].sum(1)])
    fine = ((sizes == 0) | (abs(sizes - 1) < 1e-3)).all() and (abs(victim[0].sum(1)) < 1e-3).all()
    fine = fine and (victim[1] >= 0).all() and (victim.diagonal(0, 1, 2) == 0).all()
    need(fine, "no model shows what is said of the unmarked one")
    return victim


def checked_labels(shown, said, K, N):
    if shown is None:
        need(said is None, "the committed labels aren't there")
        return np.full(N, -1)
    labels = np.array(shown, "<i4")
    fine = labels.shape == (N,) and hashlib.sha256(labels.tobytes()).hexdigest() == said
    need(fine and labels.min() >= 0 and labels.max() < K, "the labels aren't the committed ones")
    return labels


def beacon(options, data, bound):
    """The randomness of the round, and the level of a claim."""
    own, wanted = bound["level"] or 1.0, bound["beacon"]
    randomness = bytes.fromhex(data["randomness"] or "")
    need(
        len(randomness) == (32 if wanted else 0), "the beacon's numbers are missing, or none belong"
    )
    given = [options.round, options.info, options.published]
    if not any(given) or not wanted:
        return randomness, min(1e-12, own)
    if not all(given):
        raise Unusable("--round, --info and --published: each needs the others")
    came, info = read_json(options.round), read_json(options.info)
    trusted = options.chain or QUICKNET
    need(wanted["chain"] == trusted, f"the key names the chain {wanted['chain']}, not {trusted}")
    fits = (info["hash"], info["genesis_time"], info["period"], came["round"])
    wants = tuple(wanted[name] for name in ("chain", "genesis", "period", "round"))
    need(fits == wants, "the round is of another chain, or another one")
    signed = hashlib.sha256(bytes.fromhex(came["signature"])).hexdigest()
    need(came["randomness"] == signed == data["randomness"], "the round has other numbers")
    when = datetime.fromisoformat(options.published)
    if when.tzinfo is None:
        raise Unusable("--published needs a time zone, such as Z")
    time = wanted["genesis"] + (wanted["round"] - 1) * wanted["period"]
    need(when.timestamp() < time, "the round came before the commitment was public")
    return randomness, min(1e-6, own)


def stream(root, size):
    blocks = (n.to_bytes(8, "big") for n in range(ceil(size / 32)))
    return b"".join(hmac.new(root, block, hashlib.sha256).digest() for block in blocks)[:size]


def check_probes(name, bound, root):
    """The probes are the committed ones, and behind them lie the pictures that the seed draws."""
    wanted, T = bound["probes"], bound["triggers"]
    with zipfile.ZipFile(name) as packed:
        parts = packed.infolist()
        if [part.filename for part in parts] != ["inputs.npy"] or parts[0].file_size > LARGEST:
            raise Unusable(f"{name}: just inputs.npy is needed, of {LARGEST} bytes at most")
    with np.load(name, allow_pickle=False) as found:
        inputs = found["inputs"]
    N, shape = wanted["count"], tuple(wanted["shape"])
    fine = inputs.shape == (N + T, *shape) and inputs.dtype.name == wanted["type"]
    need(fine, f"{name}: {inputs.shape} {inputs.dtype} aren't the probes and triggers")
    head = canonical([wanted["type"], [N, *shape]])
    content = np.ascontiguousarray(inputs[:N], inputs.dtype.newbyteorder("<")).tobytes()
    same = hashlib.sha256(head + content).hexdigest() == wanted["sha256"]
    need(same, f"{name}: the probes aren't the committed ones")
    if T:
        need(np.array_equal(inputs[N:], pictures(root, T, shape)),
             f"{name}: the last {T} aren't the pictures that the seed draws")  # fmt: skip


def pictures(root, count, shape):
    channels, height, width = shape
    drawn = stream(hmac.new(root, b"triggers", hashlib.sha256).digest(), count * channels * 16)
    coarse = np.frombuffer(drawn, np.uint8).reshape(count, channels, 4, 4).astype(np.int64)
    v = enlarging(height) @ coarse @ enlarging(width).T
    low, high = v.min((1, 2, 3), keepdims=True), v.max((1, 2, 3), keepdims=True)
    return ((510 * (v - low) + high - low) // (2 * np.maximum(high - low, 1))).astype(np.uint8)


def enlarging(size):
    weights = np.zeros((size, 4), np.int64)
    for y in range(size):
        place = Fraction((2 * y + 1) * 4 - size, 2 * size)
        for at in range(floor(place) - 1, floor(place) + 3):
            x = abs(place - at)
            near = Fraction(5, 4) * x**3 - Fraction(9, 4) * x**2 + 1
            far = Fraction(-3, 4) * x**3 + Fraction(15, 4) * x**2 - 6 * x + 3
            weights[y, min(max(at, 0), 3)] += round(4096 * (near if x <= 1 else far))
    return weights


def rank(row):
    """1 for the least; entries that tie share the mean of their ranks."""
    _, place, count = np.unique(row, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place.ravel()]


def checked_ranks(shown, K, rows):
    ranks = np.array(shown, float)
    need(ranks.shape == (rows, K), f"{ranks.shape} ranks for {rows} inputs and {K} classes")
    need(all((rank(row) == row).all() for row in ranks), "what should be ranks is none")
    return ranks


def numbers_in(name):
    """The numbers of a .npy, or of a text with commas between them."""
    path = Path(name)
    if path.stat().st_size > LARGEST:
        raise Unusable(f"{name}: more than {LARGEST} bytes")
    if path.suffix == ".npy":
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    return np.array([[float(cell) for cell in re.split("[,;\t ]+", line.strip())]
                     for line in path.read_text().splitlines() if line.strip()])  # fmt: skip


def answers(name, ranks):
    """Refuse where the answers in the file haven't the order of the evidence, row by row."""
    given = numbers_in(name).astype(np.float32)
    need(given.shape == ranks.shape, f"{name}: answers of the shape {given.shape}")
    sums = given.astype(float).sum(1)
    good = np.isfinite(given).all(1) & (given >= 0).all(1) & (sums >= 0.5) & (sums <= 1.5)
    # Rows that are no probabilities count as flat; others are divided by their sum.
    rows = np.where(good[:, None], given / sums.astype(np.float32)[:, None], np.float32(0))
    same = all((rank(row) == was).all() for row, was in zip(rows, ranks, strict=True))
    need(same, f"{name}: the evidence is of other answers")
    return True


def orders(bound, labels, ranks):
    """So many orders of columns whoever brings the answers may choose among."""
    K, top = bound["classes"], ranks.argmax(1)
    used = (ranks.max(1) == K) & (labels >= 0)
    asked = np.bincount(labels[used], minlength=K)
    right = np.bincount(labels[used & (top == labels)], minlength=K)
    unseen = int(((right < 5) | (2 * right <= asked)).sum())
    return 1 if unseen < 2 else perm(K, unseen) * unseen**2


def p_of(bound, victim, labels, mine, ranks, root, triggers):
    """p of all tests together, for one key that was tried."""
    K, N, kind = bound["classes"], bound["probes"]["count"], bound["method"][:3]
    top, clear = ranks.argmax(1), ranks.max(1) == K
    usable = np.full(N, -1) if mine is None else np.where(labels == mine, labels, -1)
    sums = tail_sums(ranks[:N], top[:N], K)
    mistakes = residuals(usable, top[:N], clear[:N], victim, K)
    usual = [np.zeros((K, K)), *([] if victim is None else [victim[0]])]
    found = (csp if kind == "csp" else usp)(sums, mistakes, usual, stream(root, K * K * 8), K)
    found = [p for p, seen in found if seen] or [1.0]
    tails = min(1.0, len(found) * min(found))
    if not bound["triggers"]:
        return max(tails, 1e-300)
    drawn = np.frombuffer(triggers, ">u8") % np.uint64(K)
    hits = top[N:] == drawn.astype(int)
    # The tails, the triggers, and both: those triggers whose bytes no sign has.
    apart = ceil(K * (K - 1) / 64) if kind == "csp" else 0
    product = max(tails * luck(hits[apart:], K), 1e-300)
    parts = [tails, luck(hits, K), product * (1 - np.log(product))]
    return min(1.0, 3 * max(min(parts), 1e-300))


def tail_sums(ranks, top, K):
    """Centred ranks of each answer without its likeliest class, at length 1, summed by class."""
    tails = np.zeros_like(ranks)
    for tail, row, c in zip(tails, ranks, top, strict=True):
        others = np.arange(K) != c
        tail[others] = rank(row[others]) - K / 2
    tails /= np.maximum(np.linalg.norm(tails, axis=1, keepdims=True), 1e-12)
    sums = np.zeros((K, K))
    np.add.at(sums, top, tails / np.sqrt(K - 1))
    return sums


def residuals(labels, top, clear, victim, K):
    """Labels that were answered otherwise, more or fewer than the unmarked model's doubt says."""
    counts, off, used = np.zeros((K, K)), 1 - np.eye(K), clear & (labels >= 0)
    np.add.at(counts, (labels[used], top[used]), 1)
    counts *= off
    shared = off / (K - 1) if victim is None else victim[1]
    least = (counts.sum(1, keepdims=True) * shared + 0.375) ** 0.5
    return ((counts + 0.375) ** 0.5 - least) * off


def csp(sums, mistakes, usual, drawn, K):
    i, j = np.triu_indices(K, 1)
    bits = 2.0 * np.unpackbits(np.frombuffer(drawn, np.uint8))[: 2 * len(i)] - 1
    found = []
    for seen in [*(without(sums, each, 0.0) for each in usual), mistakes]:
        weights = np.append((seen + seen.T)[i, j], (seen - seen.T)[i, j])
        found += [(signs(weights, bits), weights.any())]
        if seen is not mistakes and len(i) > 20:
            some = weights[: len(i)]
            found += [(signs(some, bits[: len(i)]), some.any())]
    return found


def usp(sums, mistakes, usual, drawn, K):
    off = ~np.eye(K, dtype=bool)
    numbers = (np.frombuffer(drawn, ">u8")[: K * (K - 1)] + 0.5) / 2.0**64
    pattern = np.zeros((K, K))
    pattern[off] = [NormalDist().inv_cdf(float(each)) for each in numbers]
    pattern -= off * pattern.sum(1, keepdims=True) / (K - 1)
    found = []
    for each in usual:
        seen = without(sums, each, -np.inf).any()
        found += [(*direction(sums, pattern, each, False), seen)]
        found += [(*direction(sums, pattern, each, True), sums.any())]
    found += [(*direction(mistakes, pattern, usual[0], False), mistakes.any())]
    return [(p, seen) for p, size, seen in found if size >= min(18, K * (K - 2))]


def signs(weights, wanted):
    """P(sum of +-weights >= what the signs give), never below the truth."""
    score, sizes = weights @ wanted, np.abs(weights[weights != 0])
    if not score > 0:
        return 1.0
    # Chernoff's bound: any rate gives one.
    x = np.outer(np.geomspace(0.01, 200, 4000) / np.linalg.norm(sizes), sizes)
    logs = (x + np.log1p(np.exp(-2 * x)) - np.log(2)).sum(1) - x[:, 0] / sizes[0] * score
    if len(sizes) > 1000:
        return np.exp(logs.min())
    jumps = np.rint(sizes / sizes.sum() * 20_000).astype(int)
    mass, reach = np.eye(1, 2 * jumps.sum() + 1, jumps.sum())[0], jumps.sum()
    for jump in jumps[jumps > 0]:
        mass = (np.pad(mass, (jump, 0))[: len(mass)] + np.pad(mass, (0, jump))[jump:]) / 2
    lowest = int(np.floor(score / sizes.sum() * 20_000 - len(sizes) / 2))
    return min(np.exp(logs.min()), mass[max(0, lowest + reach) :].sum())


def direction(seen, pattern, usual, symmetric):
    """The part of the sphere that is as near to the evidence as the pattern, and its dimensions."""
    K = len(seen)
    units = [(i, j) for i in range(K) for j in range(K) if i < j or (i > j and not symmetric)]
    units = np.array([np.eye(1, K * K, i * K + j)[0].reshape(K, K) for i, j in units])
    units = (units + units.swapaxes(1, 2)) / np.sqrt(2) if symmetric else units
    # The space: no row has a sum, or a part along what is usual.
    bound = np.concatenate([units.sum(2), (units * usual).sum(2)], axis=1)
    _, size, basis = np.linalg.svd(bound.T)
    space = basis[(size > 1e-9).sum() :] @ units.reshape(len(units), -1)
    a, b = space @ seen.ravel(), space @ pattern.ravel()
    if len(space) < 2 or not a @ b > 0:
        return 1.0, len(space)
    # The density falls as fast as there are dimensions: the grid is as fine.
    angles = np.linspace(0, np.pi, 100_001 + 400 * len(space))
    density = np.sin(angles) ** (len(space) - 2)
    nearer = angles <= np.arccos(min(1.0, a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    return max(density[nearer].sum() / density.sum(), 1e-300), len(space)


def luck(hits, K):
    """P(so many hits or more), each with chance 1 / K."""
    n = len(hits)
    ways = [
        lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - k * log(K) + (n - k) * log(1 - 1 / K)
        for k in range(hits.sum(), n + 1)
    ]
    return min(1.0, max(float(np.exp(ways).sum()), 1e-300))


def without(seen, known, least):
    """``seen`` without the part of each row along ``known``; what rounding leaves of it is 0."""
    rest = seen - np.maximum((seen * known).sum(1, keepdims=True), least) * known
    return np.where(abs(rest) < 1e-5 * np.linalg.norm(seen, axis=1, keepdims=True), 0.0, rest)


def told(data, bound, p, level, seal, mine, seen):
    """Say what came out, and what no file can show; whether it is a claim."""
    # The file's p counts the labels of whoever made it.
    theirs = data["checked"]
    alike = mine is None and theirs is None
    alike = alike or (mine is not None and theirs is not None and np.array_equal(mine, theirs))
    # What rounding does on the grid can move p where few signs count.
    right = not alike or abs(np.log2(p / data["p"])) < 1
    print(f"p is {p:.3g}; the file says {data['p']:.3g}, and a claim needs {level:.3g}")
    if not alike:
        print("the file's p counts other labels than yours: they aren't compared")
    seals = bound["seals"]
    print(f"the seed is number {seals.index(seal) + 1} of {len(seals)} that were published")
    if not seen:
        print("not checked: that the answers are the suspect's (--answers; ask it yourself)")
    if bound["labels"] and mine is None:
        print("not counted: what the suspect mistakes for what (--labels, of your own)")
    if bound["beacon"] and level < 1e-6:
        print("not looked up: the beacon's round (--round, --info, --published)")
    print("not checked: when the commitment was public, and whether its owner made others")
    reached = p <= level
    print("claimed" if reached and right else "not claimed" if right else "the file's p is WRONG")
    return reached and right


if __name__ == "__main__":
    main()
