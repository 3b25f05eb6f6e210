//! What is told of one transfer, from its beginning to its end.
//!
//! The same text goes to each object that it concerns; a claim, which has many snapshots, is told which one it is about. While the transfer
//! runs it is looked at every few seconds, which costs nothing, and little of that is [said](super::steps): that is one series, and takes
//! one object at the API server for as many steps as there are.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::transfer::Progress;
use crate::types::KubernetesNames;

use super::event::{Event, EventObject, EventReason, Repetition};
use super::sink::EventSink;
use super::steps::{Remark, Steps};
use super::text;

/// How often a transfer is looked at: finer than what is said of it.
const LOOK: Duration = Duration::from_secs(5);

/// What a transfer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) enum Work {
    /// A snapshot goes into a repository.
    Export,
    /// A volume comes from one.
    Restore,
}

/// Tells how one transfer goes.
pub(in crate::agent) struct TransferReporter {
    sink: Arc<dyn EventSink>,
    work: Work,
    objects: Vec<EventObject>,
    /// What the claim is told that it is about.
    snapshot: Option<String>,
    /// Of its progress; the same for each attempt.
    series: String,
}

impl TransferReporter {
    /// Tells of a transfer that concerns what has these names. `about` is its own among those of its kind.
    pub(in crate::agent) fn new(sink: &Arc<dyn EventSink>, work: Work, names: &KubernetesNames, about: String) -> Self {
        let snapshot = names.snapshot.as_ref().map(|snapshot| snapshot.name.to_string());
        Self { sink: Arc::clone(sink), work, objects: EventObject::all_of(names), snapshot, series: about }
    }

    /// It begins.
    pub(in crate::agent) fn started(&self) {
        let (reason, text) = match self.work {
            Work::Export => (EventReason::ExportStarted, "the export to the repository of the class has started"),
            Work::Restore => (EventReason::RestoreStarted, "the volume is being restored from its repository"),
        };
        self.tell(reason, text, &Repetition::OfText);
    }

    /// It is complete.
    pub(in crate::agent) fn finished(&self, text: &str) {
        let reason = match self.work {
            Work::Export => EventReason::ExportFinished,
            Work::Restore => EventReason::RestoreFinished,
        };
        self.tell(reason, text, &Repetition::OfText);
    }

    /// It has failed, for a reason that holds no secret and does not change from one attempt to the next.
    pub(in crate::agent) fn failed(&self, text: &str) {
        let reason = match self.work {
            Work::Export => EventReason::ExportFailed,
            Work::Restore => EventReason::RestoreFailed,
        };
        self.tell(reason, text, &Repetition::OfText);
    }

    /// Does the work, and tells meanwhile how far it has come.
    pub(in crate::agent) async fn follow<T>(&self, progress: &Progress, work: impl Future<Output = T>) -> T {
        if self.objects.is_empty() {
            return work.await;
        }
        let mut steps = Steps::begin(Instant::now());
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = looks.tick() => {}
            }
            self.look(&mut steps, progress, Instant::now());
        }
    }

    /// Says what there is to say at this time.
    fn look(&self, steps: &mut Steps, progress: &Progress, now: Instant) {
        let counters = progress.snapshot();
        match steps.look(&counters, progress.waiting(), now) {
            Some(Remark::Progress(hundredths)) => self.goes_on(&text::progress(hundredths, &counters)),
            Some(Remark::Waiting(reason)) => self.waits(&reason),
            None => {}
        }
    }

    fn goes_on(&self, text: &str) {
        let reason = match self.work {
            Work::Export => EventReason::ExportProgress,
            Work::Restore => EventReason::RestoreProgress,
        };
        self.tell(reason, text, &Repetition::OfSeries(self.series.clone()));
    }

    fn waits(&self, why: &str) {
        let reason = match self.work {
            Work::Export => EventReason::ExportWaiting,
            Work::Restore => EventReason::RestoreWaiting,
        };
        self.tell(reason, why, &Repetition::OfSeries(self.series.clone()));
    }

    fn tell(&self, reason: EventReason, text: &str, repetition: &Repetition) {
        for object in &self.objects {
            let text = match (object, &self.snapshot) {
                (EventObject::Claim(_), Some(snapshot)) => format!("VolumeSnapshot {snapshot}: {text}"),
                _ => text.to_owned(),
            };
            self.sink.publish(Event { object: object.clone(), reason, text, repetition: repetition.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::types::{KubernetesName, NamespacedName};

    #[derive(Default)]
    struct Heard(Mutex<Vec<Event>>);

    impl EventSink for Heard {
        fn publish(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    impl Heard {
        fn all(&self) -> Vec<String> {
            let heard = self.0.lock().unwrap();
            heard.iter().map(|event| format!("{} {}: {}", event.object.kind(), event.reason.name(), event.text)).collect()
        }
    }

    fn reporter(heard: &Arc<Heard>, work: Work) -> TransferReporter {
        let name = |text: &str| KubernetesName::try_from(text.to_owned()).unwrap();
        let in_shop = |text| Some(NamespacedName { namespace: name("shop"), name: name(text) });
        let snapshot = if work == Work::Export { in_shop("nightly") } else { None };
        let names = KubernetesNames { claim: in_shop("data"), snapshot, ..Default::default() };
        let sink: Arc<dyn EventSink> = Arc::<Heard>::clone(heard);
        TransferReporter::new(&sink, work, &names, "t1".to_owned())
    }

    #[test]
    fn a_claim_is_told_which_of_its_snapshots_it_is_about() {
        let heard = Arc::new(Heard::default());
        reporter(&heard, Work::Export).failed("no");
        reporter(&heard, Work::Restore).failed("no");
        assert_eq!(
            heard.all(),
            [
                "PersistentVolumeClaim ExportFailed: VolumeSnapshot nightly: no",
                "VolumeSnapshot ExportFailed: no",
                "PersistentVolumeClaim RestoreFailed: no"
            ]
        );
    }

    #[tokio::test]
    async fn what_takes_long_tells_why_it_waits_and_what_is_fast_tells_nothing() {
        let heard = Arc::new(Heard::default());
        let reporter = reporter(&heard, Work::Restore);
        let progress = Progress::new();
        assert_eq!(reporter.follow(&progress, std::future::ready(7)).await, 7);
        assert!(heard.all().is_empty());
        progress.waits_for(Some("the repository is locked".to_owned()));
        let start = Instant::now();
        let mut steps = Steps::begin(start);
        for seconds in (0..3600).step_by(5) {
            reporter.look(&mut steps, &progress, start + Duration::from_secs(seconds));
        }
        assert_eq!(heard.all(), ["PersistentVolumeClaim RestoreWaiting: the repository is locked"]);
        assert_eq!(heard.0.lock().unwrap()[0].repetition, Repetition::OfSeries("t1".to_owned()));
    }
}
