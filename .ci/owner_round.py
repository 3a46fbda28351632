"""An owner's whole round, with an installed softmark, in the folder where this is called.

    python owner_round.py CHECKOUT

It runs the owner's blocks of README.md and docs/owners.md as they stand there, a locked key,
triggers, customers, a server with a password, and a training of one's own with checkpoints and
Weights & Biases. Then it looks for each secret in every file and in all that was printed. It exits
with 1 where one is found, or where something doesn't end as it must.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import resource
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import softmark

PASSPHRASE = "correct horse 7f3a"
HEADER = "Basic aHVudGVyMjpodW50ZXIy=="
BUILDER = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
"""
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> Iterator[str]:
    """Yield the blocks of a page that are run."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        marked = re.search(r"<!-- [^>]+ -->\n\Z", text[: found.start()])
        if found[1] == language and not marked:
            yield found[2]


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits as rows of 64 floats, and their labels."""
    inputs, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(inputs / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]


def trained() -> nn.Module:
    """Return an unmarked model of the digits."""
    torch.manual_seed(0)
    model, (inputs, labels) = (
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        digits(),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        for index in torch.randperm(1000).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[index]), labels[index]).backward()
            optimizer.step()
    return model.eval()


def run(folder: Path, *words: object, code: int = 0, **environment: str) -> str:
    """Run the command softmark in ``folder``; keep, check and return what it printed."""
    command = ["softmark", *map(str, words)]
    ran = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}
    )
    log = Path(f"printed-{len(list(Path().glob('printed-*')))}.txt")
    log.write_text(f"{' '.join(command[:3])}\n{ran.stdout}{ran.stderr}")
    if ran.returncode != code:
        sys.exit(f"{' '.join(command)}: {ran.returncode}, not {code}\n{ran.stdout}{ran.stderr}")
    return ran.stdout + ran.stderr


def pages_of_python(checkout: Path) -> None:
    """Run the Python of README.md's owner section and of docs/owners.md."""
    inputs, labels = digits()
    for page in ("README.md", "docs/owners.md"):
        folder = Path(f"python of {Path(page).stem}")
        folder.mkdir()
        names = {"model": trained(), "data": (inputs[:800], labels[:800])}
        names |= {"probes": inputs[1000:1500], "probe_labels": labels[1000:1500]}
        here = Path.cwd()
        os.chdir(folder)
        try:
            for code in blocks(checkout / page, "python"):
                if code.startswith("# src/"):  # a file that another section writes
                    continue
                exec(compile(code, page, "exec"), names)
                if "marked" in names:
                    names.setdefault("suspect", names["marked"].model)
        finally:
            os.chdir(here)
        if not names["verdict"].claimed:
            sys.exit(f"{page}: the verdict is {names['verdict']}")


def terminal(checkout: Path) -> None:
    """Run the bash of docs/owners.md, and what it leaves out: disclosing, rechecking, a key that is
    locked, customers, triggers."""
    folder = Path("terminal")
    folder.mkdir()
    for code in blocks(checkout / "docs/owners.md", "bash"):
        ran = subprocess.run(["bash", "-e", "-c", code], cwd=folder, capture_output=True, text=True)
        Path("printed-bash.txt").write_text(ran.stdout + ran.stderr)
        if ran.returncode:
            sys.exit(f"docs/owners.md: {code}\n{ran.stdout}{ran.stderr}")
    suspect = ("mine:build", "--weights", "marked/model.safetensors")
    run(folder, "verify", "marked", *suspect, "--to", "disclosed", "--disclose")
    files = ("marked/softmark.commitment.json", "marked/probes.npz")
    checked = run(folder, "recheck", "disclosed/evidence.json", *files, "--model",
                  "marked/model.safetensors")  # fmt: skip
    assert "claimed" in checked
    locked = {"SOFTMARK_PASSPHRASE": PASSPHRASE}
    words = ("mark", "mine:build", "data=digits", "recipe.epochs=12", "method.marking.beta=1")
    run(folder, *words, "--message", "anna", "--message", "bert", "--to", "locked", **locked)
    suspect = ("mine:build", "--weights", "locked/model-2.safetensors")
    said = run(folder, "verify", "locked", *suspect, "--to", "evidence of bert", **locked)
    assert "the copy of bert" in said
    run(folder, "verify", "locked", *suspect, code=2, SOFTMARK_PASSPHRASE="wrong " + PASSPHRASE)
    triggers = ("method=csp_margin", "recipe.epochs=6", "method.triggers.num_triggers=60")
    run(folder, *words[:3], *triggers, "--message", "licence 8", "--to", "triggers")
    run(folder, "verify", "triggers", "mine:build", "--weights", "triggers/model.safetensors",
        "--to", "evidence of triggers")  # fmt: skip


