"""Recompute p from an evidence.json whose seed is disclosed, with numpy alone.

    python recheck.py evidence.json softmark.commitment.json probes.npz
        [--model FILE] [--labels FILE] [--answers FILE] [--round FILE --info FILE --published TIME]

Take the commitment from where it was published, and not from whoever accuses. docs/FORMAT.md
describes every byte that is hashed, and every test.

Exit status: 0 where p reaches softmark's level and is what the evidence says, 3 where not, 2 for
files that can't be used.
"""

import argparse
import hashlib
import hmac
import json
import re
import sys
import zipfile
import zlib
from datetime import datetime
from fractions import Fraction
from math import ceil, floor, lgamma, log, perm
from pathlib import Path
from statistics import NormalDist

import numpy as np

MAX_BYTES = 2**28  # of a file, packed or not
# The hash of drand's chain "quicknet".
QUICKNET = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
METHODS = ("csp", "usp", "csp_margin", "usp_margin")
NUMBERS = {"beta", "eps", "feature_cosine", "feature_weight", "gamma", "margin"}
STATEMENT_KEYS = {"beacon", "classes", "format", "labels", "level", "method"}
STATEMENT_KEYS |= {"numbers", "owner", "probes", "seals", "triggers", "victim"}
LEVEL, LEVEL_WITH_BEACON = 1e-12, 1e-6  # what p must reach for a claim
SMALLEST_P = 1e-300  # no p is taken below this


class Unusable(Exception):
    """A file that is no evidence, commitment or set of probes."""


class Refused(Exception):
    """Evidence that proves nothing."""


def require(condition, reason):
    """Raise ``Refused`` with ``reason`` unless ``condition`` holds."""
    if not condition:
        raise Refused(f"{reason}: this evidence proves nothing")


def arguments():
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evidence", help="the evidence.json that verify.py --disclose wrote")
    parser.add_argument("commitment", help="softmark.commitment.json, from where it was published")
    parser.add_argument("probes", help="the probes.npz that the suspect was asked")
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="the marked model: its SHA-256 must be one of those that were published",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="the classes that you see in the probes: one number a line, one for each probe; "
        "without it the test of the labels doesn't count",
    )
    parser.add_argument(
        "--answers",
        metavar="FILE",
        help="the suspect's answers as you got them (.npy, or .csv without a header): the evidence "
        "must rank the classes as they do",
    )
    beacon = parser.add_argument_group("for a key with a beacon (without them the level is 1e-12)")
    beacon.add_argument("--round", metavar="FILE", help="reply of drand's /CHAIN/public/ROUND")
    beacon.add_argument("--info", metavar="FILE", help="reply of drand's /CHAIN/info")
    beacon.add_argument(
        "--published", metavar="TIME", help="when the commitment became public: 2026-12-01T10:00Z"
    )
    beacon.add_argument(
        "--chain", metavar="HASH", help="hash of a chain that you trust; default: quicknet's"
    )
    return parser


def main():
    options = arguments().parse_args()
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
        EOFError,
        IndexError,
        OverflowError,
        MemoryError,
        RuntimeError,  # of a zip file that is encrypted; RecursionError is one
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        sys.exit(stop(f"not the files that are needed: {error!r:.200}", 2))
    sys.exit(0 if claimed else 3)


def stop(reason, status):
    """Print why nothing can be said, and return the exit ``status``."""
    print(reason, file=sys.stderr)
    return status


