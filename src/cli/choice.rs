//! Which snapshot to restore, on the command line: what narrows `latest`, in restic's words where it has them.

use std::str::FromStr;

use csi_proto::windlass::v1 as windlass;

use crate::repository::SnapshotChoice;
use crate::repository::forget::{Filter, TagList};
use crate::repository::time::parse_rfc3339;
use crate::types::Timestamp;

/// What narrows the choice of a snapshot.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ChoiceArgs {
    /// Only snapshots of this volume: its PersistentVolumeClaim as NAMESPACE/NAME, or its handle
    #[arg(long, value_name = "VOLUME")]
    source: Option<String>,
    /// Only snapshots of this host; may be given several times
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Only snapshots that have all these tags; may be given several times
    #[arg(long, value_name = "TAG[,TAG...]")]
    tag: Vec<String>,
    /// Only snapshots taken before this time: 2026-11-29, `2026-11-29 14:30`, both in UTC, or RFC 3339
    #[arg(long, value_name = "TIME")]
    before: Option<Moment>,
}

impl ChoiceArgs {
    /// The choice of the snapshot that `name` stands for.
    pub fn of(&self, name: &str) -> SnapshotChoice {
        let tags = self.tag.iter().map(|tags| TagList::from(tags.as_str())).collect();
        SnapshotChoice {
            name: name.to_owned(),
            filter: Filter { hosts: self.host.clone(), tags, paths: Vec::new() },
            source: self.source.clone(),
            before: self.before.map(|moment| moment.0),
        }
    }

    /// The same, as a node is asked.
    pub fn to_message(&self) -> windlass::SnapshotFilter {
        windlass::SnapshotFilter {
            source: self.source.clone().unwrap_or_default(),
            hosts: self.host.clone(),
            tags: self.tag.clone(),
            before: self.before.map(|Moment(time)| prost_types::Timestamp {
                seconds: i64::try_from(time.seconds).unwrap_or(i64::MAX),
                nanos: time.nanoseconds.cast_signed(),
            }),
        }
    }
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment(Timestamp);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let civil = || {
            let time: jiff::civil::DateTime = text.parse().ok()?;
            let seconds = jiff::tz::TimeZone::UTC.to_timestamp(time).ok()?.as_second();
            Some(Timestamp { seconds: u64::try_from(seconds).ok()?, nanoseconds: 0 })
        };
        let time = parse_rfc3339(text).or_else(civil);
        time.map(Self).ok_or_else(|| "write it like 2026-11-29, `2026-11-29 14:30` or 2026-11-29T14:30:00+01:00".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_and_programs_write_them() {
        for text in ["2000-02-29 12:34:56", "2000-02-29T12:34:56", "2000-02-29T12:34:56Z", "2000-02-29T14:34:56+02:00"] {
            assert_eq!(text.parse::<Moment>().map(|moment| moment.0.seconds), Ok(951_827_696), "{text}");
        }
        assert_eq!("2000-02-29".parse::<Moment>().map(|moment| moment.0.seconds), Ok(951_782_400));
        assert_eq!("2000-02-29 12:34".parse::<Moment>().map(|moment| moment.0.seconds), Ok(951_827_640));
        for text in ["", "yesterday", "12:34", "2001-02-29", "1969-12-31"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
