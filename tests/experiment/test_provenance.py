"""With what a record is made, and which precision a machine computes in."""

import pytest

from softmark.experiment import provenance
from softmark.experiment.plan import plan

CPU = "flags\t\t: fpu avx512f"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(bf16=True, driver=True)``: what /proc says; torch is built with CUDA."""
    monkeypatch.setattr(provenance, "Path", lambda name: tmp_path / name.lstrip("/"))
    monkeypatch.setattr(provenance.importlib.metadata, "version", lambda name: "2.13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(*, bf16, driver):
        (tmp_path / "proc" / "driver" / "nvidia").mkdir(parents=True)
        (tmp_path / "proc" / "cpuinfo").write_text(CPU + " avx512_bf16" * bf16)
        if driver:
            (tmp_path / "proc" / "driver" / "nvidia" / "version").touch()

    return make


@pytest.mark.parametrize("bf16", [False, True])
def test_a_gpu_that_is_not_used_decides_no_precision(machine, monkeypatch, bf16):
    machine(bf16=bf16, driver=True)
    on_cpu = "bf16-mixed" if bf16 else "32-true"
    assert provenance.precision("auto", "cpu") == on_cpu
    assert provenance.precision("auto", "auto") == "bf16-mixed"
    assert provenance.precision("auto", "gpu") == "bf16-mixed"
    assert provenance.precision("32-true", "gpu") == "32-true"
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert provenance.precision("auto", "auto") == on_cpu
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(provenance.importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert provenance.precision("auto", "auto") == on_cpu


def test_without_a_gpu_the_processor_decides(machine):
    machine(bf16=False, driver=False)
    assert provenance.precision("auto", "auto") == "32-true"


def test_a_plan_takes_the_precision_of_its_device(machine, cell):
    config = {**cell(), "precision": "auto"}
    machine(bf16=False, driver=True)
    victims = {}
    for accelerator in ("cpu", "auto"):
        config["trainer"] = {**config["trainer"], "accelerator": accelerator}
        victims[accelerator] = plan(config, "0" * 64).victim.config["precision"]
    assert victims == {"cpu": "32-true", "auto": "bf16-mixed"}


def test_a_processor_that_is_kept_from_its_instructions_is_named(monkeypatch):
    for name in provenance.INSTRUCTIONS:
        monkeypatch.delenv(name, raising=False)
    plain = provenance.processor.__wrapped__()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert provenance.processor.__wrapped__() == f"{plain} (ATEN_CPU_CAPABILITY=default)"


def test_a_gpu_that_is_told_another_float32_is_named(monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert "TF32" not in provenance.machine.__wrapped__()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    assert provenance.machine.__wrapped__().endswith(", a GPU (NVIDIA_TF32_OVERRIDE=1)")
