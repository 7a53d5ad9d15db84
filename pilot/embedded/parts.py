"""What the application works with, opened together and closed together."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from pilot.embedded.adder import Adder
from pilot.embedded.cache import Cache
from pilot.embedded.credential_calls import CredentialCalls
from pilot.embedded.database import Database, JobTable
from pilot.embedded.events import EventTable
from pilot.embedded.faults import Faults
from pilot.embedded.hpo.idds import Idds
from pilot.embedded.hpo.jobs import Generator
from pilot.embedded.hpo.studies import Studies
from pilot.embedded.identity import Gate
from pilot.embedded.issuer import OwnIssuer
from pilot.embedded.nodes import Nodes
from pilot.embedded.queues import Queues
from pilot.embedded.requestlog import RequestLog
from pilot.embedded.store import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one server; ``stopping`` ends every pause, ``broken`` makes it as broken as 1.0.4."""

    database: Database
    table: JobTable
    events: EventTable
    studies: Studies
    generator: Generator
    idds: Idds
    nodes: Nodes
    queues: Queues
    log: RequestLog
    store: Store
    cache: Cache
    adder: Adder
    faults: Faults
    gate: Gate
    issuer: OwnIssuer
    credentials: CredentialCalls
    stopping: threading.Event
    timefloor_min: int
    broken: bool
    legacy: bool

    def close(self) -> None:
        """Stop what runs and close what is open."""
        self.adder.stop()
        for part in (self.database, self.log, self.store):
            part.close()
