"""Runs the proxy of a test: FD CONFIG_ENV STATE INSTANCES; its pepper in STATE/pepper, its socket in FD."""

import cProfile
import dataclasses
import functools
import os
import sys
from pathlib import Path

from manager import Mocks  # beside this file

from llmsvc import config
from llmsvc.accounts import keys
from llmsvc.proxy import exchange, main
from llmsvc.systemd import activation, journal

# what systemd does before it starts a service
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")

if "JOURNAL" in os.environ:
    journal.Journal = functools.partial(journal.Journal, path=os.environ["JOURNAL"])
if "SILENCE_SECONDS" in os.environ:
    exchange._SILENCE_SECONDS = float(os.environ["SILENCE_SECONDS"])

config_env, state, instances = (Path(argument) for argument in sys.argv[2:])
settings = config.load(config_env)
pepper = keys.read_pepper(state / "pepper")
places = main.Places(state, instances, state.parent / "llmsvc", state.parent / "status.json")
if "MODELS_D" in os.environ:
    places = dataclasses.replace(places, models_d=Path(os.environ["MODELS_D"]))
run = functools.partial(main.run, settings, pepper, places, activation.listen_sockets(), Mocks(instances))
if "PROFILE" in os.environ:
    profile = cProfile.Profile()
    status = profile.runcall(run)
    profile.dump_stats(os.environ["PROFILE"])
    sys.exit(status)
sys.exit(run())
