#![no_main]
windlass_fuzz::target!(dm_reply);
