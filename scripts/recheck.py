"""p of an evidence.json whose pattern is disclosed, computed again with numpy alone.

python recheck.py evidence.json softmark.commitment.json

Take the commitment from where it was published, and not from whoever accuses. Exit status: 0 where
p reaches the committed level and is what the evidence says, 3 where not, 2 for unusable files.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np


def stop(reason, status=2):
    print(reason, file=sys.stderr)
    sys.exit(status)


if len(sys.argv) != 3:
    stop(__doc__.strip())
try:
    data, published = (json.loads(Path(name).read_text()) for name in sys.argv[1:])
    shown, hashes, terms = data["disclosed"], published["patterns"], published["terms"]
    if not shown:
        stop("the pattern isn't disclosed: p can't be computed without it")
    if data["p"] is None:
        stop("nothing could be tested: there is no p", 3)
    K, pattern = data["classes"], np.array(shown["pattern"], float).reshape(data["classes"], -1)
    ranks, answered = np.array(data["ranks"], float), np.array(data["answered"], int)
    usual = np.array(data["baseline"] or np.zeros((K, K)), float).reshape(K, K)
    content = bytes.fromhex(shown["salt"]) + (1e4 * pattern).round().astype("<i4").tobytes()
    level, tried = terms["levels"]["exact"], max(data["tried"], len(hashes))
    tails = ranks.reshape(-1, K) - K / 2
    tails[np.arange(len(answered)), answered] = 0
except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
    stop(f"not an evidence.json and a softmark.commitment.json: {error!r}")
if hashlib.sha256(content).hexdigest() not in hashes:
    stop("the pattern isn't one of the published: this evidence proves nothing", 3)
if data["commitment"] != published["commitment"]:
    stop("the evidence is of another commitment: it proves nothing", 3)
if len(answered) != terms["probes"]:
    stop(f"{len(answered)} answers to {terms['probes']} committed probes: it proves nothing", 3)
# The evidence: centred ranks of each answer without its likeliest class, summed for each class.
tails /= np.maximum(np.linalg.norm(tails, axis=1, keepdims=True), 1e-12)
sums = np.zeros((K, K))
np.add.at(sums, answered, tails / np.sqrt(K - 1))
usual /= np.maximum(np.linalg.norm(usual, axis=1, keepdims=True), 1e-12)


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


def direction(symmetric):
    """The part of the sphere that is as near to the evidence as the pattern, and its dimensions."""
    units = [(i, j) for i in range(K) for j in range(K) if i < j or (i > j and not symmetric)]
    units = np.array([np.eye(1, K * K, i * K + j)[0].reshape(K, K) for i, j in units])
    units = (units + units.swapaxes(1, 2)) / np.sqrt(2) if symmetric else units
    # The space: no row has a sum, or a part along what is usual.
    bound = np.concatenate([units.sum(2), (units * usual).sum(2)], axis=1)
    _, size, basis = np.linalg.svd(bound.T)
    space = basis[(size > 1e-9).sum() :] @ units.reshape(len(units), -1)
    a, b = space @ sums.ravel(), space @ pattern.ravel()
    if len(space) < 2 or a @ b <= 0:
        return 1.0, len(space)
    angles = np.linspace(0, np.pi, 1_000_001)
    density = np.sin(angles) ** (len(space) - 2)
    nearer = angles <= np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return density[nearer].sum() / density.sum(), len(space)


# Two tests, of the whole pattern and of its symmetric part, where that alone can reach a claim.
if data["test"] == "signs":
    left = sums - np.maximum((sums * usual).sum(1, keepdims=True), 0.0) * usual
    i, j = np.triu_indices(K, 1)
    both, wanted = (left + left.T)[i, j], (pattern + pattern.T)[i, j]
    difference = (left - left.T)[i, j], (pattern - pattern.T)[i, j]
    found = [signs(np.append(both, difference[0]), np.append(wanted, difference[1]))]
    found += [signs(both, wanted)] if len(both) > 20 else []
else:
    found = [direction(False)[0]] + [p for p, size in [direction(True)] if size >= 18]
# As many customers as the commitment has patterns were tried, or more keys if the accuser says so.
p = min(1.0, len(found) * min(found) * tried)
reached, alike = p <= level, abs(np.log(p / data["p"])) < 0.05
print(f"p is {p:.3g}; the file says {data['p']:.3g}, and a claim needs {level:.3g}")
if data["baseline"]:
    print("p holds only if whoever judges chose the innocents, whose usual answers were taken off")
print("claimed" if reached and alike else "not claimed" if alike else "the file's p is WRONG")
sys.exit(0 if reached and alike else 3)
