"""Overrides that were written for an earlier version, and what a table's glob(...) means."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from helpers import ROOT
from softmark.errors import InputError
from softmark.renamed import ATTACKS, KEYS, METHOD, current
from softmark.sweep.command_line import check_arguments, expand_sweep, to_hydra_arguments
from softmark.sweep.override_check import compose_checked, parse_override

ROBUSTNESS = [
    "adaptive_evade", "adaptive_overwrite", "adaptive_search", "collude_answers",
    "collude_ensemble", "collude_weights", "distill", "distill_60", "distill_averaged",
    "distill_boundary", "distill_datafree", "distill_ensemble", "distill_finetune",
    "distill_finetune_prune", "distill_flat", "distill_hard", "distill_hot", "distill_labelled",
    "distill_larger", "distill_mixtures", "distill_noise", "distill_other", "distill_photographs",
    "distill_recovered", "distill_recovered_bayes", "distill_rounded", "distill_shuffled",
    "distill_subtracted", "distill_swapped", "distill_tenth", "distill_top3", "distill_twice",
    "distill_unaugmented",
    "finetune", "finetune_20", "finetune_60", "finetune_adversarial", "finetune_few",
    "finetune_full", "finetune_highest", "finetune_last", "finetune_refit",
    "finetune_refit_unlabelled", "finetune_sam", "finetune_self_distill",
    "finetune_self_distill_flat", "finetune_smoothed", "finetune_smoothed_answers",
    "finetune_tenth", "finetune_weak", "input_blur", "input_jpeg", "input_levels", "input_median",
    "input_mirror", "input_noise", "input_smoothing", "none", "prune", "prune_bnp", "prune_clp",
    "prune_filters", "prune_filters_finetune", "prune_finetune", "prune_inactive", "prune_layers",
    "prune_layers_finetune", "prune_limit", "repair_anp", "repair_dehydrate", "repair_fine_prune",
    "repair_forget", "repair_launder", "repair_nad", "repair_neural_cleanse", "repair_rnp",
    "repair_sau", "repair_unlearn", "repair_wrk", "retrain",
    "retrain_evade", "retrain_few", "retrain_flat", "retrain_full", "retrain_last", "retrain_lda",
    "retrain_lda_calibrated", "retrain_lda_few", "retrain_lda_shrunk", "retrain_logistic",
    "retrain_neighbours", "retrain_shift", "retrain_swapped", "serve_calibrated",
    "serve_calibrated_flat", "serve_flat", "serve_labels", "serve_mad", "serve_mad_argmax",
    "serve_mean", "serve_noise", "serve_noise_biased", "serve_noise_uniform", "serve_own_tail",
    "serve_reverse_sigmoid", "serve_rounded", "serve_sharpened_rounded", "serve_shuffled",
    "serve_subtracted", "serve_sure", "serve_swapped", "serve_temperature", "serve_top3",
    "weights_average_independent", "weights_average_path", "weights_average_student",
    "weights_connect", "weights_l2", "weights_l2_finetune", "weights_noise", "weights_obfuscate",
    "weights_quantise", "weights_quantise_aware", "weights_rescale", "weights_shift",
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("attack=nad", "attack=repair_nad"),
        ("+attack=l2", "+attack=weights_l2"),
        ("attack='nad'", "attack='repair_nad'"),
        ("attack=none,l2,l2_finetune,anp", "attack=none,weights_l2,weights_l2_finetune,repair_anp"),
        ("attack=choice(forge, search)", "attack=choice(adaptive_forge, adaptive_search)"),
        ("attack=glob(*,exclude=[search])", "attack=glob(*,exclude=[adaptive_search])"),
        ("attack@attack.steps.1=quantise", "attack@attack.steps.1=weights_quantise"),
        ("/attack@innocents.attacks.x=ensemble", "/attack@innocents.attacks.x=collude_ensemble"),
        ("attack.share=0.2", "attack.fraction=0.2"),
        ("attack.steps.1.share=0.2,0.3", "attack.steps.1.fraction=0.2,0.3"),
        ("++attack.labels=0.2", "++attack.label_weight=0.2"),
        ("method.length=2.0", "method.epochs_factor=2.0"),
        ("+method.control.length=2.0", "+method.control.epochs_factor=2.0"),
        ("method.soft.batch=1", "method.soft.batch_size_factor=1"),
        ("method.triggers.count=10,20", "method.triggers.num_triggers=10,20"),
        ("method.share=0.1", "method.trigger_fraction=0.1"),
        ("innocents.methods.csp.length=1", "innocents.methods.csp.epochs_factor=1"),
        ("data.source.name=some/set", "data.source.dataset=some/set"),
        ("scale.forged=5", "scale.forged_keys=5"),
        ("scale.redrawn=5", "scale.redrawn_keys=5"),
        ("scale.searched=5", "scale.search_trials=5"),
        ("~scale.searched", "~scale.search_trials"),
    ],
)
def test_an_old_name_means_the_new_one_and_is_answered_with_one_line(old, new, capsys):
    assert current([old, "seed=1", old]) == [new, "seed=1", new]
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert len(set(lines)) == len(lines)
    assert all(line.startswith("note: ") and line.endswith(" now") for line in lines)


@pytest.mark.parametrize(
    "line",
    [
        "attack=finetune,prune,distill,none,serve,retrain",
        "attack=glob(*l2*)",
        "attack/change=subtract",
        "attack.student.temperature=2.0",
        "attack.steps.2.temperature=1",
        "method.temperature=0.5",
        "method.detector.batch=5",
        "method.simulated_attacks.share=5",
        "method=ewe",
        "innocents.kinds.x={attack: ensemble}",
        "output_dir=/tmp/attack=nad/search",
        "table=unambiguity",
        "-m",
        "--cfg",
        "--attack=nad",
        "",
        "=",
    ],
)
def test_what_was_not_renamed_stays(line, capsys):
    assert current([line]) == [line]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("old", ATTACKS)
def test_each_old_attack_is_gone_and_its_new_name_is_there(old):
    assert not (ROOT / f"conf/attack/{old}.yaml").exists()
    name = OmegaConf.load(ROOT / f"conf/attack/{ATTACKS[old]}.yaml").name
    assert name == ATTACKS[old]


def test_each_new_key_is_in_a_config_and_the_old_one_in_none():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        chosen = [
            *("attack=distill_labelled", "attack=prune_filters", "data=hub"),
            *("method=csp", "method=usp_margin", "method=margin", "method=dawn"),
        ]
        configs = [OmegaConf.to_container(compose("config", [choice])) for choice in chosen]
    groups = [(name, node) for config in configs for name, node in config.items()]
    groups += [("data.source", config["data"]["source"]) for config in configs]
    known = {f"{group}.{name}" for group, node in groups if isinstance(node, dict) for name in node}
    for place, old, new in KEYS:
        plain = place.replace("\\", "").partition("(")[0].rstrip(".")
        group = "method" if place == METHOD else plain
        assert f"{group}.{new}" in known, new
        assert f"{group}.{old}" not in known, old


def test_the_share_of_dawn_is_one_of_inputs(capsys):
    line = ["method=dawn", "method.share=0.1"]
    assert current(line) == ["method=dawn", "method.input_fraction=0.1"]
    assert capsys.readouterr().err == "note: method.share is called method.input_fraction now\n"
    assert compose_checked("config", line)["method"]["input_fraction"] == 0.1


def test_a_sweep_of_old_names_is_one_of_the_new(capsys):
    line = current(["-m", "attack=nad,prune_filters", "attack.share=0.1", "scale.searched=3"])
    assert to_hydra_arguments(line)[2] == "attack.fraction=0.1,0.1"
    assert [cell[0] for cell in expand_sweep(line[1:])] == [
        "attack=repair_nad",
        "attack=prune_filters",
    ]
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_the_settings_of_an_owner_may_have_old_names(capsys):
    assert compose_checked("config", ["attack=nad"]) == compose_checked(
        "config", ["attack=repair_nad"]
    )
    assert "attack=repair_nad" in capsys.readouterr().err


def test_run_py_takes_an_old_name_and_says_the_new_one():
    line = [sys.executable, "run.py", "--cfg", "job", "attack=prune_filters", "attack.share=0.25"]
    result = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "fraction: 0.25" in result.stdout
    assert result.stderr == "note: attack.share is called attack.fraction now\n"


# --- glob(...) ---------------------------------------------------------------------------------


def attacks_of(line: str) -> list[str]:
    cells = [dict(text.split("=", 1) for text in cell) for cell in expand_sweep([line])]
    return list(dict.fromkeys(cell["attack"] for cell in cells))


def test_the_robustness_table_has_every_attack_that_is_one():
    # Repairs that leave the trigger patterns which they were published against: docs/attacks.md.
    unproven = {"prune_bnp", "prune_clp"}
    assert set(attacks_of("table=robustness")) == set(ROBUSTNESS) - unproven
    left_out = {path.stem for path in (ROOT / "conf/attack").glob("*.yaml")} - set(ROBUSTNESS)
    assert left_out == {"serve", "adaptive_forge", "innocent_independent", "innocent_similarity"}


def test_the_tables_of_a_family_have_what_they_had():
    served = [name for name in ROBUSTNESS if name.startswith(("serve_", "input_"))]
    assert sorted(attacks_of("table=served")) == sorted(["none", *served])
    assert attacks_of("table=adaptive") == [
        *("none", "adaptive_evade", "adaptive_overwrite", "adaptive_search"),
        *("distill_flat", "distill_shuffled", "distill_subtracted", "distill_swapped"),
        *("retrain_flat", "retrain_swapped", "retrain_evade"),
    ]


def test_a_glob_keeps_the_order_of_its_patterns_and_sorts_within_one():
    line = "attack=glob([none,input_j*,input_*,none], exclude=[input_b*])"
    override = parse_override(line)
    assert (override.input_line, override.is_sweep_override()) == (line, True)
    assert list(override.sweep_string_iterator()) == [
        *("none", "input_jpeg", "input_levels", "input_median", "input_mirror"),
        *("input_noise", "input_smoothing"),
    ]
    assert check_arguments(["-m", line, "method=usp"])["attack"]["name"] == "none"
    assert len(expand_sweep([line, "method=glob([?sp])"])) == 14


@pytest.mark.parametrize("line", ["attack=glob(nothing_*)", "nothing=glob(*)", "seed=glob(*)"])
def test_a_glob_that_matches_nothing_is_refused(line):
    with pytest.raises(InputError, match="matches"):
        parse_override(line)


def test_a_glob_is_a_sweep():
    with pytest.raises(InputError, match="add -m"):
        check_arguments(["attack=glob(input_*)"])
