//! Export and restore: pipelines between block sources or sinks and repositories.
