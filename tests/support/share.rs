//! What part of a long test is run.
//!
//! `WINDLASS_SHARE` is `TURN/OF`: of each OF items (moments at which the power is cut, steps at which a node is killed) the test takes one,
//! and of random operations that part of their number, with TURN as the seed. The scripts derive TURN from the commit, so that
//! one commit after the other takes other items, and print it. Without the variable everything is run, with the seed that the test has.
//!
//! Where even a share is long, a run takes less: half of its share of items that are much the same everywhere (steps of a recovery, random
//! operations), and every second of the groups that need much before their first item (calls, at whose steps a node is killed). In four
//! times OF turns each item of each group is taken all the same.
//!
//! An item that is taken is tested as ever. What a test expects of a whole run it must expect of a part accordingly.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "test support; no test uses all of it")]

use std::fmt;

/// The variable that says which part.
const VARIABLE: &str = "WINDLASS_SHARE";

/// The part that is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    turn: u64,
    of: u64,
}

impl Share {
    /// Everything.
    pub const WHOLE: Self = Self { turn: 0, of: 1 };

    /// What the environment asks for.
    ///
    /// # Panics
    /// When that is malformed: a run that tested other things than were asked for would be taken for them.
    pub fn of_this_run() -> Self {
        match std::env::var(VARIABLE) {
            Err(_) => Self::WHOLE,
            Ok(text) if text.is_empty() => Self::WHOLE,
            Ok(text) => Self::parse(&text).unwrap_or_else(|| panic!("{VARIABLE} is `{text}` and must be TURN/OF, such as 3/4")),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (turn, of) = text.split_once('/')?;
        let (turn, of) = (turn.parse().ok()?, of.parse().ok()?);
        (of > 0).then_some(Self { turn, of })
    }

    /// Whether the item with this number is taken: of any `of` that follow each other, one.
    pub fn takes(self, number: u64) -> bool {
        number.wrapping_add(self.turn % self.of).is_multiple_of(self.of)
    }

    /// The same of twice as many, for items that are many and much the same.
    pub fn rarer(self) -> Self {
        Self { of: if self.of == 1 { 1 } else { 2 * self.of }, ..self }
    }

    /// Whether the group of items with this number is taken: of any two that follow each other, one. It is the other one as soon as all
    /// items, the rare ones too, had their turn.
    pub fn takes_group(self, number: u64) -> bool {
        self.of == 1 || number.wrapping_add(self.turn / (2 * self.of)).is_multiple_of(2)
    }

    /// The part of a number, rounded up.
    pub fn part(self, whole: u64) -> u64 {
        whole.div_ceil(self.of)
    }

    /// At least how many of so many items are taken, wherever they begin.
    pub fn at_least(self, items: u64) -> u64 {
        items / self.of
    }

    /// The seed of random operations: `whole` when everything is run.
    pub fn seed(self, whole: u64) -> u64 {
        if self == Self::WHOLE { whole } else { self.turn }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WHOLE => f.write_str("all of it"),
            Self { turn, of } => write!(f, "share {} of {of}", turn % of + 1),
        }
    }
}

#[test]
fn each_item_is_taken_in_one_of_the_turns() {
    for of in 1..=5 {
        for number in 0..20 {
            let turns = (100..100 + of).filter(|turn| Share { turn: *turn, of }.takes(number)).count();
            assert_eq!(turns, 1, "item {number} in shares of {of}");
        }
        let taken = |from: u64| (from..from + 20).filter(|number| Share { turn: 7, of }.takes(*number)).count() as u64;
        assert!((0..5).all(|from| (Share { turn: 7, of }.at_least(20)..=Share { turn: 7, of }.part(20)).contains(&taken(from))));
    }
}

#[test]
fn each_item_of_each_group_is_taken_in_four_times_as_many_turns() {
    for of in 2..=5 {
        for (group, number) in (0..4).flat_map(|group| (0..20).map(move |number| (group, number))) {
            let turns = (400..400 + 4 * of).map(|turn| Share { turn, of }).filter(|share| share.takes_group(group));
            let (taken, rarely): (Vec<bool>, Vec<bool>) =
                turns.map(|share| (share.takes(number), share.rarer().takes(number))).unzip();
            let count = |taken: &[bool]| taken.iter().filter(|is_taken| **is_taken).count();
            assert_eq!((count(&taken), count(&rarely)), (2, 1), "item {number} of group {group} in shares of {of}");
        }
    }
    assert!((0..20).all(|number| Share::WHOLE.rarer().takes(number) && Share::WHOLE.takes_group(number)));
}

#[test]
fn a_share_is_a_turn_and_a_number_of_turns() {
    assert_eq!(Share::parse("7/4"), Some(Share { turn: 7, of: 4 }));
    assert_eq!(["", "4", "1/0", "-1/4", "1/x", "1/4/2"].map(Share::parse), [None; 6]);
    assert_eq!(
        (Share::WHOLE.to_string(), Share { turn: 7, of: 4 }.to_string()),
        ("all of it".to_owned(), "share 4 of 4".to_owned())
    );
}
