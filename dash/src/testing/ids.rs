//! Ids from a counter: the same run makes the same ids.

use std::sync::{Mutex, PoisonError};

use crate::env::{IdSource, UnixMillis};

/// An [`IdSource`] whose ids are a seed and a counter below the given instant.
#[derive(Debug, Default)]
pub struct CountingIds {
    state: Mutex<(u128, u64)>,
}

impl CountingIds {
    /// Ids that differ from those of another seed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self {
            state: Mutex::new((0, seed)),
        }
    }
}

/// One step of splitmix64: spreads a counter over 64 bits.
const fn spread(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl IdSource for CountingIds {
    fn next(&self, at: UnixMillis) -> u128 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = spread(state.1);
        let millis = u128::try_from(at.0).unwrap_or(0) & 0xffff_ffff_ffff;
        let fresh = (millis << 80) | u128::from(state.1);
        state.0 = if fresh > state.0 { fresh } else { state.0 + 1 };
        state.0
    }
}
