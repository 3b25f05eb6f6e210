//! When credentials are renewed: decisions, without I/O and without a clock of their own.
//!
//! They are renewed [`BEFORE_THE_END`] before they expire, or when a quarter of their time is left, whichever is later: Amazon's metadata
//! services have the next ones five minutes before the end. Until then they go on being used while the source is asked, also when
//! it does not answer, and it is asked again only [`AGAIN_AFTER`] later.
//!
//! Credentials that were just given are used even if this machine's clock says that they have expired: the clock may be wrong, and the
//! store is the judge. If the
//! store says that a token has expired ([`Held::distrust`]), the source is asked at once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::aws::AwsCredential;

/// How long before their end credentials are renewed.
const BEFORE_THE_END: Duration = Duration::from_secs(5 * 60);
/// How long a source is not asked again while there are credentials to use.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Credentials, fresh from their source.
pub struct Issued {
    pub credential: AwsCredential,
    /// When they expire; `None`: the source does not say.
    pub until: Option<SystemTime>,
}

/// What to do for a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Sign with these.
    Use(Arc<AwsCredential>),
    /// Ask the source, and sign with these if another request does so already or if it does not answer.
    Soon(Arc<AwsCredential>),
    /// Ask the source: there are none to use.
    Now,
}

/// The credentials that are held.
#[derive(Default)]
pub struct Held {
    current: Option<Current>,
    /// When the source was last asked.
    asked: Option<SystemTime>,
}

struct Current {
    credential: Arc<AwsCredential>,
    got: SystemTime,
    until: Option<SystemTime>,
    standing: Standing,
    /// Whether the store refused the credentials before these.
    after_refusal: bool,
}

/// Whether the store has accepted the credentials.
#[derive(PartialEq, Eq)]
enum Standing {
    Untried,
    Accepted,
    Refused,
}

impl Held {
    /// What to do for a request now.
    pub fn due(&self, now: SystemTime) -> Due {
        let Some(current) = self.current.as_ref().filter(|current| current.standing != Standing::Refused) else {
            return Due::Now;
        };
        let credential = Arc::clone(&current.credential);
        // A clock that was put back says nothing: then it has been long enough.
        let rested = self.asked.and_then(|asked| now.duration_since(asked).ok()).is_none_or(|since| since >= AGAIN_AFTER);
        let Some(until) = current.until else { return Due::Use(credential) };
        let lifetime = until.duration_since(current.got).unwrap_or_default();
        let left = until.duration_since(now).unwrap_or_default();
        match (left > BEFORE_THE_END.min(lifetime / 4), rested) {
            (true, _) => Due::Use(credential),
            (false, true) if left.is_zero() => Due::Now,
            (false, true) => Due::Soon(credential),
            (false, false) if left.is_zero() && self.asked != Some(current.got) => Due::Now,
            (false, false) => Due::Use(credential),
        }
    }

    /// Takes the answer of the source to a question of this time. False when these are the credentials that the store refuses.
    pub fn accept(&mut self, issued: Issued, asked: SystemTime) -> bool {
        self.asked = Some(asked);
        let refused = self.current.as_ref().filter(|current| current.standing == Standing::Refused);
        if refused.is_some_and(|refused| *refused.credential == issued.credential) {
            return false;
        }
        self.current = Some(Current {
            after_refusal: refused.is_some(),
            credential: Arc::new(issued.credential),
            got: asked,
            until: issued.until,
            standing: Standing::Untried,
        });
        true
    }

    /// Notes that the source was asked at this time, and gave none.
    pub fn failed(&mut self, asked: SystemTime) {
        self.asked = Some(asked);
    }

    /// Notes that the store took a request that was signed with the credentials of this token.
    pub fn trust(&mut self, token: &str) {
        if let Some(current) = self.current.as_mut().filter(|current| current.has(token) && current.standing == Standing::Untried)
        {
            current.standing = Standing::Accepted;
        }
    }

    /// Notes that the store says that this token is no longer valid. True when a repeated request is signed with others, which may succeed:
    /// not when the store has refused two in a row.
    pub fn distrust(&mut self, token: &str) -> bool {
        let Some(current) = self.current.as_mut().filter(|current| current.has(token)) else { return true };
        let hope = current.standing != Standing::Untried || !current.after_refusal;
        current.standing = Standing::Refused;
        hope
    }
}

impl Current {
    fn has(&self, token: &str) -> bool {
        self.credential.token.as_deref() == Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(token: &str) -> AwsCredential {
        AwsCredential { key_id: "AKIA".into(), secret_key: "secret".into(), token: Some(token.into()) }
    }

    /// Seconds after the time at which these tests begin.
    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    /// Given at 0, until `until`.
    fn held(until: Option<u64>) -> (Held, Arc<AwsCredential>) {
        let mut held = Held::default();
        assert_eq!(held.due(at(0)), Due::Now);
        assert!(held.accept(Issued { credential: credential("one"), until: until.map(at) }, at(0)));
        (held, Arc::new(credential("one")))
    }

    #[test]
    fn credentials_are_renewed_before_they_expire() {
        let (mut held, one) = held(Some(3600));
        for (seconds, due) in [
            (0, Due::Use(one.clone())),
            (3299, Due::Use(one.clone())),
            (3300, Due::Soon(one.clone())),
            (3599, Due::Soon(one.clone())),
            (3600, Due::Now),
            (9999, Due::Now),
        ] {
            assert_eq!(held.due(at(seconds)), due, "{seconds}");
        }
        held.failed(at(3300));
        assert_eq!(held.due(at(3301)), Due::Use(one.clone()), "a source that does not answer is left in peace for a while");
        assert_eq!(held.due(at(3310)), Due::Soon(one));
        held.failed(at(3601));
        assert_eq!(held.due(at(3602)), Due::Now, "there is nothing else to use");
    }

    #[test]
    fn short_lived_ones_are_renewed_in_their_last_quarter() {
        let (held, one) = held(Some(100));
        assert_eq!(held.due(at(74)), Due::Use(one.clone()));
        assert_eq!(held.due(at(75)), Due::Soon(one));
    }

    #[test]
    fn a_wrong_clock_makes_no_storm_of_questions() {
        let mut held = Held::default();
        held.accept(Issued { credential: credential("one"), until: Some(at(0)) }, at(5000));
        assert_eq!(held.due(at(5001)), Due::Use(Arc::new(credential("one"))));
        assert_eq!(held.due(at(5010)), Due::Now);
    }

    #[test]
    fn credentials_without_an_end_last_until_the_store_refuses_them() {
        let (mut held, one) = held(None);
        assert_eq!(held.due(at(1 << 30)), Due::Use(one));
        assert!(held.distrust("one"));
        assert_eq!(held.due(at(0)), Due::Now);
        assert!(!held.accept(Issued { credential: credential("one"), until: None }, at(1)), "the same again");
        assert_eq!(held.due(at(2)), Due::Now);
        assert!(held.accept(Issued { credential: credential("two"), until: None }, at(3)));
        assert!(held.distrust("one"), "a request that was signed before is repeated");
        assert_eq!(held.due(at(4)), Due::Use(Arc::new(credential("two"))));
    }

    #[test]
    fn a_store_that_refuses_what_it_never_took_is_believed() {
        let (mut held, _) = held(None);
        held.trust("one");
        assert!(held.distrust("one"));
        held.accept(Issued { credential: credential("two"), until: None }, at(1));
        assert!(!held.distrust("two"), "two in a row, and the second was never taken");
        held.accept(Issued { credential: credential("three"), until: None }, at(2));
        held.trust("three");
        assert!(held.distrust("three"));
    }
}
