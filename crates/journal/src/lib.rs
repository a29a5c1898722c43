//! Durable state behind one small interface: SQLite by default, PostgreSQL for several coordinators.
