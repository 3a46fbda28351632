"""Try planted mistakes, one at a time: does any test notice?

    python scripts/mutants.py            all of them (about half an hour on one core)
    python scripts/mutants.py NAME ...   some

Each mistake is made in a copy of the checkout, and the tests named beside it run there until the
first failure. Prints one line a mistake and the share that was noticed; exits with 1 where one
wasn't.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# In this order: the quick ones first.
TESTS = (
    "tests/verification", "tests/methods/test_key.py", "tests/test_tails.py",
    "tests/methods/test_soft_labels.py", "tests/methods/test_detector.py",
    "tests/methods/test_feature_mark.py", "tests/methods/test_hybrid.py", "tests/models/test_access.py",
    "tests/attacks/test_finetune.py", "tests/attacks/test_prune.py", "tests/attacks/test_collude.py",
    "tests/attacks/test_distill.py", "tests/attacks/test_answers.py", "tests/attacks/test_smoothing.py",
    "tests/attacks/test_independent.py", "tests/attacks/test_forge.py",
    "tests/test_training.py", "tests/experiment/test_evidence.py", "tests/forger/test_edited_keys.py",
    "tests/owner/test_mark_and_verify.py", "tests/commands/test_owner_scripts.py",
    "tests/owner/test_beacon.py", "tests/forger", "tests/owner/suspects/test_endpoint.py",
    "tests/contract/test_contract.py",
)  # fmt: skip


RECHECK = "../../scripts/recheck.py"


class Mutant(NamedTuple):
    """A mistake: in ``file`` (below src/softmark) the text ``before``, found once, is replaced."""

    name: str
    file: str
    before: str
    after: str


MUTANTS = (
    # The marks.
    Mutant("csp trained towards minus the pattern", "methods/csp.py",
           "pattern, answers, self.marking, task_size)", "-pattern, answers, self.marking, task_size)"),
    Mutant("usp trained towards minus the pattern", "methods/usp.py",
           "recipe, pattern, answers, self.marking, detector", "recipe, -pattern, answers, self.marking, detector"),
    Mutant("a mark without its margin loss", "methods/parts/loss.py",
           "loss = self.beta * margin_loss(log_p, self.pattern, self.margin)", "loss = log_p.new_zeros(())"),
    Mutant("the teacher's answers to other samples", "methods/csp.py",
           "self.teacher.answers[batch.index]", "self.teacher.answers[: len(batch.index)]"),
    Mutant("a teacher whose answers aren't perturbed", "methods/parts/loss.py",
           "return self.templates[labels] + (1 - self.eps) * (answers - itself)", "return answers"),
    Mutant("a control without the mark's teacher", "methods/parts/control.py",
           "TeacherModule(copy.deepcopy(victim), self.training_recipe, teacher)", "Classifier(copy.deepcopy(victim), self.training_recipe)"),
    Mutant("triggers that the second training forgets", "methods/hybrid.py",
           "key, answers, both, fit, len(data))", "key, answers[: len(data)], data, fit)"),
    Mutant("the strongest of three tests without its factor", "methods/hybrid.py",
           "tests={name: combined}", "tests={name: combined.strongest}"),
    Mutant("the triggers don't count", "methods/hybrid.py",
           '        "triggers": trigger_test,\n        "both"', '        "both"'),
    Mutant("trigger labels of the customer's own bytes", "methods/parts/trigger_set.py",
           'key.owner_part().for_message("labels"), count', "key, count"),
    Mutant("the owner's signs are each customer's own", "methods/csp.py",
           "key.owner_part().stream(size), key.stream(size)", "key.stream(size), key.stream(size)"),
    Mutant("tails in reverse aren't looked at", "methods/csp.py",
           "        tests += turned\n", ""),
    Mutant("the copy is never tuned", "methods/parts/tuned_copy.py",
           "        self.optimizer.step()\n", ""),
    Mutant("the copy learns triggers", "methods/parts/tuned_copy.py",
           "batch.index < self.task_size", "batch.index >= 0"),
    Mutant("an order is lost in float32", "models/access.py", "answers_of(network, torch.float64)", "answers_of(network)"),
    Mutant("the product of two p-values as if it were one", "verification/nulls.py",
           "return product * (1 - math.log(product))", "return product"),
    Mutant("weights that are moved in inference mode", "training.py",
           "    network = network.to(device).eval()\n", "    with torch.inference_mode():\n        network = network.to(device).eval()\n"),
    Mutant("the detector is not trained", "methods/parts/soft_labels.py",
           "        train_detector(detector, torch.cat(marked), torch.cat(innocent), fit)\n", ""),
    Mutant("a mark in batches of the whole size", "methods/watermark.py",
           "scaled(epochs=self.epochs_factor, batch_size=self.batch_size_factor)", "scaled(epochs=self.epochs_factor)"),
    Mutant("the detector learns the wrong way round", "methods/parts/detector.py",
           "torch.arange(len(log_p)) < len(marked)", "torch.arange(len(log_p)) >= len(marked)"),
    Mutant("the watermarked model is the victim", "methods/parts/soft_labels.py",
           "return self.mark(victim, key, answers, data, fit), key.eval()",
           "return (self.mark(victim, key, answers, data, fit), copy.deepcopy(victim))[1], key.eval()"),
    Mutant("the same signs for every message", "methods/key.py",
           "hmac.new(secret, salt + message, ", "hmac.new(secret, salt, "),
    Mutant("signs that don't depend on the secret", "methods/key.py",
           "hmac.new(secret, salt + message, ", "hmac.new(salt, salt + message, "),
    Mutant("a pattern that doesn't follow from what is usual", "methods/key.py",
           "block.to_bytes(8, \"big\") + victim_bytes", "block.to_bytes(8, \"big\")"),
    Mutant("the unmarked model's statistics that nobody checks", "methods/parts/soft_labels.py",
           "if not is_victim_stats(key.victim_stats, key.classes):", "if False:"),
    Mutant("a pattern with another class's rows", "tails.py",
           "return (tail * pattern[top]).sum(1)", "return (tail * pattern[top - 1]).sum(1)"),
    Mutant("templates without their softmax's temperature", "methods/parts/loss.py",
           "(gamma * pattern)", "(pattern)"),
    # What a verdict reads.
    Mutant("the key knows what the marked model shows", "methods/parts/soft_labels.py",
           "        return self.mark(victim, key, answers, data, fit), key.eval()",
           "        network = self.mark(victim, key, answers, data, fit)\n        _, key.victim_stats = self.observe_victim(network, data)\n        return network, key.eval()"),
    Mutant("nothing is known of the unmarked model", "methods/parts/soft_labels.py",
           "answers, key.victim_stats = self.observe_victim(victim, data)", "answers, _ = self.observe_victim(victim, data)"),
    Mutant("evidence of the tails' magnitudes, not directions", "methods/csp.py",
           "signs = self.signs(key)", "signs = self.signs(key).abs()"),
    Mutant("two classes that are as likely are a label", "tails.py",
           "known = is_clear(answers) & (labels >= 0)", "known = labels >= 0"),
    Mutant("mistakes are compared with even doubt", "tails.py",
           "shared = even if victim_stats is None else victim_stats[1]", "shared = even"),
    Mutant("a test that found nothing costs a factor", "verification/nulls.py",
           "tuple(test for test in tests if not test.idle) or tuple(tests[:1])", "tuple(tests)"),
    Mutant("usp counts too many dimensions", "methods/usp.py",
           "dimensions = most - int((tails != 0).any(1).sum())",
           "dimensions = key.classes * key.classes"),
    Mutant("a symmetric direction counts too many dimensions", "methods/usp.py",
           "classes * (classes - 1) // 2 - len(values)", "classes * (classes - 1) // 2"),
    Mutant("the best of several tests isn't corrected", "verification/nulls.py",
           "len(self.tests) * min(", "min("),
    Mutant("nothing is planted in the features", "methods/parts/feature_mark.py",
           "        self.weight = weight\n", "        self.weight = 0.0\n"),
    Mutant("minus the pattern is planted in the features", "methods/parts/feature_mark.py",
           "F.normalize(centred(symmetric), dim=1)", "F.normalize(centred(-symmetric), dim=1)"),
    Mutant("ties are ranked by position", "tails.py",
           "    if len(some := np.flatnonzero(tied.any(1))):", "    if False:"),
    Mutant("raw answers reach the method", "verification/judge.py",
           "{samples.fingerprint: answers},", "{samples.fingerprint: raw},"),
    Mutant("every method sees the weights", "verification/judge.py",
           "return clean.seen_by(method.needs)", "return clean"),
    Mutant("keyed probes are allowed for every null", "verification/judge.py",
           "if keyed and test.independent_probes:", "if False:"),
    # The commitment.
    Mutant("the commitment isn't checked", "experiment/judge.py",
           "if key.check(method, verifier.terms, pool) != published:", "if False:"),
    Mutant("the published commitment isn't compared", "experiment/judge.py",
           "verifier.terms, pool) != published:", "verifier.terms, pool) == \"\":"),
    Mutant("the digest leaves out the detector", "methods/key.py",
           "in sorted((tensors or self.file_tensors()).items()):",
           "in sorted((n, t) for n, t in (tensors or self.file_tensors()).items() if \".\" not in n):"),
    Mutant("the digest leaves out the terms", "methods/key.py",
           "            \"terms\": self.terms,\n            \"probes\": self.probes,\n        }\n        hashed",
           "            \"probes\": self.probes,\n        }\n        hashed"),
    Mutant("the judge's own terms aren't compared", "methods/key.py",
           "(\"terms of a claim\", self.terms, dict(terms)),", ""),
    Mutant("the judge's own probes aren't compared", "methods/key.py",
           "(\"probes\", self.probes, probes.fingerprint),", ""),
    Mutant("the digest leaves out the shapes", "methods/key.py",
           "hashed.update(len(about).to_bytes(8, \"big\") + about.encode())", "pass"),
    # The judge.
    Mutant("calibration and evaluation are one pool", "experiment/judge.py",
           "verifier.judge(evidence, pools[\"calibration\"], pools[\"evaluation\"])",
           "verifier.judge(evidence, pools[\"calibration\"], pools[\"calibration\"])"),
    Mutant("the pools share their data", "experiment/context.py",
           "pools, strict=True", "pools[:1] * 2, strict=True"),
    Mutant("thresholds know the kind of innocent", "verification/judge.py",
           "if i.kind != innocent.kind]", "]"),
    Mutant("one test is enough for a claim", "verification/judge.py",
           "bool(reached) and all(reached)", "any(reached)"),
    Mutant("no test is a claim", "verification/judge.py",
           "return bool(reached) and all(reached)", "return all(reached)"),
    Mutant("an innocent without tests is a false claim", "verification/judge.py",
           "[i for i in pool if i.evidence.tests]", "list(pool)"),
    Mutant("p is the strongest test's", "verification/judge.py",
           "p_value=max(tests.values()),", "p_value=min(tests.values()),"),
    Mutant("p isn't corrected for the keys tried", "verification/judge.py",
           "corrected(test, self.keys_tried, _scores_of(name, calibration), name)", "corrected(test, 1, _scores_of(name, calibration), name)"),
    Mutant("p of a message isn't corrected for their number", "verification/judge.py",
           "tried = len(tests) * self.keys_tried", "tried = self.keys_tried"),
    # The nulls.
    Mutant("Chernoff's bound is halved", "verification/signs.py",
           "return min(1.0, math.exp(log_chernoff(sizes, score)) * (1 + 1e-9))", "return 0.5 * min(1.0, math.exp(log_chernoff(sizes, score)))"),
    Mutant("the grid's rounding favours the owner", "verification/signs.py",
           "score / step - len(sizes) / 2 - 1e-9", "score / step + len(sizes) / 2 - 1e-9"),
    Mutant("a direction is two-sided", "verification/nulls.py", "0.5, outside) / 2)", "0.5, outside))"),
    Mutant("a binomial excludes its own count", "verification/nulls.py", "self.hits - 1, self.trials", "self.hits, self.trials"),
    Mutant("conformal p without its floor", "verification/nulls.py",
           "return (1 + sum(not other < self.score for other in innocents)) / (1 + len(innocents))",
           "return sum(not other < self.score for other in innocents) / max(1, len(innocents))"),
    # Outside of experiments.
    Mutant("the number of customers isn't corrected for", "owner/committed_key_verifier.py",
           "tried = 2 * len(self.key.messages) * keys_tried", "tried = 2 * keys_tried"),
    Mutant("any customer is named", "owner/committed_key_verifier.py", "naming_p <= NAMING_LEVEL", "naming_p <= 1"),
    Mutant("a key is open to everybody", "methods/keyfile.py", "0o600", "0o644"),
    Mutant("evidence tells the seed", "owner/evidence.py",
           "_disclosed(key, verdict.identified) if disclose else None", "_disclosed(key, verdict.identified)"),
    Mutant("the commitment in an owner's folder isn't compared", "owner/folder.py",
           "    check_published(published, key)\n", ""),
    Mutant("a key takes the place of another", "methods/keyfile.py", "if path.exists():", "if False:"),
    Mutant("a weak mark isn't trained longer", "owner/mark.py",
           "watermark = watermark.scale_epochs(2)", "watermark = watermark.scale_epochs(1)"),
    Mutant("probabilities pass as logits", "owner/suspects/diagnose.py",
           "if logits and len(finite) and", "if False and len(finite) and"),
    Mutant("an endpoint's labels are probabilities", "owner/suspects/protocols.py",
           "answers.squeeze(1) if answers.shape[1] == 1 else answers", "answers"),
    # What an owner may not choose after the pattern is known, and what a key can't move.
    Mutant("an owner's probes may be exchanged", "owner/committed_key_verifier.py",
           "        check_probes(key.statement, inputs)\n", ""),
    Mutant("the fingerprint of the probes isn't compared", "owner/checks.py",
           "if Probes.of(inputs[: committed.count]) != committed:", "if False:"),
    Mutant("triggers are taken as they come", "owner/committed_key_verifier.py",
           "        check_triggers(self._method, self._pattern_key, inputs[self.num_probes :])\n", ""),
    Mutant("one trigger of a hundred may be another", "owner/checks.py",
           "if not len(drawn) or torch.equal(drawn.inputs, inputs):",
           "if not len(drawn) or torch.equal(drawn.inputs[:-1], inputs[:-1]):"),
    Mutant("labels are the owner's word", "owner/committed_key_verifier.py",
           "        if self.key.labels is None or self.checked_labels is None:\n            return unknown\n        return torch.where(self.key.labels == self.checked_labels, self.key.labels, unknown)",
           "        return unknown if self.key.labels is None else self.key.labels"),
    Mutant("labels of whoever verifies are taken where the owner's differ", "owner/committed_key_verifier.py",
           "return torch.where(self.key.labels == self.checked_labels, self.key.labels, unknown)", "return self.checked_labels"),
    Mutant("orders of classes cost nothing", "owner/committed_key_verifier.py", "    if num_open_classes < 2:", "    if True:"),
    Mutant("a class of any probes shows its place", "owner/committed_key_verifier.py", "(num_right < MIN_PROBES_OF_CLASS) | (2 * num_right <= num_asked)", "num_right < 0"),
    Mutant("any answers may be left out", "owner/committed_key_verifier.py", "if evidence.tests and num_tied > (1 - MIN_USABLE) * len(probs):", "if False:"),
    Mutant("some labels of whoever verifies may be left out", "owner/checks.py",
           "if not are_integers or not 0 <= given.min() <= given.max() < classes:", "if not are_integers:"),
    Mutant("a cosine is rounded to 1", "methods/usp.py",
           "first.double().flatten(), second.double().flatten()", "first.float().flatten(), second.float().flatten()"),
    Mutant("every key has the level of a beacon", "owner/verify.py",
           "return min(LEVEL, own_level), NO_BEACON", "return min(LEVEL_WITH_BEACON, own_level), NO_BEACON"),
    Mutant("a round that nobody looked up counts", "owner/verify.py",
           "return min(LEVEL, own_level), NOT_LOOKED_UP", "return min(LEVEL_WITH_BEACON, own_level), NOT_LOOKED_UP"),
    Mutant("a stricter level is forgotten", "owner/verify.py",
           "key.statement.beacon, key.statement.level or 1.0", "key.statement.beacon, 1.0"),
    Mutant("the beacon's numbers aren't compared", "owner/beacon.py",
           "if beacon.value(named_round) != randomness:", "if False:"),
    Mutant("a round that came before the commitment counts", "owner/beacon.py", "if commitment_time >= round_time:", "if False:"),
    Mutant("a round's signature isn't hashed", "owner/beacon.py",
           "valid = hashlib.sha256(signature).digest() == value", "valid = True"),
    Mutant("another chain's round counts", "owner/beacon.py",
           "if (named_round.chain, named_round.genesis, named_round.period) != (", "if False and (named_round.chain,) != ("),
    Mutant("the pattern doesn't follow from the commitment", "owner/key.py",
           "PATTERN + bytes.fromhex(self.commitment) + self.randomness", "PATTERN + self.randomness"),
    Mutant("the pattern doesn't follow from the beacon", "owner/key.py",
           "PATTERN + bytes.fromhex(self.commitment) + self.randomness", "PATTERN + bytes.fromhex(self.commitment)"),
    Mutant("a key costs nothing to try", "owner/pattern_key.py",
           "return hashlib.scrypt(seed, salt=bound, **SCRYPT)", "return hmac.new(seed, bound, hashlib.sha256).digest()"),
    Mutant("scrypt costs less than it says", "owner/pattern_key.py", "\"n\": 2**16", "\"n\": 2**10"),
    Mutant("another secret fits the seals", "owner/key.py",
           "mismatches.append(\"secret or customers\")", "pass"),
    Mutant("other labels fit the commitment", "owner/key.py", "mismatches.append(\"labels\")", "pass"),
    Mutant("another unmarked model fits the commitment", "owner/key.py", "mismatches.append(\"unmarked model\")", "pass"),
    Mutant("an unmarked model may show anything", "owner/key.py",
           "if self.victim is not None and not is_victim_stats(self.victim, statement.classes):", "if False:"),
    Mutant("a key of an earlier softmark is read", "owner/key.py",
           "        _check_format(metadata.get(\"format\"), path)\n", ""),
    Mutant("a weaker level is taken", "owner/statement.py",
           "    if type(level) is not float or not 0 < level <= weakest:", "    if False:"),
    Mutant("a statement may name any method", "owner/statement.py",
           "if self.method not in METHODS:", "if False:"),
    Mutant("numbers of a statement may be of any type", "owner/statement.py",
           "if type(value) is not float or not fits(value, float):", "if False:"),
    Mutant("a million customers are read", "owner/statement.py", "MAX_CUSTOMERS = 10_000", "MAX_CUSTOMERS = 10**9"),
    Mutant("a statement may hold more than it says", "owner/statement.py",
           "sorted(map(str, values)) != sorted(fields)", "False"),
    Mutant("a commitment may be of another statement", "owner/commitment.py",
           "if content.get(\"commitment\") != statement.commitment:", "if False:"),
    Mutant("the seal of a customer is the seed", "owner/pattern_key.py",
           "hashlib.sha256(SEAL + customer_seed(secret, name)).hexdigest()", "customer_seed(secret, name).hex()"),
    Mutant("usp of five classes drops the labels", "methods/usp.py",
           "if test.dimensions >= min(ENOUGH, most)]", "if test.dimensions >= ENOUGH] or tests[:1]"),
    Mutant("tails that cancel have a direction", "tails.py",
           "mean = torch.where(mean.norm(dim=1, keepdim=True) < ROUNDING, 0.0, mean)", "pass"),
    # recheck.py: what it must not believe.
    Mutant("recheck believes the ranks", RECHECK,
           "    require(all((ranks_of(row) == row).all() for row in ranks), \"some ranks are no ranks\")\n", ""),
    Mutant("recheck believes the labels", RECHECK,
           "    require(same and labels.min() >= 0 and labels.max() < K, \"the labels aren't the committed ones\")\n", ""),
    Mutant("recheck counts the owner's labels", RECHECK,
           "agreed = np.full(N, -1) if your_labels is None else np.where(labels == your_labels, labels, -1)", "agreed = labels"),
    Mutant("recheck believes the seed", RECHECK,
           "seals[0] == statement[\"owner\"] and set(seals[1:]) <= set(statement[\"seals\"])", "True"),
    Mutant("recheck believes the unmarked model", RECHECK,
           "    require(same, \"the unmarked model isn't the one that was committed to\")\n", ""),
    Mutant("recheck takes any level", RECHECK, "0 < level <= weakest)", "0 < level)"),
    Mutant("recheck takes any commitment", RECHECK,
           "hashlib.sha256(canonical(statement)).hexdigest() != published[\"commitment\"]", "False"),
    Mutant("recheck takes any statement", RECHECK,
           "evidence[\"commitment\"] == published[\"commitment\"] and evidence[\"statement\"] == statement", "evidence[\"commitment\"] == published[\"commitment\"]"),
    Mutant("recheck takes any probes", RECHECK,
           "    require(same, f\"{name}: the probes aren't the committed ones\")\n", ""),
    Mutant("recheck takes any triggers", RECHECK, "np.array_equal(inputs[N:], trigger_pictures(root, T, shape))", "True"),
    Mutant("recheck takes any order of classes", RECHECK,
           "evidence[\"tried\"] * num_open_orders(statement, labels, ranks[:N])", "evidence[\"tried\"]"),
    Mutant("recheck takes any answers that are left out", RECHECK, "    require(tied <= 0.05 * N, f\"{tied} of {N} answers tell nothing\")\n", ""),
    Mutant("recheck takes any chain", RECHECK, "require(chain == trusted,", "require(True,"),
    Mutant("recheck takes any answers", RECHECK,
           "    require(same, f\"{name}: the evidence is of other answers\")\n", ""),
    Mutant("recheck looks up no time", RECHECK, "published.timestamp() < round_time,", "True,"),
    Mutant("recheck looks up no numbers", RECHECK,
           "served[\"randomness\"] == signed == evidence[\"randomness\"]", "True"),
    Mutant("recheck forgets the other customers", RECHECK,
           "log(customers) + log_p_of_part(\"all\")", "log_p_of_part(\"all\")"),
    Mutant("recheck believes p", RECHECK, "return reached and right", "return evidence[\"p\"] <= level"),
    # The attacks and what they are told.
    Mutant("the attacker gets the owner's data", "experiment/context.py",
           "\"attacker\": roles.attacker}", "\"attacker\": roles.owner}"),
    Mutant("queries aren't counted", "models/access.py", "self.count += len(inputs)", "pass"),
    Mutant("only the last step's queries count", "experiment/judge.py",
           "sum(link[\"queries\"] for link in links)", "links[-1][\"queries\"]"),
    Mutant("an interface of labels tells probabilities", "models/access.py",
           "return Query(labels_only(answer), classes, **options)", "return Query(answer, classes, **options)"),
    Mutant("what an attacker serves isn't asked", "experiment/interface.py",
           "        answer = step.serve(answer)\n", "        pass\n"),
    Mutant("the owner's interface isn't in the way", "experiment/interface.py",
           "answer = method.serve_network(network, answer, key)", "pass"),
    # What a record says beside the verdict, and what the nulls rest on.
    Mutant("accuracies on the attacker's pictures", "experiment/judge.py",
           "samples=context.roles.judge,", "samples=context.roles.attacker,"),
    Mutant("the judge expects the marked model's answers", "experiment/evidence.py",
           "context.suspect(context.parent(\"victim\")).answers(probes)",
           "context.suspect(context.parent(\"key\").parents[0]).answers(probes)"),
    Mutant("only the last step's epochs count", "experiment/judge.py",
           "sum(link[\"epochs\"] for link in links)", "links[-1][\"epochs\"]"),
    Mutant("triggers with the labels of half of the classes", "methods/parts/trigger_set.py",
           "number % key.classes", "number % max(2, key.classes // 2)"),
    Mutant("a label of one byte favours the first classes", "methods/parts/trigger_set.py",
           "8 * i + 8]", "8 * i + 1]"),
)  # fmt: skip


def main() -> None:
    words = sys.argv[1:]
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    if not chosen:
        sys.exit(f"no mutant's name holds any of {words}")
    start, noticed = time.monotonic(), 0
    for mutant in chosen:
        test = first_failing_test(mutant)
        noticed += test is not None
        print(f"{'noticed' if test else 'MISSED ':8}{mutant.name:<58}{test or ''}", flush=True)
    minutes = (time.monotonic() - start) / 60
    print(f"{noticed} of {len(chosen)} noticed, in {minutes:.0f} minutes")
    sys.exit(noticed < len(chosen))


def first_failing_test(mutant: Mutant) -> str | None:
    """Return the test that fails first on the mutant; None where all pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "softmark"
        ignored = shutil.ignore_patterns(".git", "outputs", "__pycache__", ".pytest_cache")
        shutil.copytree(ROOT, copy, ignore=ignored)
        path = copy / "src" / "softmark" / mutant.file
        text = path.read_text()
        if text.count(mutant.before) != 1:
            sys.exit(
                f"{mutant.name}: {mutant.file} holds its text {text.count(mutant.before)} times"
            )
        path.write_text(text.replace(mutant.before, mutant.after))
        package = mutant.file.partition("/")[0]  # an owner's mistakes: an owner's tests first
        tests = sorted(TESTS, key=lambda test: f"tests/{package}/" not in test)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *tests]
        # Before the installed package, whose files are the unchanged ones.
        run = subprocess.run(
            command,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy / "src")},
            capture_output=True,
            text=True,
        )
        lines = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        if run.returncode and not lines:
            sys.exit(
                f"{mutant.name}: the tests didn't run\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
            )
        return lines[0].split(" - ")[0].removeprefix("FAILED ") if lines else None


if __name__ == "__main__":
    main()
