//! The owner of a lock: how a process names itself in its locks, and how it knows that the holder of another is gone.
//!
//! A lock names its holder's host and process id. restic judges by these two alone: a lock with its own host's name whose process id does
//! not run is stale to it, and to find out it sends SIGHUP. Where two machines share a name, or two containers a host's, that
//! proves nothing. So our locks bear a host name that no machine has:
//!
//! ```text
//! NAME/BOOT.PID-NAMESPACE.TIME-NAMESPACE.START[/CLAIM]
//! ```
//!
//! The name is for people. The middle is the [identity](Identity) of one process for all time, together with its process id. The
//! claim names something that one process holds at a time, such as a pool: its holder knows that every earlier holder is gone, across
//! restarts of containers and machines.

use std::fs;
use std::sync::OnceLock;

/// The name in which a process takes locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOwner {
    /// The host's name in the lock, which no other process's locks bear.
    pub hostname: String,
    pub username: String,
    /// The process id in its namespace.
    pub process: u32,
}

impl LockOwner {
    /// This process, under this host's name.
    pub fn of_this_process() -> Self {
        static OWNER: OnceLock<LockOwner> = OnceLock::new();
        OWNER.get_or_init(Self::read).clone()
    }

    fn read() -> Self {
        let name = nix::sys::utsname::uname().map(|name| name.nodename().to_string_lossy().into_owned()).unwrap_or_default();
        let user = nix::unistd::Uid::effective();
        let username = nix::unistd::User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name);
        // Without /proc a random name is as unique; it only tells nobody later that its process is gone.
        let identity =
            Identity::of_this_process().map_or_else(|| uuid::Uuid::new_v4().to_string(), |identity| identity.to_string());
        Self { hostname: format!("{}/{identity}", name.replace('/', "-")), username, process: std::process::id() }
    }

    /// The same owner, under another name for people.
    pub fn named(self, name: &str) -> Self {
        let rest = self.hostname.split_once('/').map_or("", |(_, rest)| rest);
        Self { hostname: format!("{}/{rest}", name.replace('/', "-")), ..self }
    }

    /// The same owner, while it holds what `claim` names and nobody else can hold. `claim` must not contain `/`.
    pub fn holding(self, claim: &str) -> Self {
        Self { hostname: format!("{}/{claim}", self.hostname), ..self }
    }

    /// The host's name, for people.
    pub fn name(&self) -> &str {
        name(&self.hostname)
    }

    /// Whether `other` is this same process, with or without a claim.
    pub(super) fn is_same_process(&self, other: &Self) -> bool {
        self.process == other.process && identity(&self.hostname).is_some_and(|own| Some(own) == identity(&other.hostname))
    }

    /// Whether the process `other`, which is not this one, is known to have ended. What was seen from another boot, another
    /// namespace or another machine proves nothing, and a clock never does.
    pub(super) fn knows_gone(&self, other: &Self, look: impl FnOnce(u32) -> Seen) -> bool {
        if self.is_same_process(other) {
            return false;
        }
        if claim(&self.hostname).is_some_and(|own| claim(&other.hostname) == Some(own)) {
            return true;
        }
        let parse = |owner: &Self| identity(&owner.hostname).and_then(Identity::parse);
        let (Some(here), Some(there)) = (parse(self), parse(other)) else { return false };
        if !here.sees(&there) {
            return false;
        }
        match look(other.process) {
            Seen::Absent => true,
            Seen::StartedAt(start) => start != there.start,
            Seen::Unknown => false,
        }
    }
}

/// The part of a lock's host name that is for people.
pub(super) fn name(hostname: &str) -> &str {
    hostname.split('/').next().unwrap_or(hostname)
}

fn identity(hostname: &str) -> Option<&str> {
    hostname.split('/').nth(1)
}

fn claim(hostname: &str) -> Option<&str> {
    hostname.split('/').nth(2).filter(|claim| !claim.is_empty())
}

/// What this process sees of a process id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// No process has it.
    Absent,
    /// A process has it that started that many ticks after the boot.
    StartedAt(u64),
    /// A process has it, and when it started is unknown.
    Unknown,
}

/// Looks for a process of this process's own namespace.
pub(super) fn look(process: u32) -> Seen {
    let Some(id) = i32::try_from(process).ok().filter(|&id| id > 0) else { return Seen::Unknown };
    // Signal none only asks; EPERM means that it runs and is someone else's.
    if nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), None) == Err(nix::errno::Errno::ESRCH) {
        return Seen::Absent;
    }
    // A /proc of another namespace shows other processes under the same numbers.
    let own = fs::read_link("/proc/self").ok();
    if own.is_none_or(|own| own.as_os_str() != std::process::id().to_string().as_str()) {
        return Seen::Unknown;
    }
    start_of(&id.to_string()).map_or(Seen::Unknown, Seen::StartedAt)
}

