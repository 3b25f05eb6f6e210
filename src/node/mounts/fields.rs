//! Fields of the requests, as the protocol spells them.

pub(super) const VOLUME_ID: &str = "volume_id";
pub(super) const STAGING_PATH: &str = "staging_target_path";
pub(super) const TARGET_PATH: &str = "target_path";
pub(super) const VOLUME_PATH: &str = "volume_path";
pub(super) const CAPABILITY: &str = "volume_capability";
pub(super) const ACCESS_MODE: &str = "volume_capability.access_mode";
pub(super) const ACCESS_TYPE: &str = "volume_capability.access_type";
pub(super) const MOUNT_FLAGS: &str = "volume_capability.mount.mount_flags";
