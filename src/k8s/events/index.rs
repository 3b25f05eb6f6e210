//! Which events wait to be published, and which have been: pure, it is told the time.
//!
//! Two events of one key ([`Repetition`]) are one object at the server, which counts: while the first waits they become one here, and when
//! it was published the later one is a patch of it. So a fault that is met every minute, and a transfer's progress, take one object each.

use std::collections::{BTreeMap, VecDeque};

use crate::agent::events::{Event, Repetition};
use crate::types::Timestamp;

/// Events that wait at most; the oldest gives way. Four transfers run at once, each with three objects and at most six events of its own
/// ahead of the server, are 72; fifty snapshots of one class with a fault, with three objects each, 150.
pub(super) const MOST_WAITING: usize = 256;

/// Published events that are remembered at most, the one that was longest not repeated forgotten first. A forgotten one is a new object at
/// its next repetition, nothing worse.
pub(super) const MOST_KNOWN: usize = 512;

/// How long an event waits for a server that is away: then somebody who looks at the object sees later ones of more use.
pub(super) const WAITS_SECONDS: u64 = 600;

/// How long a published event is remembered after its last repetition. Servers keep events for an hour, by default and on most clusters; of
/// one that was deleted meanwhile a patch tells, and it is made anew.
pub(super) const KNOWN_SECONDS: u64 = 3300;

/// An event that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) event: Event,
    key: String,
    /// Name of its object at the server, should it be a new one. It stays the same however often it is tried.
    pub(super) name: String,
    /// How often it happened since it waits.
    pub(super) count: u32,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

/// An event that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) count: u32,
    last: Timestamp,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) waiting: Waiting,
    /// The object that it repeats.
    pub(super) repeats: Option<Known>,
}

impl Turn {
    /// How often it happened in all.
    pub(super) fn count(&self) -> u32 {
        self.waiting.count.saturating_add(self.repeats.as_ref().map_or(0, |known| known.count))
    }
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Index {
    waiting: VecDeque<Waiting>,
    known: BTreeMap<String, Known>,
    dropped: u64,
}

impl Index {
    /// Takes an event in. `name` is for its object, should it become a new one.
    pub(super) fn push(&mut self, event: Event, name: String, now: Timestamp) {
        let key = key(&event);
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.key == key) {
            waiting.event = event;
            waiting.count = waiting.count.saturating_add(1);
            waiting.last = now;
            return;
        }
        self.waiting.push_back(Waiting { event, key, name, count: 1, first: now, last: now });
        if self.waiting.len() > MOST_WAITING && self.waiting.pop_front().is_some() {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// What is to be published next, taken out. What has waited too long is dropped.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<Turn> {
        while let Some(waiting) = self.waiting.pop_front() {
            if seconds(waiting.last, now) > WAITS_SECONDS {
                self.dropped = self.dropped.saturating_add(1);
                continue;
            }
            self.known.retain(|_, known| seconds(known.last, now) <= KNOWN_SECONDS);
            let repeats = self.known.get(&waiting.key).cloned();
            return Some(Turn { waiting, repeats });
        }
        None
    }

    /// Notes that the server has it, as an object of this name.
    pub(super) fn published(&mut self, turn: &Turn, name: &str) {
        let known = Known { name: name.to_owned(), count: turn.count(), last: turn.waiting.last };
        self.known.insert(turn.waiting.key.clone(), known);
        if self.known.len() > MOST_KNOWN {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.known.remove(&oldest));
        }
    }

    /// Notes that the server has lost what it repeats.
    pub(super) fn lost(&mut self, turn: &mut Turn) {
        self.known.remove(&turn.waiting.key);
        turn.repeats = None;
    }

