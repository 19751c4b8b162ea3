"""Who changed what: one row in llama_audit for every changing command."""

from __future__ import annotations

from llmsvc.actor import actor
from llmsvc.database import Connection


def record(connection: Connection, verb: str, thing: str) -> None:
    """Writes the row; belongs into the transaction of the change.

    :param verb: the command as it is typed: `user add`
    :param thing: what it was done to; never a secret
    """
    connection.execute(
        "INSERT INTO llama_audit (actor, verb, object) VALUES (%s, %s, %s)", [actor().name, verb, thing]
    )
