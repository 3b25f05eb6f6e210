#![no_main]
windlass_fuzz::target!(key_file);
