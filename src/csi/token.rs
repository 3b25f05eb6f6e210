//! Tokens and pages of lists.
//!
//! A token is the handle of the last entry that was given out. Lists ascend by handle, so a token stays good while objects
//! come and go, that entry among them.

use crate::types::PoolId;

use super::error::RequestError;

/// One page of an ascending list.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub entries: Vec<T>,
    /// Where the next page begins; empty when there is none.
    pub next_token: String,
}

/// How much of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest<H> {
    /// Entries come after this one.
    after: Option<H>,
    /// At most so many.
    limit: usize,
}

/// Most entries of one page, whatever is asked for. A Go client takes messages of 4 MiB, and an entry has at most 500 bytes.
pub const MAX_ENTRIES: usize = 8192;

impl<H: Ord + Copy + std::fmt::Display + std::str::FromStr> PageRequest<H> {
    /// Checks `max_entries` and `starting_token`. `pool` names the pool of a handle; a token of a pool that is not among
    /// `pools` was not issued here.
    ///
    /// # Errors
    /// Invalid for negative `max_entries`; [`super::error::Fault::Token`] for a token that was not issued by us.
    pub fn new(max_entries: i32, starting_token: &str, pools: &[PoolId], pool: fn(&H) -> PoolId) -> Result<Self, RequestError> {
        let limit = match usize::try_from(max_entries) {
            Ok(0) => MAX_ENTRIES,
            Ok(limit) => limit.min(MAX_ENTRIES),
            Err(_) => return Err(RequestError::invalid("max_entries", "must not be negative")),
        };
        let foreign = || RequestError::token("starting_token", "was not issued by this driver; list again from the start");
        let after = match starting_token {
            "" => None,
            text => Some(text.parse::<H>().ok().filter(|handle| pools.contains(&pool(handle))).ok_or_else(foreign)?),
        };
        Ok(Self { after, limit })
    }

    /// The page of `entries`, which may come in any order.
    pub fn cut<T>(self, mut entries: Vec<(H, T)>) -> Page<(H, T)> {
        entries.retain(|(handle, _)| self.after.is_none_or(|after| *handle > after));
        entries.sort_unstable_by_key(|(handle, _)| *handle);
        let mut next_token = String::new();
        if entries.len() > self.limit {
            entries.truncate(self.limit);
            next_token = entries.last().map(|(handle, _)| handle.to_string()).unwrap_or_default();
        }
        Page { entries, next_token }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::error::Fault;
    use crate::types::{VolumeHandle, VolumeId};

    const POOL: PoolId = PoolId::from_bytes([1; 16]);

    fn handle(number: u8) -> VolumeHandle {
        VolumeHandle { pool: POOL, volume: VolumeId::from_bytes([number; 16]) }
    }

    fn request(max_entries: i32, token: &str) -> Result<PageRequest<VolumeHandle>, Fault> {
        PageRequest::new(max_entries, token, &[POOL], |handle: &VolumeHandle| handle.pool).map_err(|error| error.fault)
    }

    #[test]
    fn pages_cover_the_list_once_also_when_it_changes_between_them() {
        let list = |numbers: &[u8]| numbers.iter().map(|&number| (handle(number), number)).collect::<Vec<_>>();
        let first = request(2, "").unwrap().cut(list(&[5, 1, 3]));
        assert_eq!(first.entries.iter().map(|entry| entry.1).collect::<Vec<_>>(), [1, 3]);
        let rest = request(2, &first.next_token).unwrap().cut(list(&[5, 2, 4]));
        assert_eq!(rest.entries.iter().map(|entry| entry.1).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(rest.next_token, "");
        assert_eq!(request(9, "").unwrap().cut(list(&[1])).next_token, "");
    }

    #[test]
    fn a_page_is_never_more_than_a_client_takes() {
        let numbers = 0..=u16::MAX;
        let all: Vec<_> = numbers
            .map(|number| {
                let mut id = [0; 16];
                id[..2].copy_from_slice(&number.to_be_bytes());
                (VolumeHandle { pool: POOL, volume: VolumeId::from_bytes(id) }, number)
            })
            .collect();
        for asked in [0, 100_000] {
            let (mut token, mut seen) = (String::new(), 0);
            loop {
                let page = request(asked, &token).unwrap().cut(all.clone());
                assert!(page.entries.len() <= MAX_ENTRIES);
                seen += page.entries.len();
                token = page.next_token;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(seen, all.len());
        }
    }

    #[test]
    fn tokens_of_others_are_refused() {
        let elsewhere = VolumeHandle { pool: PoolId::from_bytes([2; 16]), volume: VolumeId::from_bytes([1; 16]) };
        for token in ["invalid-token", "1", &elsewhere.to_string()] {
            assert_eq!(request(0, token).unwrap_err(), Fault::Token);
        }
        assert_eq!(request(-1, "").unwrap_err(), Fault::Invalid);
    }
}
