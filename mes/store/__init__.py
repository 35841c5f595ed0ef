"""The only door to PostgreSQL: connections, migrations, seeding, event blocks, sums and reports."""
