//! A howdah.toml from a PgBouncer configuration.
