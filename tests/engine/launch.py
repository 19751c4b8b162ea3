"""Starts the backend as the unit does, with the host's directories replaced: `launch.py ROOT NAME`.

TEST_SOCKETS names descriptors of listening sockets, with commas between, that it passes on as systemd does;
TEST_RENDER_SECONDS is how long a chat template may take in the engine native, and a fourth of it that of a
request which nobody waits for any more.
"""

import os
import sys
from pathlib import Path

from llmsvc import paths

root, name = Path(sys.argv[1]), sys.argv[2]
paths.CONFIG_ENV = root / "config.env"
paths.MODELS_D = root / "models.d"
paths.RUN_INSTANCES = root / "run"

if sockets := os.environ.pop("TEST_SOCKETS", ""):
    for number, descriptor in enumerate(sockets.split(","), 3):
        os.dup2(int(descriptor), number)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets.split(",")))}

if seconds := os.environ.pop("TEST_RENDER_SECONDS", ""):
    from llmsvc.backend.native import renewal

    renewal._RENDER_SECONDS, renewal._UNWANTED_SECONDS = float(seconds), float(seconds) / 4

from llmsvc.backend.main import main  # noqa: E402

sys.exit(main(name))
