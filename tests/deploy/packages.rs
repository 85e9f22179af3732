//! The Debian and RPM packages: installed, upgraded with state, and removed.
