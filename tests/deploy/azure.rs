//! The templates, rules and queries for Azure, held against the one definition of the columns and against delivered rows.
