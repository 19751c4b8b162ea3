"""The PostgreSQL database: connection, schema, and how both come to be."""

from llmsvc.database.connection import Connection, connect, conninfo
from llmsvc.database.schema import migrate, pending

__all__ = ["Connection", "connect", "conninfo", "migrate", "pending"]
