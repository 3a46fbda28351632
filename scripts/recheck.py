"""p of an evidence.json whose seed is disclosed, computed again with numpy alone.

python recheck.py evidence.json softmark.commitment.json

Take the commitment from where it was published, and not from whoever accuses. Exit status: 0 where
p reaches the committed level and is what the evidence says, 3 where not, 2 for unusable files.
"""

import hashlib
import hmac
import json
import sys
from math import comb
from pathlib import Path
from statistics import NormalDist

import numpy as np


def stop(reason, status=2):
    print(reason, file=sys.stderr)
    sys.exit(status)


if len(sys.argv) != 3:
    stop(__doc__.strip())
try:
    data, published = (json.loads(Path(name).read_text()) for name in sys.argv[1:])
    shown, hashes, terms = data["disclosed"], published["seeds"], published["terms"]
    if not shown:
        stop("the seed isn't disclosed: p can't be computed without it")
    if data["p"] is None:
        stop("nothing could be tested: there is no p", 3)
    K, seed, p = published["classes"], bytes.fromhex(shown["seed"]), float(data["p"])
    soft, _, margin = published["method"].partition("_")
    test = {"csp": "signs", "usp": "direction"}[soft]
    usual = np.array(shown["usual"] or [], "<f4").reshape(-1, K, K)
    expected = np.array(shown["expected"] or [], "<i4")
    ranks, answered = np.array(data["ranks"], float), np.array(data["answered"], int)
    level, tried = terms["levels"]["exact"], max(data["tried"], len(hashes))
    own = len(expected) if margin else len(answered)  # the others are triggers
    tails = ranks.reshape(-1, K) - K / 2
    tails[np.arange(len(answered)), answered] = 0
    if len(seed) != 32 or not np.isfinite(tails).all() or not 0 < p <= 1:
        stop("a seed of 32 bytes, ranks and p above 0 are needed: this evidence proves nothing", 3)
    clear = np.ones(len(answered), bool)
    clear[np.array(data["undecided"], int)] = False
    known = usual.tobytes() + expected.tobytes()
    head = json.dumps([published["method"], K, usual.size, expected.size]).encode()
except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
    stop(f"not an evidence.json and a softmark.commitment.json: {error!r}")
if (mine := hashlib.sha256(head + seed + known).hexdigest()) not in hashes:
    stop("the seed isn't one of the published: this evidence proves nothing", 3)
if data["commitment"] != published["commitment"]:
    stop("the evidence is of another commitment: it proves nothing", 3)
if len(answered) != terms["probes"]:
    stop(f"{len(answered)} answers to {terms['probes']} committed probes: it proves nothing", 3)
# What a model may show: centred rows of norm 1, and shares whose sum is 1; or rows of 0.
usual = usual.astype(float)
if len(usual):
    sizes = np.stack([np.linalg.norm(usual[0], axis=1), usual[1].sum(1)])
    fits = ((sizes == 0) | (abs(sizes - 1) < 1e-3)).all() and (abs(usual[0].sum(1)) < 1e-3).all()
    if not (fits and (usual[1] >= 0).all() and (usual.diagonal(0, 1, 2) == 0).all()):
        stop("no model shows what is said of the unmarked one: this evidence proves nothing", 3)
