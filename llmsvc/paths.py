"""Where everything lies on the host, and where our own data files are. The only place for paths."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

ETC = Path("/etc/llmsvc")
CONFIG_ENV = ETC / "config.env"
MODELS_D = ETC / "models.d"
DEFAULT_MODEL = ETC / "default-model"
"""Symlink to models.d/NAME.env: the model that starts at boot."""
CREDENTIALS = ETC / "credentials"
PEPPER = CREDENTIALS / "pepper"
DATABASE_PASSWORD = CREDENTIALS / "database-password"
"""Of a PostgreSQL that is reached over TCP; empty where it asks for none."""
API_KEY = CREDENTIALS / "api-key"
"""The one key of single-key mode."""
LOCAL_KEY = CREDENTIALS / "local-key"

SAVED = Path("/var/backups/llmsvc")
"""Backups that nobody gave another place; root's own, for they are secrets. They outlive an uninstall."""

STATE = Path("/var/lib/llmsvc")
MODELS = STATE / "models"
PROXY_STATE = STATE / "proxy"
MANIFEST = STATE / "manifest.json"
UNDO = STATE / "undo"
"""What a running installation has changed; see installer/undo.py."""
BACKUPS = STATE / "backups"
"""Dumps of the database from before its last migration; root's own."""
DUMPING = STATE / "dumping"
"""There while a dump is made or restored: directories that the owner of the database can enter."""
GOOD_MODELS = STATE / "good-models"
"""Models that once became ready, one name a line, the latest first; written by units/instance-hook."""
USED_MODELS = STATE / "used-models"
"""A file NAME in here was last touched when model NAME got ready, or ended; by units/instance-hook."""

SETTINGS_LOCK = STATE / ".settings.lock"
"""Locked while a command changes a models.d/NAME.env."""

RUN = Path("/run/llmsvc")
"""What units/instance-hook and the rollback tell of crashes and failures."""
FAILED_MODELS = RUN / "failed-models"
"""Models that failed since one was last ready, one name a line; removed by units/instance-hook."""
ASKED = RUN / "asked"
"""A file NAME in here: that model failed to stop cleanly as somebody asked it to; by units/instance-hook."""
CRASHES = RUN / "crashes"
"""A file NAME in here: `EPOCH RESULT` for each end of that model unasked, lately; by units/instance-hook."""
ROLLBACK = RUN / "rollback.json"
"""The last time that going back to another model was tried; see systemd/rollback.py."""
GPU_LOST = RUN / "gpu-lost"
"""What the GPU's driver said when a backend last lost it; by units/instance-hook."""

PROXY_STATUS = Path("/run/llmsvc-proxy/status.json")
"""What the proxy is doing, for everybody."""
RUN_INSTANCES = Path("/run/llama-server")
"""One RuntimeDirectory an instance, /run/llama-server/NAME; it exists exactly while the instance does."""
PRUNE_STAMP = Path("/var/lib/systemd/timers/stamp-llmsvc-prune.timer")
"""When llmsvc-prune.timer last fired; by systemd."""
INSTALL_LOCK = Path("/run/llmsvc-install")
"""A directory that is locked while an installation runs."""

PACKAGE = Path("/usr/lib/llmsvc")
PACKAGED = Path(sys.prefix) == PACKAGE
"""Whether we are a package of the distribution, which brings its files itself and owns them."""

PYTHON = Path("/usr/bin/python3")
"""The distribution's: the services must survive whatever a user has in PATH."""
PREFIX = PACKAGE if PACKAGED else Path("/opt/llmsvc")
VENV = PREFIX if PACKAGED else PREFIX / "venv"
COMMAND = Path("/usr/bin/llmsvc" if PACKAGED else "/usr/local/bin/llmsvc")
DROP_INS = Path("/etc/systemd/system")
UNITS = Path("/usr/lib/systemd/system") if PACKAGED else DROP_INS
GENERATORS = Path("/usr/lib" if PACKAGED else "/etc", "systemd/system-generators")
SYSUSERS = Path("/usr/lib" if PACKAGED else "/etc", "sysusers.d")
TMPFILES = Path("/usr/lib" if PACKAGED else "/etc", "tmpfiles.d")
POLKIT_RULES = Path("/usr/share" if PACKAGED else "/etc", "polkit-1/rules.d")

SHARE = Path("/usr/share" if PACKAGED else "/usr/local/share")
"""Where shells and man(1) look for what comes with programs in the directory of COMMAND."""
COMPLETIONS = {
    "bash": SHARE / "bash-completion/completions/llmsvc",
    "zsh": SHARE / f"zsh/{'vendor-completions' if PACKAGED else 'site-functions'}/_llmsvc",
    "fish": SHARE / "fish/vendor_completions.d/llmsvc.fish",
    "man": SHARE / "man/man1/llmsvc.1",
}

PROXY_USER = "llmsvc-proxy"
BACKEND_USER = "llmsvc-backend"
ADMIN_GROUP = "llmsvc-admin"


def instance_socket(name: str) -> Path:
    """The unix socket on which the backend of model `name` answers."""
    return RUN_INSTANCES / name / "http.sock"


def instance_ready(name: str) -> Path:
    """The file that exists exactly while the backend of model `name` is READY."""
    return RUN_INSTANCES / name / "ready"


def instance_loading(name: str) -> Path:
    """How far the backend of model `name` is with loading, as `37 Loading x.gguf`; gone once it is READY."""
    return RUN_INSTANCES / name / "loading"


def instance_gpu_lost(name: str) -> Path:
    """What the GPU's driver said when the backend of model `name` lost it; absent if it did not."""
    return RUN_INSTANCES / name / "gpu-lost"


def data(*parts: str) -> Path:
    """The path of one of our data files: `data("units", "llmsvc-generator")`.

    In a checkout it is the checkout's own file, else the copy under share/llmsvc of the environment. The
    checkout comes first, for an editable install leaves a stale copy in share/.
    """
    checkout = Path(__file__).resolve().parent.parent
    root = (
        checkout
        if (checkout / "pyproject.toml").is_file()
        else Path(sysconfig.get_path("data"), "share/llmsvc")
    )
    return root.joinpath(*parts)
