"""Starts the backend as the unit does, with the host's directories replaced: `launch.py ROOT NAME`."""

import sys
from pathlib import Path

from llmsvc import paths

root, name = Path(sys.argv[1]), sys.argv[2]
paths.CONFIG_ENV = root / "config.env"
paths.MODELS_D = root / "models.d"
paths.RUN_INSTANCES = root / "run"

from llmsvc.backend.main import main  # noqa: E402

sys.exit(main(name))
