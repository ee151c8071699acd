//! What tests of Dash and of its implementers need: a clock moved by hand, ids from a counter,
//! stores that fail on demand, and conformance suites for stores and providers.
//!
//! Feature `test-util`. Nothing outside tests and examples uses it.

mod clock;
pub mod faulty_store;
mod ids;
pub mod provider_suite;
pub(crate) mod samples;
#[cfg(feature = "http")]
pub mod sse;
pub mod store_suite;

pub use clock::ManualClock;
pub use faulty_store::FaultyStore;
pub use ids::CountingIds;