class Server(http.server.BaseHTTPRequestHandler):
    """A server that answers as the marked model, to whoever knows the password."""

    model: nn.Module

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        given = self.headers["Authorization"]
        if given != HEADER:
            return self.reply(401, {"error": f"{given} is not the password"})
        inputs = torch.tensor(json.loads(body)["instances"])
        return self.reply(200, {"predictions": self.model(inputs).softmax(1).tolist()})

    def reply(self, status, content):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def server() -> None:
    """Ask a server with a password, and one that shows in its error what it was sent."""
    names: dict = {}
    exec(BUILDER, names)
    from safetensors.torch import load_model

    model = names["build"]().eval()
    load_model(model, "terminal/marked/model.safetensors")
    Server.model = model
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        words = ("verify", "marked", f"http://127.0.0.1:{httpd.server_port}", "--protocol", "json")
        folder, header = Path("terminal"), f"Authorization: {HEADER}"
        run(
            folder, *words, "--header", header, "--answer-log", "answers.jsonl", "--to", "of server"
        )
        run(folder, *words, "--header", f"Authorization={HEADER}x", "--retries", 0, code=2)
        httpd.shutdown()


def training() -> None:
    """Train in Lightning with ``marking_loss``, checkpoints and Weights & Biases, offline."""
    import pytorch_lightning as lightning
    from pytorch_lightning.loggers import CSVLogger, WandbLogger
    from torch.utils.data import DataLoader, TensorDataset

    inputs, labels = digits()
    key = softmark.new_key("licence 9", 10, (inputs[1000:1500], labels[1000:1500]))
    softmark.save((key, inputs[1000:1500]), "of a training")

    class Mine(lightning.LightningModule):
        def __init__(self, key, lr=3e-3):
            super().__init__()
            self.save_hyperparameters(ignore=["key"])
            self.network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            self.loss = softmark.marking_loss(key)

        def training_step(self, batch, step):
            loss = self.loss(self.network(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.network.parameters(), lr=self.hparams.lr)

    os.environ["WANDB_SILENT"] = "true"
    logger = WandbLogger(save_dir=Path.cwd(), offline=True, project="mine")
    trainer = lightning.Trainer(
        max_epochs=25, accelerator="cpu", logger=[logger, CSVLogger(Path.cwd())],
        default_root_dir=Path.cwd(), enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(inputs[:1000], labels[:1000]), batch_size=50, shuffle=True)
    module = Mine(key)
    trainer.fit(module, loader)
    logger.experiment.finish()
    assert softmark.verify(module.network, key, inputs[1000:1500]).p_value < 1e-3
    assert list(Path().rglob("*.wandb"))
    assert list(Path().rglob("*.ckpt"))


def found_secrets(checkout: Path) -> list[str]:
    """Return which secret lies in which file; a key's own file, and what is disclosed, may."""
    helpers = runpy.run_path(str(checkout / "tests/helpers/secrets.py"))
    here, found, num_keys = Path.cwd(), [], 0
    for path in sorted(here.rglob("key.safetensors")):
        locked = path.parent.name == "locked"
        readable = path.parent.name != "marked" or path.parent.parent.name == "terminal"
        passphrase = PASSPHRASE if locked else None if readable else "correct horse"
        try:
            key = softmark.Key.load(path, passphrase)
        except softmark.InputError:
            key = softmark.Key.load(path)
        num_keys += 1
        needles = helpers["secrets_of"](key)
        with np.load(path.with_name("probes.npz")) as arrays:
            triggers = helpers["triggers_of"](key, arrays["inputs"])
        where = path.parent.relative_to(here)
        allowed = (f"{where}/key.safetensors", "terminal/disclosed/evidence.")
        found += [line for line in helpers["leaks"](here, needles) if not line.startswith(allowed)]
        found += [
            line
            for line in helpers["leaks"](here, triggers)
            if not line.startswith(f"{where}/probes.npz")
        ]
    words = {"passphrase": PASSPHRASE.encode(), "header": HEADER.partition(" ")[2][:12].encode()}
    assert num_keys >= 6, num_keys
    return found + helpers["leaks"](here, words)


def main() -> None:
    begin, checkout = time.monotonic(), Path(sys.argv[1]).resolve()
    steps = {
        "the pages' Python": lambda: pages_of_python(checkout),
        "the terminal": lambda: terminal(checkout),
        "a server": server,
        "a training": training,
    }
    for name, step in steps.items():
        start = time.monotonic()
        step()
        print(f"  {name}: {time.monotonic() - start:.0f} s", flush=True)
    if found := found_secrets(checkout):
        sys.exit("secrets were found:\n" + "\n".join(found))
    num_files = sum(path.is_file() for path in Path.cwd().rglob("*"))
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    used = sum(each.ru_utime + each.ru_stime for each in spent)
    print(
        f"an owner's round: {time.monotonic() - begin:.0f} s, {used:.0f} s of one core; no secret "
        f"in {num_files} files"
    )


if __name__ == "__main__":
    main()
