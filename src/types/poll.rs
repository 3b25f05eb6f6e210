//! Waiting for what announces itself by no event: asking again until it is so, or a deadline has passed.
//!
//! Nobody may sleep instead of waiting for a condition. Where the kernel, or a store, offers nothing to wait on, the only honest way is
//! to ask again; it is spelled here, once, so that each place must say what it asks, how often and for how long.

use std::thread;
use std::time::{Duration, Instant};

/// How long is asked, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// No question is asked later than this after the first.
    pub limit: Duration,
    /// Between two questions.
    pub every: Duration,
}

/// Asks until there is an answer. `None` when there was none when the time was up; it is asked once at least.
///
/// # Errors
/// The question's, at once.
pub fn until<T, E>(patience: Patience, mut question: impl FnMut() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
    let deadline = Instant::now() + patience.limit;
    loop {
        if let Some(answer) = question()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        pause(patience.every);
    }
}

/// Lets some time pass between two questions, or between two steps of what must not go faster. The only place that sleeps.
#[expect(clippy::disallowed_methods, reason = "what is asked about announces itself by no event")]
pub fn pause(every: Duration) {
    thread::sleep(every);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const QUICK: Patience = Patience { limit: Duration::from_millis(20), every: Duration::from_millis(1) };

    #[test]
    fn the_first_answer_ends_it() {
        let mut asked = 0;
        let answer = until(Patience { limit: Duration::from_secs(3600), ..QUICK }, || {
            asked += 1;
            Ok::<_, Infallible>((asked == 3).then_some("now"))
        });
        assert_eq!((answer, asked), (Ok(Some("now")), 3));
    }

    #[test]
    fn an_error_is_not_asked_about_again() {
        let mut asked = 0;
        let answer: Result<Option<()>, _> = until(QUICK, || {
            asked += 1;
            Err("no")
        });
        assert_eq!((answer, asked), (Err("no"), 1));
    }

    #[test]
    fn without_an_answer_it_ends_after_its_time_and_is_asked_once_at_least() {
        let began = Instant::now();
        assert_eq!(until(QUICK, || Ok::<_, Infallible>(None::<()>)), Ok(None));
        assert!(began.elapsed() >= QUICK.limit);
        let mut asked = 0;
        let none = Patience { limit: Duration::ZERO, ..QUICK };
        assert_eq!(until(none, || Ok::<_, Infallible>((asked += 1, None::<()>).1)), Ok(None));
        assert_eq!(asked, 1);
    }
}
