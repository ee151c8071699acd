//! Tests of the whole, as one binary.

mod crash;
mod crash_audit;
mod crash_child;
