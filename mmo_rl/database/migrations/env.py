"""Script that alembic runs for every command: upgrades in the transaction that the caller opened."""

from alembic import context

connection = context.config.attributes["connection"]
connection.exec_driver_sql("create schema if not exists mmo_rl")
context.configure(
    connection=connection,
    version_table_schema="mmo_rl",
    transactional_ddl=True,
    transaction_per_migration=False,
)
context.run_migrations()
