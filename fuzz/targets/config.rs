#![no_main]
windlass_fuzz::target!(config);
