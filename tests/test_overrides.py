"""What is said of a command line that can't work, before anything runs."""

import pytest

from softmark.errors import InputError
from softmark.overrides import check


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["method=uspp"], ["method=uspp", "did you mean usp", "csp"]),
        (["attack=foo"], ["attack=foo", "distill", "finetune"]),
        (["data=mnist"], ["data=mnist", "cifar10", "digits"]),
        (["model=resnet"], ["model=resnet", "resnet18"]),
        (["scale=huge"], ["scale=huge", "smoke"]),
        (["method/detector=tree"], ["method/detector=tree", "linear", "mlp"]),
        (["atack=none"], ["atack", "did you mean attack"]),
        (["attack=prune", "attack.sparsty=.5"], ["attack.sparsty", "attack.sparsity"]),
        (["recipe.epochs=foo"], ["recipe.epochs=foo", "text", "whole number"]),
        (["recipe.epochs=1.5"], ["recipe.epochs=1.5", "whole number"]),
        (["recipe.lr=true"], ["recipe.lr=True", "must be a number"]),
        (["recipe.flip=1"], ["recipe.flip=1", "true or false"]),
        (["seed=abc"], ["seed=abc", "whole number"]),
        (["method.message=17"], ["method.message=17", "text"]),
        (["verifier=5"], ["verifier=5", "standard"]),
        (["method=usp,csp"], ["-m"]),
        (["method=usp,"], ["method=usp,", "can't be read"]),
        (["foo"], ["foo", "KEY=VALUE"]),
        (["-m", "method=usp,foo", "attack=none"], ["method=foo"]),
        (["-m", "method=usp", "seed=0,x"], ["seed=x"]),
        (["output_dir=/proc/version/out"], ["output_dir=/proc/version/out", "can't be written"]),
    ],
)
def test_a_wrong_override_is_named(line, words, tmp_path):
    if not any(part.startswith("output_dir") for part in line):
        line = [*line, f"output_dir={tmp_path}"]
    with pytest.raises(InputError) as error:
        check(line)
    for word in words:
        assert word in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["-m", "method=usp,csp", "attack=finetune,prune,distill"],
        ["-m", "method=usp,csp", "seed=range(0,5)"],
        ["method=usp", "method/detector=linear", "attack/student=hard"],
        ["model@attack.network=convnet", "attack.network.width=64"],
        ["recipe.lr=1"],
        ["data=hub", "data.name=uoft-cs/cifar100"],
        ["data=cifar10", "data.path=/somewhere"],
        ["verifier.levels.signs=1e-9"],
        ["method.message='17'"],
        ["trainer.threads=2"],
    ],
)
def test_a_right_line_passes(line, tmp_path):
    check([*line, f"output_dir={tmp_path}"])