/// When a process started, in ticks since the boot.
fn start_of(process: &str) -> Option<u64> {
    let text = fs::read(format!("/proc/{process}/stat")).ok()?;
    // The second field is a name in parentheses, and may hold anything.
    let after_name = text.iter().rposition(|&byte| byte == b')')? + 1;
    let fields = std::str::from_utf8(text.get(after_name..)?).ok()?;
    // The first of these is the third of all; the start is the 22nd.
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// What tells a process from every other one that ever ran, together with its process id: the boot, the namespace that its id is
/// of, the one that its start is told in, and the start. An inode's number may be a later namespace's; then the earlier one is
/// gone with all its processes, which is what an id that is absent or started at another time says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    boot: String,
    pid_namespace: u64,
    time_namespace: u64,
    start: u64,
}

impl Identity {
    fn of_this_process() -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let inode = |namespace: &str| {
            let link = fs::read_link(format!("/proc/self/ns/{namespace}")).ok()?;
            link.to_str()?.split_once('[')?.1.strip_suffix(']')?.parse().ok()
        };
        Some(Self {
            boot: boot.trim().to_owned(),
            pid_namespace: inode("pid")?,
            // Kernels without them have one.
            time_namespace: inode("time").unwrap_or(0),
            start: start_of("self")?,
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let boot = parts.next().filter(|boot| !boot.is_empty())?.to_owned();
        let mut number = || parts.next()?.parse().ok();
        let identity = Self { boot, pid_namespace: number()?, time_namespace: number()?, start: number()? };
        parts.next().is_none().then_some(identity)
    }

    /// Whether processes of `other`'s namespaces show here under the ids and times that they have there.
    fn sees(&self, other: &Self) -> bool {
        (&self.boot, self.pid_namespace, self.time_namespace) == (&other.boot, other.pid_namespace, other.time_namespace)
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}.{}", self.boot, self.pid_namespace, self.time_namespace, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(hostname: &str, process: u32) -> LockOwner {
        LockOwner { hostname: hostname.to_owned(), username: "root".to_owned(), process }
    }

    fn no_look(_: u32) -> Seen {
        panic!("no process may be looked for")
    }

    #[test]
    fn this_process_is_itself_and_finds_itself() {
        let own = LockOwner::of_this_process();
        assert!(own.is_same_process(&own.clone().named("node-1").holding("pool")));
        assert!(!own.knows_gone(&own, no_look));
        let identity = Identity::parse(identity(&own.hostname).unwrap()).unwrap();
        assert_eq!(look(std::process::id()), Seen::StartedAt(identity.start));
        // No process has this id: pid_max is at most 2^22.
        assert_eq!(look(0x7fff_ffff), Seen::Absent);
        assert_eq!(look(0), Seen::Unknown);
    }

    #[test]
    fn a_name_is_for_people_and_changes_nothing_else() {
        let own = owner("host/b.1.2.3", 7).named("a/b").holding("pool");
        assert_eq!((own.hostname.as_str(), own.name()), ("a-b/b.1.2.3/pool", "a-b"));
        assert_eq!(owner("plain", 7).name(), "plain");
    }

    #[test]
    fn only_a_process_of_the_same_boot_and_namespaces_is_looked_for() {
        let here = owner("h/b.1.2.30", 7);
        for elsewhere in ["h/c.1.2.3", "h/b.9.2.3", "h/b.1.9.3", "h", "h/", "h/b.1.2", "h/b.1.2.3.4", "h/b.1.2.x", ""] {
            assert!(!here.knows_gone(&owner(elsewhere, 8), no_look), "{elsewhere}");
            assert!(!owner(elsewhere, 7).knows_gone(&here, no_look), "{elsewhere}");
        }
        let there = owner("other name/b.1.2.3", 8);
        for (seen, gone) in
            [(Seen::Absent, true), (Seen::StartedAt(3), false), (Seen::StartedAt(4), true), (Seen::Unknown, false)]
        {
            assert_eq!(here.knows_gone(&there, |_| seen), gone, "{seen:?}");
        }
    }

    #[test]
    fn whoever_held_what_only_one_can_hold_is_gone() {
        let here = owner("h/b.1.2.3/pool", 7);
        assert!(here.knows_gone(&owner("h/another boot.1.2.3/pool", 7), no_look));
        assert!(!here.knows_gone(&owner("h/b.1.2.3/pool", 7), no_look), "itself");
        assert!(!here.knows_gone(&owner("h/c.1.2.3/other", 7), no_look));
        assert!(!owner("h/b.1.2.3", 7).knows_gone(&owner("h/c.1.2.3/pool", 7), no_look));
        assert!(!owner("h/b.1.2.3/", 7).knows_gone(&owner("h/c.1.2.3/", 7), no_look), "an empty claim is none");
    }
}