def recheck(options):
    """Print p and what could not be checked; return whether it is a claim."""
    evidence, published = read_json(options.evidence), read_json(options.commitment)
    statement = published["statement"]
    check_formats(evidence, published)
    disclosed = evidence["disclosed"]
    if not disclosed:
        raise Unusable("the seeds aren't disclosed: p can't be computed without them")
    require(evidence["p"] is not None, "nothing could be tested")
    K, N, T = statement["classes"], statement["probes"]["count"], statement["triggers"]
    seeds, seals = disclosed_seeds(disclosed, statement)
    victim = committed_victim(disclosed["victim"], statement["victim"], K)
    labels = committed_labels(evidence["labels"], statement["labels"], K, N)
    randomness, level = randomness_and_level(options, evidence, statement)
    commitment = bytes.fromhex(published["commitment"])
    bound = hashlib.sha256(b"softmark pattern 1\n" + commitment + randomness).digest()
    roots = [hashlib.scrypt(seeds[0], salt=bound, n=2**16, r=8, p=1, maxmem=2**27, dklen=32)]
    roots += [hmac.new(seed, roots[0], hashlib.sha256).digest() for seed in seeds[1:]]
    check_probes(options.probes, statement, roots[0])
    if options.model:
        check_model(options.model, published)
    ranks = checked_ranks(evidence["ranks"], K, N + T)
    your_labels = read_labels(options.labels, K, N) if options.labels else None
    if options.answers:
        check_answers(options.answers, ranks)
    tied = (ranks[:N] == ranks[:N, :1]).all(1).sum()
    require(tied <= 0.05 * N, f"{tied} of {N} answers tell nothing")
    log_p = log_p_for_one_key(statement, victim, labels, your_labels, ranks, roots)
    keys_tried = evidence["tried"] * num_open_orders(statement, labels, ranks[:N])
    p = max(float(np.exp(min(0.0, log_p + log(keys_tried)))), SMALLEST_P)
    return report(p, level, evidence, statement, seals[1:], your_labels, options)


def disclosed_seeds(disclosed, statement):
    """Return the owner's seed and the named customer's, if there is one, and their seals."""
    seeds = [bytes.fromhex(disclosed["owner"])]
    if disclosed["seed"] is not None:
        seeds.append(bytes.fromhex(disclosed["seed"]))
    require(len(seeds) == 2 or len(statement["seals"]) > 1, "the customer's seed is missing")
    seals = [hashlib.sha256(b"softmark seal 1\n" + seed).hexdigest() for seed in seeds]
    published = seals[0] == statement["owner"] and set(seals[1:]) <= set(statement["seals"])
    require(
        published and all(len(seed) == 32 for seed in seeds), "a seed isn't one of the published"
    )
    return seeds, seals


