//! Durable steps of the Node service: the crash-point suite cuts the process before and after each.

/// Does `$work` as the step `$name`.
macro_rules! step {
    ($name:literal, $work:expr) => {{
        crate::failpoint::hit(concat!("node.", $name, ".before"));
        let result = $work;
        crate::failpoint::hit(concat!("node.", $name, ".after"));
        result
    }};
}
pub(super) use step;
