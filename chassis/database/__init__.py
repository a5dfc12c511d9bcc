"""PostgreSQL: transactions over sets of rows, group commit, tables, migrations."""
