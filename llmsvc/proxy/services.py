"""What all requests share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from llmsvc.config import Config
from llmsvc.proxy.auth import KeyDirectory
from llmsvc.proxy.counts import Counts
from llmsvc.proxy.fair_queue import FairQueue
from llmsvc.proxy.ledger import Ledger
from llmsvc.proxy.limits import Limits
from llmsvc.proxy.metrics import Metrics
from llmsvc.proxy.participants import Participants
from llmsvc.proxy.poison import Poison
from llmsvc.proxy.refusals import Refusals
from llmsvc.proxy.status import Speed
from llmsvc.proxy.switcher import Switcher
from llmsvc.proxy.upstream import Upstream
from llmsvc.proxy.usage import UsageReader
from llmsvc.systemd.journal import Journal

if TYPE_CHECKING:
    from llmsvc.proxy.exchange import Exchange


@dataclasses.dataclass(frozen=True)
class Services:
    """One of each; `running` are the requests that have not ended."""

    config: Config
    journal: Journal
    keys: KeyDirectory
    participants: Participants
    limits: Limits
    refusals: Refusals
    queue: FairQueue
    counts: Counts
    upstream: Upstream
    switcher: Switcher
    poison: Poison
    speed: Speed
    ledger: Ledger
    metrics: Metrics
    usage: UsageReader
    running: set[Exchange]
