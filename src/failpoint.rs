//! Named points at which a test may kill, hang or fail the process.
//!
//! Built only with the feature `failpoints`; otherwise [`hit`] is an empty function. A durable step calls it before and after
//! itself, so that a test can cut the process at each. Two environment variables, read once:
//!
//! * `WINDLASS_FAILPOINT_TRACE=FILE` appends each name to FILE as it is hit, so that a test learns what there is to cut;
//! * `WINDLASS_FAILPOINT=ACTION:N:NAME` acts when NAME is hit for the Nth time (from 1). `kill` is SIGKILL to the own
//!   process, `hang` blocks the calling thread for good.
//!
//! A build made with the feature says so at start; it is no product.

/// Marks one point. Names read `step.before` or `step.after`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}

/// True when the process can be made to fail on purpose.
pub const ENABLED: bool = cfg!(feature = "failpoints");

#[cfg(feature = "failpoints")]
pub use enabled::hit;

#[cfg(feature = "failpoints")]
mod enabled {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    enum Action {
        Kill,
        Hang,
    }

    struct Armed {
        action: Action,
        count: u64,
        name: String,
    }

    struct Plan {
        trace: Option<PathBuf>,
        armed: Option<Armed>,
        seen: AtomicU64,
    }

    fn parse(text: &str) -> Option<Armed> {
        let mut parts = text.splitn(3, ':');
        let action = match parts.next()? {
            "kill" => Action::Kill,
            "hang" => Action::Hang,
            _ => return None,
        };
        Some(Armed { action, count: parts.next()?.parse().ok()?, name: parts.next()?.to_owned() })
    }

    fn plan() -> &'static Plan {
        static PLAN: OnceLock<Plan> = OnceLock::new();
        PLAN.get_or_init(|| Plan {
            trace: std::env::var_os("WINDLASS_FAILPOINT_TRACE").map(PathBuf::from),
            armed: std::env::var("WINDLASS_FAILPOINT").ok().and_then(|text| parse(&text)),
            seen: AtomicU64::new(0),
        })
    }

    /// Marks one point; acts if the environment says so.
    pub fn hit(name: &str) {
        let plan = plan();
        if let Some(path) = &plan.trace
            && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
        {
            // One write call, so that lines of several threads do not mix. A trace that cannot be written makes the test
            // that reads it fail, which is where the fault is to be seen.
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
        let Some(armed) = &plan.armed else { return };
        if armed.name != name || plan.seen.fetch_add(1, Ordering::SeqCst) + 1 != armed.count {
            return;
        }
        match armed.action {
            Action::Kill => {
                let _ = kill(Pid::this(), Signal::SIGKILL);
            }
            Action::Hang => {}
        }
        loop {
            std::thread::park();
        }
    }
}
