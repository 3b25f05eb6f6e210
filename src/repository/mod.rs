//! restic repository format on an object store.
