"""p of an evidence.json whose pattern is disclosed, computed again with numpy alone.

python recheck.py evidence.json
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

if len(sys.argv) != 2:
    sys.exit(__doc__.strip())
data = json.loads(Path(sys.argv[1]).read_text())
shown = data["disclosed"] or sys.exit("the pattern isn't disclosed: p can't be computed without it")
K, pattern, answered = data["classes"], np.array(shown["pattern"]), np.array(data["answered"])
content = bytes.fromhex(shown["salt"]) + (1e4 * pattern).round().astype("<i4").tobytes()
hashes = data["published"]["patterns"] if data["published"] else []
known = hashlib.sha256(content).hexdigest() in hashes
# The evidence: centred ranks of each answer without its likeliest class, summed for each class.
tails = np.array(data["ranks"]) - K / 2
tails[np.arange(len(tails)), answered] = 0
tails /= np.maximum(np.linalg.norm(tails, axis=1, keepdims=True), 1e-12)
sums = np.zeros((K, K))
np.add.at(sums, answered, tails / np.sqrt(K - 1))
usual = np.array(data["baseline"] or np.zeros((K, K)))
usual /= np.maximum(np.linalg.norm(usual, axis=1, keepdims=True), 1e-12)


def without(rows, least=-np.inf):
    return rows - np.maximum((rows * usual).sum(1, keepdims=True), least) * usual


if data["test"] == "signs":  # P(sum of +-weights >= score), on a grid that favours the suspect
    weights = without(sums, 0.0)[pattern != 0]
    score, sizes = weights @ pattern[pattern != 0], np.abs(weights[weights != 0])
    jumps = np.rint(sizes / sizes.sum() * 20_000).astype(int)
    reach = jumps.sum()
    mass = np.eye(1, 2 * reach + 1, reach)[0]
    for jump in jumps[jumps > 0]:
        mass = (np.pad(mass, (jump, 0))[: len(mass)] + np.pad(mass, (0, jump))[jump:]) / 2
    lowest = int(np.floor(score / sizes.sum() * 20_000 - len(sizes) / 2))
    p = mass[max(0, lowest + reach) :].sum()
else:  # "direction": the part of the sphere that is as near to the evidence as the pattern
    a, b = without(sums), without(pattern)
    cosine, dimensions = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), K * (K - 3)
    angles = np.linspace(0, np.pi, 1_000_001)
    density = np.sin(angles) ** (dimensions - 2)
    p = density[angles <= np.arccos(cosine)].sum() / density.sum()
p = min(1.0, p * data["tried"])
print(f"p is {p:.3g}; the file says {data['p']:.3g}, and a claim needs {data['level']:.3g}")
print("the pattern is one of the published" if known else "the pattern was NOT published")
