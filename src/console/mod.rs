//! The admin console: the databases `pgbouncer` (PgBouncer's console to the byte) and `howdah` (the same and more).
