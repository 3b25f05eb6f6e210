//! Named points at which a test may kill, hang or fail the process.
//!
//! Built only with the feature `failpoints`; otherwise [`hit`] is an empty function. A durable step is run by [`around`],
//! so that a test can cut the process before and after it. Environment variables, read once:
//!
//! * `WINDLASS_FAILPOINT_TRACE=FILE` appends each name to FILE as it is hit, so that a test learns what there is to cut;
//! * `WINDLASS_FAILPOINT=ACTION:N:NAME` acts when NAME is hit for the Nth time (from 1). `kill` is SIGKILL to the own
//!   process, `hang` blocks the calling thread for good;
//! * `WINDLASS_FAILPOINT_FILE=FILE` takes that text from FILE, which is looked at on every hit: a test arms a running process,
//!   and hits are counted from then on. No file, or an empty one: not armed.
//!
//! A build made with the feature says so at start; it is no product.

/// Runs one durable step between two points, `NAME.before` and `NAME.after`. A step that fails does not reach the second.
///
/// # Errors
/// The step's.
#[inline(always)]
pub fn around<T, E>(name: &str, step: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    if !ENABLED {
        return step();
    }
    hit(&format!("{name}.before"));
    let value = step()?;
    hit(&format!("{name}.after"));
    Ok(value)
}

/// Marks one point. Names read `step.before` or `step.after`; a step that is one call is run by [`around`].
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
    use std::sync::{Mutex, OnceLock, PoisonError};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    #[derive(Clone, Copy)]
    enum Action {
        Kill,
        Hang,
    }

    struct Armed {
        action: Action,
        count: u64,
        name: String,
    }

    /// What is armed, by which text, and how often its name was hit since.
    #[derive(Default)]
    struct Plan {
        text: String,
        armed: Option<Armed>,
        seen: u64,
    }

    struct Settings {
        trace: Option<PathBuf>,
        file: Option<PathBuf>,
        plan: Mutex<Plan>,
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

    impl Plan {
        fn arm(&mut self, text: &str) {
            if self.text != text {
                *self = Self { text: text.to_owned(), armed: parse(text), seen: 0 };
            }
        }

        fn reached(&mut self, name: &str) -> Option<Action> {
            let armed = self.armed.as_ref().filter(|armed| armed.name == name)?;
            self.seen += 1;
            (self.seen == armed.count).then_some(armed.action)
        }
    }

    fn settings() -> &'static Settings {
        static SETTINGS: OnceLock<Settings> = OnceLock::new();
        SETTINGS.get_or_init(|| {
            let mut plan = Plan::default();
            plan.arm(&std::env::var("WINDLASS_FAILPOINT").unwrap_or_default());
            Settings {
                trace: std::env::var_os("WINDLASS_FAILPOINT_TRACE").map(PathBuf::from),
                file: std::env::var_os("WINDLASS_FAILPOINT_FILE").map(PathBuf::from),
                plan: Mutex::new(plan),
            }
        })
    }

    /// Marks one point; acts if the environment says so.
    pub fn hit(name: &str) {
        let settings = settings();
        if let Some(path) = &settings.trace
            && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
        {
            // One write call, so that lines of several threads do not mix. A trace that cannot be written makes the test
            // that reads it fail, which is where the fault is to be seen.
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
        let reached = {
            let mut plan = settings.plan.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(path) = &settings.file {
                plan.arm(std::fs::read_to_string(path).unwrap_or_default().trim_end());
            }
            plan.reached(name)
        };
        match reached {
            None => return,
            Some(Action::Kill) => {
                let _ = kill(Pid::this(), Signal::SIGKILL);
            }
            Some(Action::Hang) => {}
        }
        loop {
            std::thread::park();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_point_is_reached_at_its_count_and_only_then() {
            let mut plan = Plan::default();
            plan.arm("kill:2:a.b.before");
            assert!(plan.reached("a.b.before").is_none());
            assert!(plan.reached("a.b.after").is_none());
            assert!(plan.reached("a.b.before").is_some());
            assert!(plan.reached("a.b.before").is_none());
        }

        #[test]
        fn arming_anew_counts_anew_and_an_empty_text_disarms() {
            let mut plan = Plan::default();
            plan.arm("hang:2:a");
            assert!(plan.reached("a").is_none());
            plan.arm("hang:1:a");
            assert!(matches!(plan.reached("a"), Some(Action::Hang)));
            plan.arm("");
            assert!(plan.reached("a").is_none());
        }
    }
}
