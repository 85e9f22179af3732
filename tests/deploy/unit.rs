//! The systemd unit: what it notifies, what it is allowed, and that the daemon lives with that.
