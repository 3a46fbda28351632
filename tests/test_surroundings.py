"""Neither a variable that a library reads nor a file where we stand changes a record."""

import copy
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from helpers import ROOT
from helpers.cells import composed
from softmark.experiment.run import run_cell

# Whose sources are searched for what they read: each variable is set to 1.
SEARCHED = (
    *("pytorch_lightning", "lightning_fabric", "lightning_utilities", "torchmetrics"),
    *("hydra", "omegaconf", "datasets", "huggingface_hub", "filelock"),
)
READS = re.compile(
    r"""(?:getenv|environ(?:\.get|\.pop|\.setdefault)?)\s*[\[(]\s*f?["']([A-Z][A-Z0-9_]*)["']"""
    r"""|["']([A-Z][A-Z0-9_]+)["']\s+(?:not\s+)?in\s+os\.environ"""
)
SLOW = ("EAGER_IMPORT",)  # imports all of huggingface_hub

# A part of a training for the whole, another precision, more devices, one of many jobs.
LIGHTNING = {
    "PL_TRAINER_ACCELERATOR": "gpu",
    "PL_TRAINER_ACCUMULATE_GRAD_BATCHES": "7",
    "PL_TRAINER_BAREBONES": "True",
    "PL_TRAINER_DEFAULT_ROOT_DIR": "/nowhere",
    "PL_TRAINER_DETECT_ANOMALY": "True",
    "PL_TRAINER_DETERMINISTIC": "True",
    "PL_TRAINER_DEVICES": "4",
    "PL_TRAINER_FAST_DEV_RUN": "1",
    "PL_TRAINER_GRADIENT_CLIP_VAL": "0.001",
    "PL_TRAINER_LIMIT_TRAIN_BATCHES": "1",
    "PL_TRAINER_LOGGER": "True",
    "PL_TRAINER_MAX_EPOCHS": "7",
    "PL_TRAINER_MAX_STEPS": "1",
    "PL_TRAINER_MAX_TIME": "00:00:00:00",
    "PL_TRAINER_MIN_EPOCHS": "9",
    "PL_TRAINER_NUM_NODES": "3",
    "PL_TRAINER_OVERFIT_BATCHES": "1",
    "PL_TRAINER_PRECISION": "bf16-true",
    "PL_TRAINER_PROFILER": "simple",
    "PL_TRAINER_STRATEGY": "ddp",
    "SLURM_NTASKS": "4",
    "SLURM_JOB_NAME": "sweep",
    "SLURM_NODELIST": "node[1-2]",
    "SLURM_PROCID": "3",
    "RANK": "3",
    "LOCAL_RANK": "3",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "nowhere",
    "TORCHELASTIC_RUN_ID": "x",
}
# Read by its Python files and, as far as they are named there, by its libraries. What chooses among
# the processor's instructions is as another processor, and a record names it (test_provenance.py).
TORCH = {
    "CUDA_VISIBLE_DEVICES": "",
    "LRU_CACHE_CAPACITY": "1",
    "KMP_DUPLICATE_LIB_OK": "1",
    "MKL_DYNAMIC": "TRUE",
    "NVIDIA_TF32_OVERRIDE": "1",
    "OMP_DYNAMIC": "TRUE",
    "OMP_SCHEDULE": "dynamic,1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "PYTORCH_JIT": "0",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "PYTORCH_TENSOREXPR_FALLBACK": "2",
    "TORCHDYNAMO_DISABLE": "1",
    "TORCHDYNAMO_SUPPRESS_ERRORS": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "TORCH_BLAS_PREFER_CUBLASLT": "1",
    "TORCH_CHECK_TENSOR_SUBTYPE": "0",
    "TORCH_COMPILE_DISABLE": "1",
    "TORCH_CUDNN_V8_API_DISABLED": "1",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    "TORCH_FAKE_TENSOR_DISPATCH_CACHE": "0",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    "TORCH_LINEAR_FLATTEN_3D": "1",
    "TORCH_MKLDNN_MATMUL_MIN_DIM": "1",
    "TORCH_MKLDNN_MATMUL_MIN_SIZE": "1",
}
# Of Python, git, Hydra, W&B (whose every setting can be given so) and the libraries of data.
OTHERS = {
    "GIT_DIR": "/nowhere",
    "HYDRA_MAIN_MODULE": "no.such.module",
    "HF_DATASETS_IN_MEMORY_MAX_SIZE": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HF_HOME": "nowhere",
    "LC_ALL": "C",
    "PYTHONHASHSEED": "12345",
    "TZ": "Pacific/Kiritimati",
    "WANDB_CONFIG_PATHS": "nowhere.yaml",
    "WANDB_DISABLED": "true",
    "WANDB_MODE": "online",
    "WANDB_RUN_ID": "x",
    "WANDB_SWEEP_ID": "x",
}
# When and where it was made, and how it was said.
VOLATILE = ("date", "seconds", "stage_seconds", "path", "overrides", "made")


def read_by_libraries():
    names = set()
    for library in SEARCHED:
        (root,) = importlib.util.find_spec(library).submodule_search_locations
        for file in Path(root).rglob("*.py"):
            names.update(a or b for a, b in READS.findall(file.read_text(errors="replace")))
    return names.difference(SLOW)


def write_data(folder):
    random = np.random.default_rng(0)
    pictures = []
    noise = random.integers(256, size=(300, 8, 8), dtype=np.uint8)
    noise[240:] = noise[:60]  # copies, of which two parties would hold some
    for pixels in noise:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        pictures.append(file.getvalue())
    folder.mkdir()
    table = pyarrow.table({"image": pictures, "label": np.arange(300) % 10})
    pyarrow.parquet.write_table(table, folder / "train.parquet")


def test_nothing_around_a_run_changes_its_record(tmp_path):
    write_data(tmp_path / "data")
    # Small, and one process: what is tried is what is around it.
    overrides = (
        *("data=hub", f"data.path={tmp_path / 'data'}", "model.width=8", "method=csp"),
        *("attack=none", "innocents.calibration=0", "innocents.evaluation=0", "recipe.epochs=1"),
        *("verifier.probes=50", "trainer.accelerator=cpu", "trainer.threads=1"),
        *("trainer.workers=1", "precision=32-true"),
    )
    config = copy.deepcopy(composed(overrides)) | {"output_dir": str(tmp_path / "quiet")}
    expected = run_cell(config, [], report=lambda line: None)
    assert 0 < expected["copies_left_out"] <= 60
    assert f"{expected['copies_left_out']} pictures are left out of the data" in " ".join(
        expected["warnings"]
    )

    found = read_by_libraries()
    assert found > {"SLURM_NTASKS", "PL_GLOBAL_SEED", "HF_HOME", "RANK", "USE_TORCH"}
    hostile = dict.fromkeys(found, "1") | LIGHTNING | TORCH | OTHERS
    here = tmp_path / "here"
    here.mkdir()
    # Under SLURM Lightning goes on from such a file, and unpickles it.
    (here / "hpc_ckpt_1.ckpt").write_text("no checkpoint")
    output = tmp_path / "loud"
    command = [sys.executable, str(ROOT / "run.py"), *overrides, "scale=smoke", "logger=csv"]
    process = subprocess.run(
        [*command, f"output_dir={output}"],
        cwd=here,
        env={**os.environ, **hostile},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    (record,) = (output / "records").glob("*.json")
    record = json.loads(record.read_text())
    for name in VOLATILE:
        record.pop(name, None)
        expected.pop(name, None)
    assert record == json.loads(json.dumps(expected))
    # One of many jobs writes its curves, too.
    assert list(output.glob("store/victim/*/curves/*/metrics.csv"))
