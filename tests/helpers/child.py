"""What a process of ``helpers.processes`` does: run a script as ``python SCRIPT WORDS`` would.

Its globals ARGV, ENVIRONMENT and FOLDER are given by the process that started it.
"""

import atexit
import os
import runpy
import signal
import sys
from pathlib import Path

argv, environment, folder = (globals()[name] for name in ("ARGV", "ENVIRONMENT", "FOLDER"))
for number, name in ((1, "stdout"), (2, "stderr")):
    with open(Path(folder, name), "wb") as file:  # noqa: PTH123
        os.dup2(file.fileno(), number)
# In the background of a shell, SIGINT is ignored by all that is started.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.clear()
os.environ.update(environment)
os.chdir(Path(__file__).parents[2])
sys.argv = list(argv)
sys.path[0] = str(Path(argv[0]).parent)
try:
    runpy.run_path(argv[0], run_name="__main__")
finally:
    atexit._run_exitfuncs()
