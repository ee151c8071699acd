//! Tests of the whole, as one binary.

mod crash;
mod crash_audit;
mod crash_child;
mod crash_open;
mod example;
mod real_model;