# The pattern: numbers that follow from the seed and from what the unmarked model shows.
blocks = (n.to_bytes(8, "big") + known for n in range((K * K + len(answered) - own) // 4 + 1))
stream = b"".join(hmac.new(seed, block, hashlib.sha256).digest() for block in blocks)
pattern, (i, j) = np.zeros((K, K)), np.triu_indices(K, 1)
if test == "signs":
    bits = 2.0 * np.unpackbits(np.frombuffer(stream, np.uint8))[: 2 * len(i)] - 1
    both, difference = bits[: len(i)], bits[len(i) :]
    pattern[i, j], pattern[j, i] = both + difference, both - difference
else:
    numbers = (np.frombuffer(stream, ">u8")[: K * (K - 1)] + 0.5) / 2.0**64
    pattern[~np.eye(K, dtype=bool)] = [NormalDist().inv_cdf(float(each)) for each in numbers]
    pattern -= ~np.eye(K, dtype=bool) * pattern.sum(1, keepdims=True) / (K - 1)
triggers, answered, tails, clear = answered[own:], answered[:own], tails[:own], clear[:own]
# The evidence: centred ranks of each answer without its likeliest class, summed for each class.
tails /= np.maximum(np.linalg.norm(tails, axis=1, keepdims=True), 1e-12)
sums = np.zeros((K, K))
np.add.at(sums, answered, tails / np.sqrt(K - 1))
# Mistakes: expected answers that were others, more or fewer than the unmarked model's doubt says.
counts = np.zeros((K, K))
if len(expected):
    np.add.at(counts, (expected[clear], answered[clear]), 1)
off = 1 - np.eye(K)
shared = usual[1] if len(usual) else off / (K - 1)
counts *= off
least = (counts.sum(1, keepdims=True) * shared + 0.375) ** 0.5
mistakes = ((counts + 0.375) ** 0.5 - least) * off


def signs(weights, wanted):
    """P(sum of +-weights >= what the signs give), never below the truth."""
    score, sizes = weights @ np.sign(wanted), np.abs(weights[weights != 0])
    if score <= 0:
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


def direction(seen, usual, symmetric):
    """The part of the sphere that is as near to the evidence as the pattern, and its dimensions."""
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
    angles = np.linspace(0, np.pi, 1_000_001)
    density = np.sin(angles) ** (len(space) - 2)
    nearer = angles <= np.arccos(min(1.0, a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    return density[nearer].sum() / density.sum(), len(space)


def luck(hits):
    """P(so many hits or more), each with chance 1 / K."""
    n = len(hits)
    odds = (comb(n, k) * (1 / K) ** k * (1 - 1 / K) ** (n - k) for k in range(hits.sum(), n + 1))
    return min(1.0, max(sum(odds), 1e-300))


def without(seen, known, least):
    """``seen`` without the part of each row along ``known``; what rounding leaves of it is 0."""
    rest = seen - np.maximum((seen * known).sum(1, keepdims=True), least) * known
    return np.where(abs(rest) < 1e-5 * np.linalg.norm(seen, axis=1, keepdims=True), 0.0, rest)


# Of the whole pattern and of its symmetric part, with and without what the unmarked model shows,
# and of the labels alone: those for which there is evidence and that can reach a claim.
wanted = np.append((pattern + pattern.T)[i, j], (pattern - pattern.T)[i, j])
plain, found = np.zeros((K, K)), []
for seen, known in [(sums, plain), *((sums, each) for each in usual[:1]), (mistakes, plain)]:
    if test == "signs":
        left = without(seen, known, 0.0)
        weights = np.append((left + left.T)[i, j], (left - left.T)[i, j])
        found += [(signs(weights, wanted), 99, weights.any())]
        if seen is sums and len(i) > 20:
            some = weights[: len(i)]
            found += [(signs(some, wanted[: len(i)]), 99, some.any())]
    else:
        found += [(*direction(seen, known, False), without(seen, known, -np.inf).any())]
        found += [(*direction(seen, known, True), seen.any())] if seen is sums else []
enough = [(p, there) for p, size, there in found if size >= 18] or [found[0][::2]]
found = [p for p, there in enough if there] or [1.0]
if margin:
    # A trigger's class is the remainder of eight bytes.
    drawn = np.frombuffer(stream, ">u8")[: len(triggers)] % np.uint64(K)
    hits = triggers == drawn.astype(int)
    # The tails, the triggers, and both: those triggers whose bytes no sign has.
    tails_p = min(1.0, len(found) * max(min(found), 1e-300))
    apart = -(-K * (K - 1) // 64) if test == "signs" else 0
    product = max(tails_p * luck(hits[apart:]), 1e-300)
    found = [tails_p, luck(hits), product * (1 - np.log(product))]
# As many customers as the commitment has seeds were tried, or more keys if the accuser says so.
p = min(1.0, len(found) * max(min(found), 1e-300) * tried)  # softmark stops there, too
reached, alike = p <= level, abs(np.log(p / data["p"])) < 0.05
print(f"p is {p:.3g}; the file says {data['p']:.3g}, and a claim needs {level:.3g}")
print(f"the seed is number {hashes.index(mine) + 1} of {len(hashes)} that were published")
print("claimed" if reached and alike else "not claimed" if alike else "the file's p is WRONG")
sys.exit(0 if reached and alike else 3)