def read_json(name):
    """Return the JSON object in the file ``name``."""
    if Path(name).stat().st_size > MAX_BYTES:
        raise Unusable(f"{name}: more than {MAX_BYTES} bytes")
    content = json.loads(Path(name).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise Unusable(f"{name}: a JSON object is needed")
    return content


def canonical(content):
    """Return JSON in its one form: sorted keys, no spaces, ASCII."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def is_integer(value, least, most):
    return type(value) is int and least <= value <= most


def is_hash(value):
    return re.fullmatch("[0-9a-f]{64}", value) is not None


def check_formats(evidence, published):
    """Raise unless both files are of this version, fit each other, and hold what they may."""
    statement = published["statement"]
    formats = evidence["format"], statement["format"]
    if formats != ("softmark evidence 5", "softmark statement 2"):
        raise Unusable("not an evidence.json and a softmark.commitment.json of this version")
    if hashlib.sha256(canonical(statement)).hexdigest() != published["commitment"]:
        raise Unusable("the commitment isn't the hash of its statement")
    if not is_statement(statement):
        raise Unusable("the commitment's statement isn't one of softmark's")
    same = evidence["commitment"] == published["commitment"] and evidence["statement"] == statement
    require(same, "the evidence is of another commitment")
    p, keys_tried = evidence["p"], evidence["tried"]
    valid = p is None or (type(p) is float and 0 < p <= 1) or p == 1
    require(
        valid and is_integer(keys_tried, 1, 10**300),
        "p is no probability, or the number of keys tried is no whole number from 1 on",
    )


def is_statement(statement):
    """Whether ``statement`` has the keys, types and ranges of docs/FORMAT.md."""
    probes, seals, level = statement["probes"], statement["seals"], statement["level"]
    has_triggers = str(statement["method"]).endswith("_margin")
    numbers, beacon = statement["numbers"], statement["beacon"]
    valid = statement.keys() == STATEMENT_KEYS and statement["method"] in METHODS
    valid = valid and probes.keys() == {"count", "sha256", "shape", "type"}
    valid = valid and numbers.keys() == NUMBERS
    valid = valid and all(type(number) is float for number in numbers.values())
    valid = valid and is_integer(statement["classes"], 5, 100_000)
    valid = valid and is_integer(probes["count"], 1, 10**9)
    valid = valid and is_integer(statement["triggers"], has_triggers, 100_000 * has_triggers)
    valid = valid and all(is_integer(size, 1, 10**6) for size in probes["shape"])
    valid = valid and 1 <= len(seals) <= (1 if has_triggers else 10_000)
    valid = valid and len(set(seals)) == len(seals)
    valid = valid and all(is_hash(each) for each in [*seals, statement["owner"], probes["sha256"]])
    if beacon is not None:
        valid = valid and beacon.keys() == {"chain", "genesis", "period", "round"}
        for name in ("genesis", "period", "round"):
            valid = valid and is_integer(beacon[name], 1, 10**12)
        valid = valid and is_hash(beacon["chain"])
    weakest = LEVEL_WITH_BEACON if beacon else LEVEL
    return valid and (level is None or (type(level) is float and 0 < level <= weakest))


def committed_victim(disclosed, committed_hash, K):
    """Return what the unmarked model shows, (2, K, K); None if the statement says nothing of it."""
    if disclosed is None:
        require(committed_hash is None, "what the unmarked model shows isn't disclosed")
        return None
    victim = np.array(disclosed, "<f4")
    same = victim.shape == (2, K, K)
    same = same and hashlib.sha256(victim.tobytes()).hexdigest() == committed_hash
    require(same, "the unmarked model isn't the one that was committed to")
    victim = victim.astype(float)
    # Centred rows of length 1, and shares whose sum is 1; or rows of 0.
    sizes = np.stack([np.linalg.norm(victim[0], axis=1), victim[1].sum(1)])  # (2, K)
    valid = ((sizes == 0) | (abs(sizes - 1) < 1e-3)).all() and (abs(victim[0].sum(1)) < 1e-3).all()
    valid = valid and (victim[1] >= 0).all() and (victim.diagonal(0, 1, 2) == 0).all()
    require(valid, "no model shows what is disclosed of the unmarked one")
    return victim


def committed_labels(labels, committed_hash, K, N):
    """Return the owner's labels of the probes, (N,); -1 everywhere if there are none."""
    if labels is None:
        require(committed_hash is None, "the committed labels are missing")
        return np.full(N, -1)
    labels = np.array(labels, "<i4")
    same = labels.shape == (N,) and hashlib.sha256(labels.tobytes()).hexdigest() == committed_hash
    require(same and labels.min() >= 0 and labels.max() < K, "the labels aren't the committed ones")
    return labels


def randomness_and_level(options, evidence, statement):
    """Return the 32 bytes of the beacon's round, b"" without one, and the level of a claim."""
    own_level, committed_round = statement["level"] or 1.0, statement["beacon"]
    randomness = bytes.fromhex(evidence["randomness"] or "")
    require(
        len(randomness) == (32 if committed_round else 0),
        "the beacon's numbers are missing, or there are some without a beacon",
    )
    lookup = [options.round, options.info, options.published]
    if not any(lookup) or not committed_round:
        return randomness, min(LEVEL, own_level)
    if not all(lookup):
        raise Unusable("--round, --info and --published: each needs the others")
    served, info = read_json(options.round), read_json(options.info)
    trusted, chain = options.chain or QUICKNET, committed_round["chain"]
    require(chain == trusted, f"the key names the chain {chain}, not {trusted}")
    same = (info["hash"], info["genesis_time"], info["period"], served["round"]) == tuple(
        committed_round[name] for name in ("chain", "genesis", "period", "round")
    )
    require(same, "the round is of another chain, or another one")
    signed = hashlib.sha256(bytes.fromhex(served["signature"])).hexdigest()
    require(served["randomness"] == signed == evidence["randomness"], "the round has other numbers")
    published = datetime.fromisoformat(options.published)
    if published.tzinfo is None:
        raise Unusable("--published needs a time zone, such as Z")
    round_time = committed_round["genesis"]
    round_time += (committed_round["round"] - 1) * committed_round["period"]
    require(published.timestamp() < round_time, "the round came before the commitment was public")
    return randomness, min(LEVEL_WITH_BEACON, own_level)


def key_stream(root, size):
    """Return the first ``size`` bytes of HMAC-SHA256(root, 0), HMAC-SHA256(root, 1), ..."""
    blocks = (n.to_bytes(8, "big") for n in range(ceil(size / 32)))
    return b"".join(hmac.new(root, block, hashlib.sha256).digest() for block in blocks)[:size]


def check_probes(name, statement, root):
    """Raise unless the file holds the committed probes, and behind them the key's triggers."""
    committed, T = statement["probes"], statement["triggers"]
    with zipfile.ZipFile(name) as archive:
        members = archive.infolist()
        only_inputs = [member.filename for member in members] == ["inputs.npy"]
        if not only_inputs or members[0].file_size > MAX_BYTES:
            raise Unusable(f"{name}: just inputs.npy is needed, of {MAX_BYTES} bytes at most")
        with archive.open(members[0]) as member:
            if np.lib.format.read_magic(member) != (1, 0):
                raise Unusable(f"{name}: inputs.npy isn't as numpy.savez writes it")
            declared, _, kind = np.lib.format.read_array_header_1_0(member)
    N, shape = committed["count"], tuple(committed["shape"])
    fits = declared == (N + T, *shape) and kind.name == committed["type"]
    # Before memory is taken: a header can declare anything.
    require(fits, f"{name}: {declared} {kind} aren't the probes and triggers")
    if np.prod(declared, dtype=float) * kind.itemsize > MAX_BYTES:
        raise Unusable(f"{name}: more than {MAX_BYTES} bytes")
    with np.load(name, allow_pickle=False) as arrays:
        inputs = arrays["inputs"]
    header = canonical([committed["type"], [N, *shape]])
    content = np.ascontiguousarray(inputs[:N], inputs.dtype.newbyteorder("<")).tobytes()
    same = hashlib.sha256(header + content).hexdigest() == committed["sha256"]
    require(same, f"{name}: the probes aren't the committed ones")
    if T:
        require(np.array_equal(inputs[N:], trigger_pictures(root, T, shape)),
                f"{name}: the last {T} aren't the pictures that the seed draws")  # fmt: skip


def check_model(name, published):
    """Raise unless the file is one of the marked models that were published."""
    with Path(name).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    known = published.get("models") or {}
    require(sha256 in known.values(), f"{name}: its SHA-256 isn't among those of the commitment")


def trigger_pictures(root, count, shape):
    """Return the pictures that a key draws: smooth noise, uint8 (count, C, H, W)."""
    channels, height, width = shape
    picture_root = hmac.new(root, b"triggers", hashlib.sha256).digest()
    stream = key_stream(picture_root, count * channels * 16)
    coarse = np.frombuffer(stream, np.uint8).reshape(count, channels, 4, 4).astype(np.int64)
    v = upsampling(height) @ coarse @ upsampling(width).T  # (count, C, H, W)
    low, high = v.min((1, 2, 3), keepdims=True), v.max((1, 2, 3), keepdims=True)
    return ((510 * (v - low) + high - low) // (2 * np.maximum(high - low, 1))).astype(np.uint8)


def upsampling(size):
    """Return the integer weights that enlarge 4 pixels to ``size``: bicubic, (size, 4)."""
    weights = np.zeros((size, 4), np.int64)
    for y in range(size):
        position = Fraction((2 * y + 1) * 4 - size, 2 * size)
        for source in range(floor(position) - 1, floor(position) + 3):
            x = abs(position - source)
            near = Fraction(5, 4) * x**3 - Fraction(9, 4) * x**2 + 1
            far = Fraction(-3, 4) * x**3 + Fraction(15, 4) * x**2 - 6 * x + 3
            weights[y, min(max(source, 0), 3)] += round(4096 * (near if x <= 1 else far))
    return weights


def ranks_of(row):
    """Return the ranks of a row (K,), 1 for the least; ties share the mean of their ranks."""
    _, place, count = np.unique(row, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place.ravel()]


def checked_ranks(ranks, K, rows):
    """Return the evidence's ranks as floats (rows, K)."""
    ranks = np.array(ranks, float)
    require(ranks.shape == (rows, K), f"{ranks.shape} ranks for {rows} inputs and {K} classes")
    require(all((ranks_of(row) == row).all() for row in ranks), "some ranks are no ranks")
    return ranks


def read_numbers(name):
    """Return the numbers of a .npy, or of a text with commas between them."""
    path = Path(name)
    if path.stat().st_size > MAX_BYTES:
        raise Unusable(f"{name}: more than {MAX_BYTES} bytes")
    if path.suffix == ".npy":
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    return np.array([[float(cell) for cell in re.split("[,;\t ]+", line.strip())]
                     for line in path.read_text().splitlines() if line.strip()])  # fmt: skip


def read_labels(name, K, N):
    """Return the labels of whoever verifies, (N,)."""
    labels = read_numbers(name).astype(int).ravel()
    if not (labels.shape == (N,) and 0 <= labels.min() <= labels.max() < K):
        raise Unusable(f"--labels: {len(labels)} numbers; a class for each of {N} probes is needed")
    return labels


def check_answers(name, ranks):
    """Raise unless the answers in the file rank the classes as the evidence does, row by row."""
    answers = read_numbers(name).astype(np.float32)
    require(answers.shape == ranks.shape, f"{name}: answers of the shape {answers.shape}")
    sums = answers.astype(float).sum(1)
    valid = np.isfinite(answers).all(1) & (answers >= 0).all(1) & (sums >= 0.5) & (sums <= 1.5)
    # Rows that are no probabilities count as flat; others are divided by their sum.
    normalised = answers / sums.astype(np.float32)[:, None]
    probs = np.where(valid[:, None], normalised, np.float32(0))
    same = all((ranks_of(p) == row).all() for p, row in zip(probs, ranks, strict=True))
    require(same, f"{name}: the evidence is of other answers")


def num_open_orders(statement, labels, ranks):
    """Return among how many orders of the columns whoever brings the answers could choose."""
    K, top = statement["classes"], ranks.argmax(1)
    counted = (ranks.max(1) == K) & (labels >= 0)
    asked = np.bincount(labels[counted], minlength=K)  # (K,)
    right = np.bincount(labels[counted & (top == labels)], minlength=K)
    num_open = int(((right < 5) | (2 * right <= asked)).sum())
    return 1 if num_open < 2 else perm(K, num_open) * num_open**2


def log_p_for_one_key(statement, victim, labels, your_labels, ranks, roots):
    """Return the natural logarithm of p of all tests together, for one key that was tried.

    ``roots``: the owner's, and the named customer's if there is one.
    """
    K, N, T = statement["classes"], statement["probes"]["count"], statement["triggers"]
    is_csp = statement["method"].startswith("csp")
    top, clear = ranks.argmax(1), ranks.max(1) == K
    # A label counts only if the owner and whoever verifies give the same.
    agreed = np.full(N, -1) if your_labels is None else np.where(labels == your_labels, labels, -1)
    sums = tail_sums(ranks[:N], top[:N], K)
    residuals = anscombe_residuals(agreed, top[:N], clear[:N], victim, K)
    directions = [np.zeros((K, K)), *([] if victim is None else [victim[0]])]
    streams = [key_stream(root, 4 * K * (K - 1)) for root in roots]

    def log_p_of_part(part):
        tests = (csp_tests if is_csp else usp_tests)(sums, residuals, directions, streams, K, part)
        logs = [log_p for log_p, has_evidence in tests if has_evidence] or [0.0]
        return min(0.0, log(len(logs)) + min(logs))

    customers = len(statement["seals"])
    if customers > 1:
        parts = [log_p_of_part("owner")]
        parts += [log(customers) + log_p_of_part("all")] if len(roots) > 1 else []
        return min(0.0, log(2) + min(parts))
    log_p_tails = log_p_of_part("all")
    if not T:
        return log_p_tails
    label_root = hmac.new(roots[0], b"labels", hashlib.sha256).digest()
    trigger_labels = np.frombuffer(key_stream(label_root, 8 * T), ">u8") % np.uint64(K)
    hits = top[N:] == trigger_labels.astype(int)
    # The tails, the triggers, and both.
    p_triggers = binomial_p(hits, K)
    product = max(np.exp(log_p_tails) * p_triggers, SMALLEST_P)
    parts = [log_p_tails, log(p_triggers), log(product * (1 - log(product)))]
    return min(0.0, log(3) + min(parts))


def tail_sums(ranks, top, K):
    """Return the tails summed by their top class, (K, K).

    A tail: centred ranks of an answer without its top, at length 1.
    """
    tails = np.zeros_like(ranks)  # (N, K)
    for tail, row, c in zip(tails, ranks, top, strict=True):
        others = np.arange(K) != c
        tail[others] = ranks_of(row[others]) - K / 2
    tails /= np.maximum(np.linalg.norm(tails, axis=1, keepdims=True), 1e-12)
    sums = np.zeros((K, K))
    np.add.at(sums, top, tails / np.sqrt(K - 1))
    return sums


def anscombe_residuals(labels, top, clear, victim, K):
    """Return how many more or fewer labels were answered otherwise than the victim's doubt says."""
    counts, off_diagonal, counted = np.zeros((K, K)), 1 - np.eye(K), clear & (labels >= 0)
    np.add.at(counts, (labels[counted], top[counted]), 1)
    counts *= off_diagonal
    shares = off_diagonal / (K - 1) if victim is None else victim[1]
    expected = (counts.sum(1, keepdims=True) * shares + 0.375) ** 0.5
    return ((counts + 0.375) ** 0.5 - expected) * off_diagonal


def csp_tests(sums, residuals, directions, streams, K, part):
    """Return (log p, whether there is any evidence) of each test of csp's signs.

    ``part``: all of the pattern, or the owner's alone.
    """
    i, j = np.triu_indices(K, 1)
    bits = [np.unpackbits(np.frombuffer(stream, np.uint8))[: len(i)] for stream in streams]
    signs = 2.0 * np.concatenate(bits) - 1
    sizes = [len(i)] if part == "owner" else [2 * len(i), *([len(i)] if len(i) > 20 else [])]
    matrices = [project_out(tails, known, 0.0) for tails in (sums, -sums) for known in directions]
    tests = []
    for matrix in [*matrices, residuals]:
        weights = np.append((matrix + matrix.T)[i, j], (matrix - matrix.T)[i, j])
        for size in sizes[:1] if matrix is residuals else sizes:
            tests += [(signs_log_p(weights[:size], signs[:size]), weights[:size].any())]
    return tests


def usp_tests(sums, residuals, directions, streams, K, part):
    """Return (log p, whether there is any evidence) of each test of usp's direction.

    ``part``: all of the pattern, or the owner's alone.
    """
    above = np.triu_indices(K, 1)
    normal = np.zeros((2, K, K))  # sums and differences of each pair
    for half, stream in zip(normal, streams, strict=False):
        uniform = (np.frombuffer(stream, ">u8")[: len(above[0])] + 0.5) / 2.0**64
        half[above] = [NormalDist().inv_cdf(float(u)) for u in uniform]
    pattern = (normal[0] + normal[0].T + normal[1] - normal[1].T) / np.sqrt(2)
    pattern -= ~np.eye(K, dtype=bool) * pattern.sum(1, keepdims=True) / (K - 1)
    tests = []
    for tails in (sums, -sums):
        for known in directions:
            if part == "all":
                has_evidence = project_out(tails, known, -np.inf).any()
                tests += [(*direction_p(tails, pattern, known, False), has_evidence)]
            tests += [(*direction_p(tails, pattern, known, True), tails.any())]
    symmetric = part == "owner"
    tests += [(*direction_p(residuals, pattern, directions[0], symmetric), residuals.any())]
    enough = min(18, K * (K - 2))
    return [(log(p), has_evidence) for p, dimensions, has_evidence in tests if dimensions >= enough]


def signs_log_p(weights, signs):
    """Return log P(sum of +-weights >= what ``signs`` give), never below the truth."""
    score, sizes = weights @ signs, np.abs(weights[weights != 0])
    if not score > 0:
        return 0.0

    # Chernoff's bound: any rate gives one. A part of many sizes shows which is the best.
    def log_bound(rate, part):
        x = rate * part
        logs = (x + np.log1p(np.exp(-2 * x)) - np.log(2)).sum() * (len(sizes) / len(part))
        return logs - rate * score

    part = sizes[:: 1 + len(sizes) // 20_000]
    rates = np.geomspace(0.01, 200, 4000) / np.linalg.norm(sizes)
    low, high = 0, len(rates) - 1
    while low < high:  # the bound is convex in the rate
        middle = (low + high) // 2
        if log_bound(rates[middle], part) <= log_bound(rates[middle + 1], part):
            high = middle
        else:
            low = middle + 1
    bound = log_bound(rates[low], sizes)
    if len(sizes) > 1000:
        return bound
    jumps = np.rint(sizes / sizes.sum() * 20_000).astype(int)
    mass, reach = np.eye(1, 2 * jumps.sum() + 1, jumps.sum())[0], jumps.sum()
    for jump in jumps[jumps > 0]:
        moved = np.zeros_like(mass)
        moved[jump:] += mass[:-jump] / 2
        moved[:-jump] += mass[jump:] / 2
        mass = moved
    lowest = int(np.floor(score / sizes.sum() * 20_000 - len(sizes) / 2))
    return min(bound, log(max(mass[max(0, lowest + reach) :].sum(), SMALLEST_P)))


def direction_p(evidence, pattern, known, symmetric):
    """Return the part of the sphere as near to the evidence as the pattern, and its dimensions."""
    K = len(evidence)
    entries = [(i, j) for i in range(K) for j in range(K) if i < j or (i > j and not symmetric)]
    units = np.array([np.eye(1, K * K, i * K + j)[0].reshape(K, K) for i, j in entries])
    units = (units + units.swapaxes(1, 2)) / np.sqrt(2) if symmetric else units
    # The space: no row has a sum, or a part along what is known.
    constraints = np.concatenate([units.sum(2), (units * known).sum(2)], axis=1)
    _, sizes, basis = np.linalg.svd(constraints.T, full_matrices=False)
    outside, units = basis[sizes > 1e-9], units.reshape(len(units), -1)
    a, b = (
        part - part @ outside.T @ outside
        for part in (units @ evidence.ravel(), units @ pattern.ravel())
    )
    num_dimensions = len(units) - len(outside)
    if num_dimensions < 2 or not a @ b > 0:
        return 1.0, num_dimensions
    # The density falls as fast as there are dimensions: the grid is as fine.
    angles = np.linspace(0, np.pi, 100_001 + 400 * num_dimensions)
    density = np.sin(angles) ** (num_dimensions - 2)
    nearer = angles <= np.arccos(min(1.0, a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    return max(density[nearer].sum() / density.sum(), SMALLEST_P), num_dimensions


def binomial_p(hits, K):
    """Return P(so many hits or more), each with chance 1 / K."""
    n = len(hits)
    logs = [
        lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - k * log(K) + (n - k) * log(1 - 1 / K)
        for k in range(hits.sum(), n + 1)
    ]
    return min(1.0, max(float(np.exp(logs).sum()), SMALLEST_P))


def project_out(matrix, known, least):
    """Return ``matrix`` without the part of each row along ``known``.

    The part is taken as ``least`` or more. What rounding leaves of a row is 0.
    """
    rest = matrix - np.maximum((matrix * known).sum(1, keepdims=True), least) * known
    return np.where(abs(rest) < 1e-5 * np.linalg.norm(matrix, axis=1, keepdims=True), 0.0, rest)


def report(p, level, evidence, statement, named, your_labels, options):
    """Print p, and what no file can show; return whether it is a claim, and the file's p right."""
    print(f"p is {p:.3g}; the file says {evidence['p']:.3g}, and a claim needs {level:.3g}")
    # The file's p counts the labels of whoever made it.
    their_labels = evidence["checked"]
    same_labels = your_labels is None and their_labels is None
    if your_labels is not None and their_labels is not None:
        same_labels = np.array_equal(your_labels, their_labels)
    if not same_labels:
        print("the file's p counts other labels than yours: the two aren't compared")
    seals = statement["seals"]
    for seal in named:
        print(f"the customer is number {seals.index(seal) + 1} of {len(seals)}")
    if not options.model:
        print("not checked: which model was marked (--model)")
    if not options.answers:
        print("not checked: that the answers are the suspect's (--answers; ask it yourself)")
    if statement["labels"] and your_labels is None:
        print("not counted: what the suspect mistakes for what (--labels, of your own)")
    if statement["beacon"] and level < LEVEL_WITH_BEACON:
        print("not looked up: the beacon's round (--round, --info, --published)")
    print("not checked: when the commitment was public, and whether its owner made others")
    # What rounding does on the grid can move p where few signs count.
    is_tiny = max(p, evidence["p"]) < 1e-290
    right = not same_labels or is_tiny or abs(np.log2(p / evidence["p"])) < 1
    reached = p <= level
    print("claimed" if reached and right else "not claimed" if right else "the file's p is WRONG")
    return reached and right


if __name__ == "__main__":
    main()
