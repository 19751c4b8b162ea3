"""`llmsvc model ARGUMENTS` as a process of its own, on the host of a test: pull.py ROOT ARGUMENTS"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from llmsvc import paths
from llmsvc.cli import main, session
from llmsvc.systemd import manager

root = Path(sys.argv[1])
paths.CONFIG_ENV, paths.MODELS_D = root / "etc/config.env", root / "etc/models.d"
paths.DEFAULT_MODEL, paths.CREDENTIALS = root / "etc/default-model", root / "etc/credentials"
paths.RUN_INSTANCES, paths.USED_MODELS = root / "run", root / "used-models"
os.geteuid = lambda: 0
manager.reload_where_booted = lambda: None
session.note = lambda verb, thing: None
sys.exit(main.main(["model", *sys.argv[2:]]))