    /// Puts one back that is to be tried again, before all others.
    pub(super) fn put_back(&mut self, turn: Turn) {
        let mut waiting = turn.waiting;
        // The same happened meanwhile: the later text, and both are counted.
        if let Some(at) = self.waiting.iter().position(|other| other.key == waiting.key)
            && let Some(later) = self.waiting.remove(at)
        {
            waiting.event = later.event;
            waiting.count = waiting.count.saturating_add(later.count);
            waiting.last = later.last;
        }
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_front(waiting);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Gives one up.
    pub(super) fn drop_one(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    /// Gives up whatever waits.
    pub(super) fn drop_all(&mut self) {
        self.dropped = self.dropped.saturating_add(self.waiting.len() as u64);
        self.waiting.clear();
    }

    /// How many were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// What is the same in two events that are one.
fn key(event: &Event) -> String {
    let repetition = match &event.repetition {
        Repetition::OfText => format!("text {}", event.text),
        Repetition::OfSeries(series) => format!("series {series}"),
    };
    format!("{} {} {repetition}", event.object, event.reason.name())
}

/// Seconds from one time to another; none when the clock was put back.
fn seconds(from: Timestamp, to: Timestamp) -> u64 {
    to.seconds.saturating_sub(from.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::events::{EventObject, EventReason};
    use crate::types::{KubernetesName, NamespacedName};

    fn event(name: &str, reason: EventReason, text: &str) -> Event {
        let text_name = |text: &str| KubernetesName::try_from(text.to_owned()).unwrap();
        Event {
            object: EventObject::Claim(NamespacedName { namespace: text_name("shop"), name: text_name(name) }),
            reason,
            text: text.to_owned(),
            repetition: Repetition::OfText,
        }
    }

    fn progress(text: &str) -> Event {
        Event { repetition: Repetition::OfSeries("t1".to_owned()), ..event("data", EventReason::ExportProgress, text) }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp { seconds, nanoseconds: 0 }
    }

    fn failed(text: &str) -> Event {
        event("data", EventReason::ExportFailed, text)
    }

    #[test]
    fn the_same_text_on_the_same_object_counts_and_another_is_an_event_of_its_own() {
        let mut index = Index::default();
        index.push(failed("denied"), "a".to_owned(), at(1));
        index.push(failed("denied"), "b".to_owned(), at(2));
        index.push(failed("locked"), "c".to_owned(), at(3));
        index.push(event("other", EventReason::ExportFailed, "denied"), "d".to_owned(), at(4));
        let first = index.next(at(5)).unwrap();
        assert_eq!((first.waiting.name.as_str(), first.count(), first.waiting.first, first.waiting.last), ("a", 2, at(1), at(2)));
        index.published(&first, "a");
        index.push(failed("denied"), "e".to_owned(), at(6));
        let names: Vec<_> = std::iter::from_fn(|| index.next(at(7))).collect();
        assert_eq!(names.iter().map(|turn| turn.waiting.name.as_str()).collect::<Vec<_>>(), ["c", "d", "e"]);
        assert_eq!((names[2].repeats.as_ref().unwrap().name.as_str(), names[2].count()), ("a", 3));
        assert_eq!(index.dropped(), 0);
    }

    #[test]
    fn a_series_keeps_its_last_text() {
        let mut index = Index::default();
        index.push(progress("25 %"), "a".to_owned(), at(1));
        index.push(progress("50 %"), "b".to_owned(), at(40));
        let turn = index.next(at(41)).unwrap();
        assert_eq!((turn.waiting.event.text.as_str(), turn.count()), ("50 %", 2));
        index.published(&turn, "a");
        index.push(progress("75 %"), "c".to_owned(), at(80));
        let mut turn = index.next(at(81)).unwrap();
        assert_eq!((turn.count(), turn.repeats.clone().unwrap().name), (3, "a".to_owned()));
        index.lost(&mut turn);
        assert_eq!((turn.count(), turn.repeats, index.next(at(81))), (1, None, None));
    }

    #[test]
    fn what_is_put_back_is_next_and_takes_what_happened_meanwhile_along() {
        let mut index = Index::default();
        index.push(progress("25 %"), "a".to_owned(), at(1));
        index.push(failed("denied"), "b".to_owned(), at(2));
        let turn = index.next(at(3)).unwrap();
        index.push(progress("50 %"), "c".to_owned(), at(4));
        index.put_back(turn);
        let turn = index.next(at(5)).unwrap();
        let waiting = &turn.waiting;
        assert_eq!((waiting.name.as_str(), waiting.event.text.as_str(), waiting.count, waiting.first), ("a", "50 %", 2, at(1)));
        assert_eq!(index.next(at(5)).unwrap().waiting.name, "b");
        assert_eq!(index.next(at(5)), None);
    }

    #[test]
    fn the_oldest_gives_way_and_what_waits_too_long_is_dropped_and_both_are_counted() {
        let mut index = Index::default();
        for number in 0..MOST_WAITING + 3 {
            index.push(failed(&format!("{number}")), number.to_string(), at(1));
        }
        assert_eq!(index.dropped(), 3);
        let turn = index.next(at(2)).unwrap();
        assert_eq!(turn.waiting.name, "3");
        index.push(failed("one more"), "x".to_owned(), at(3));
        index.put_back(turn);
        assert_eq!(index.dropped(), 4, "there is no room for one that is put back into a full queue");
        assert!(index.next(at(2 + WAITS_SECONDS)).is_some_and(|turn| turn.waiting.name == "x"));
        assert_eq!(index.dropped(), 4 + MOST_WAITING as u64 - 1);
        index.push(failed("last"), "y".to_owned(), at(3));
        index.drop_all();
        assert_eq!((index.next(at(3)), index.dropped()), (None, 4 + MOST_WAITING as u64));
    }

    #[test]
    fn what_the_server_has_forgotten_by_now_and_what_is_too_much_is_not_remembered() {
        let mut index = Index::default();
        let publish = |index: &mut Index, text: &str, now| {
            index.push(failed(text), text.to_owned(), now);
            let turn = index.next(now).unwrap();
            index.published(&turn, text);
            turn.repeats.is_some()
        };
        assert!(!publish(&mut index, "a", at(1)));
        assert!(publish(&mut index, "a", at(1 + KNOWN_SECONDS)));
        assert!(!publish(&mut index, "a", at(3 + 2 * KNOWN_SECONDS)));
        let now = at(10_000);
        publish(&mut index, "first", now);
        for number in 0..MOST_KNOWN {
            publish(&mut index, &number.to_string(), at(10_001));
        }
        assert_eq!(index.known.len(), MOST_KNOWN);
        assert!(!publish(&mut index, "first", at(10_002)));
    }
}
