//! Who has the next turn of those that wait. Pure.
//!
//! The highest [`Precedence`] first, and of the same one that came first; but whoever came first of all is passed over
//! [`MAX_PASSED_OVER`] times at most and has its turn then. So one of low precedence gets on however many others come, and what is
//! urgent waits for one such turn of eight: all that wait do not become urgent by waiting, for then nothing would be.

use crate::types::ExportPriority;

/// Transfers that wait for their turn. Each holds the credentials that its caller brought, some KiB; those of more snapshots than a night's
/// rotation of a node cuts come again with their callers.
pub(super) const MAX_WAITING: usize = 64;

/// How many others have their turn before the one that came first of all.
const MAX_PASSED_OVER: u32 = 7;

/// Which of the transfers that wait has its turn first. In order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precedence {
    /// An export of a class, by its priority.
    Export(ExportPriority),
    /// A restore: a pod waits for its volume.
    Restore,
}

/// Those that wait, in the order in which they came.
#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: Vec<(Precedence, T)>,
    /// Turns since the one that came first of all had its turn.
    passed_over: u32,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: Vec::new(), passed_over: 0 }
    }
}

impl<T> Queue<T> {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Lets one more wait, unless as many wait as may.
    ///
    /// # Errors
    /// It, given back.
    pub(super) fn push(&mut self, precedence: Precedence, one: T) -> Result<(), T> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(one);
        }
        self.waiting.push((precedence, one));
        Ok(())
    }

    /// Takes out whoever waits no longer.
    pub(super) fn retain(&mut self, waits: impl Fn(&T) -> bool) {
        self.waiting.retain(|(_, one)| waits(one));
    }

    /// Takes out the one whose turn it is.
    pub(super) fn next(&mut self) -> Option<T> {
        let at = whose_turn(self.waiting.iter().map(|(precedence, _)| *precedence), self.passed_over)?;
        self.passed_over = if at == 0 { 0 } else { self.passed_over + 1 };
        Some(self.waiting.remove(at).1)
    }
}

/// Which of those that wait, in the order in which they came, has its turn when the first of them was passed over so often.
fn whose_turn(waiting: impl Iterator<Item = Precedence>, passed_over: u32) -> Option<usize> {
    let highest = waiting.enumerate().min_by_key(|&(at, precedence)| (std::cmp::Reverse(precedence), at))?.0;
    Some(if passed_over < MAX_PASSED_OVER { highest } else { 0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Precedence; 4] = [
        Precedence::Export(ExportPriority::Low),
        Precedence::Export(ExportPriority::Normal),
        Precedence::Export(ExportPriority::High),
        Precedence::Restore,
    ];

    #[test]
    fn one_of_low_precedence_has_the_eighth_turn_however_many_others_come() {
        let mut queue = Queue::default();
        queue.push(ALL[0], "low").unwrap();
        queue.push(ALL[1], "normal").unwrap();
        let mut turns = Vec::new();
        for _ in 0..10 {
            queue.push(ALL[3], "restore").unwrap();
            turns.push(queue.next().unwrap());
        }
        let expected = [["restore"; 7].as_slice(), &["low", "restore", "restore"]].concat();
        assert_eq!(turns, expected, "and the one behind it is not urgent by that");
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Comes(Precedence),
        Turn,
        /// The one at this place gives up.
        Goes(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => prop::sample::select(&ALL[..]).prop_map(Step::Comes),
            3 => Just(Step::Turn),
            1 => (0..MAX_WAITING).prop_map(Step::Goes),
        ];
        prop::collection::vec(step, 0..600)
    }

    proptest! {
        /// With so many before it: as many times eight turns, and its own eight.
        #[test]
        fn whoever_waits_has_its_turn_after_a_bounded_number_of_others(steps in steps()) {
            let mut queue = Queue::default();
            // Those that wait, as they came: number, precedence, and how many turns they wait for at most.
            let mut model: Vec<(usize, Precedence, u32)> = Vec::new();
            let mut passed_over = 0;
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Comes(precedence) => {
                        let ahead = u32::try_from(model.len()).unwrap();
                        match queue.push(precedence, number) {
                            Ok(()) => model.push((number, precedence, (ahead + 1) * (MAX_PASSED_OVER + 1))),
                            Err(_) => prop_assert_eq!(model.len(), MAX_WAITING),
                        }
                    }
                    Step::Goes(at) if at < model.len() => {
                        let gone = model.remove(at).0;
                        queue.retain(|number| *number != gone);
                    }
                    Step::Goes(_) => {}
                    Step::Turn => {
                        let Some(served) = queue.next() else {
                            prop_assert!(model.is_empty());
                            continue;
                        };
                        let at = model.iter().position(|(number, ..)| *number == served).unwrap();
                        let (_, precedence, _) = model.remove(at);
                        // It is the first of all when that is due, and else the first of the highest.
                        if passed_over < MAX_PASSED_OVER {
                            prop_assert!(model.iter().take(at).all(|(_, other, _)| *other < precedence));
                            prop_assert!(model.iter().skip(at).all(|(_, other, _)| *other <= precedence));
                        } else {
                            prop_assert_eq!(at, 0);
                        }
                        passed_over = if at == 0 { 0 } else { passed_over + 1 };
                        for (_, _, turns) in &mut model {
                            *turns -= 1;
                            prop_assert!(*turns > 0, "one waits for ever");
                        }
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}
