#![no_main]
windlass_fuzz::target!(thin_metadata);
