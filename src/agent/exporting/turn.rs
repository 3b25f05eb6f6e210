//! What a call does about an export that does not run. Pure: decided from the record of its task and the time.

use std::time::Duration;

use crate::types::{ExportTask, TaskState, Timestamp};

use super::told::Failure;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// An attempt is begun, from this record.
    Begin(ExportTask),
    /// The last one has failed so, a moment ago.
    Wait(Failure),
}

/// What is to be done about an export to the repository at `location` that does not run and is not complete.
pub(super) fn turn(task: Option<&ExportTask>, location: &str, now: Timestamp) -> Turn {
    let Some(task) = task else { return Turn::Begin(ExportTask::new(location.to_owned(), now)) };
    if task.location != location {
        // The Secret names another place now, whose failures nobody has seen.
        return Turn::Begin(ExportTask { asked: task.asked, ..ExportTask::new(location.to_owned(), now) });
    }
    match &task.state {
        // A clock that was put back is no reason to wait.
        TaskState::Failed { reason, at } if (0..pause(task.attempts).as_secs()).contains(&since(*at, now)) => {
            Turn::Wait(Failure { reason: reason.clone(), at: Some(*at) })
        }
        TaskState::Failed { .. } | TaskState::Pending | TaskState::Running | TaskState::Finished => Turn::Begin(task.clone()),
    }
}

/// How long after a failure nothing is tried, by the attempts that were made: 2 s, doubled each time, and at most a minute.
///
/// Sidecars back off by themselves, up to five minutes, but each snapshot by itself: fifty of one class with a wrong password come several
/// times a second. An attempt derives a key from the password, a third of a second of a processor and 32 MiB; once a minute that is a
/// half of a hundredth of it for each snapshot. And a repository that was mended is noticed a minute after the sidecar asks.
pub(super) fn pause(attempts: u32) -> Duration {
    const FIRST_SECONDS: u64 = 2;
    const LONGEST: Duration = Duration::from_secs(60);
    let doublings = attempts.saturating_sub(1).min(5);
    Duration::from_secs(FIRST_SECONDS << doublings).min(LONGEST)
}

/// Seconds from one time to another; `u64::MAX` when that lies before.
fn since(then: Timestamp, now: Timestamp) -> u64 {
    now.seconds.checked_sub(then.seconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp { seconds, nanoseconds: 0 }
    }

    fn failed(attempts: u32) -> ExportTask {
        ExportTask { attempts, state: TaskState::failed("so", at(100)), ..ExportTask::new("s3:a/b".to_owned(), at(1)) }
    }

    #[test]
    fn an_attempt_is_begun_when_none_was_or_the_last_is_long_enough_ago() {
        assert!(matches!(turn(None, "s3:a/b", at(5)), Turn::Begin(task) if task.asked == at(5) && task.attempts == 0));
        let wait = Turn::Wait(Failure { reason: "so".to_owned(), at: Some(at(100)) });
        assert_eq!(turn(Some(&failed(1)), "s3:a/b", at(101)), wait);
        assert_eq!(turn(Some(&failed(1)), "s3:a/b", at(102)), Turn::Begin(failed(1)));
        assert_eq!(turn(Some(&failed(5)), "s3:a/b", at(131)), wait);
        assert_eq!(turn(Some(&failed(5)), "s3:a/b", at(132)), Turn::Begin(failed(5)));
        assert_eq!(turn(Some(&failed(1000)), "s3:a/b", at(159)), wait);
        assert_eq!(turn(Some(&failed(1000)), "s3:a/b", at(160)), Turn::Begin(failed(1000)));
        assert_eq!(turn(Some(&failed(9)), "s3:a/b", at(50)), Turn::Begin(failed(9)), "the clock was put back");
        let died = ExportTask { state: TaskState::Running, ..failed(3) };
        assert_eq!(turn(Some(&died), "s3:a/b", at(100)), Turn::Begin(died.clone()));
    }

    #[test]
    fn another_repository_is_tried_at_once_and_from_the_beginning() {
        let known = ExportTask { repository: Some("ab".to_owned()), stored_bytes: 7, ..failed(9) };
        let Turn::Begin(task) = turn(Some(&known), "s3:a/c", at(100)) else { panic!("it waits") };
        assert_eq!((task.attempts, task.repository, task.stored_bytes, task.asked), (0, None, 0, at(1)));
    }
}
