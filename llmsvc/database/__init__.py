"""The connection to PostgreSQL and the numbered migrations."""
