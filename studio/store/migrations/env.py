"""What Alembic runs: the revisions, inside the transaction of the connection it was handed."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # SQLite's DDL rolls back too, once BEGIN is ours
)
context.run_migrations()
