//! Pure rules: what a budget allows, and how long to wait before a retry. No IO, no clock, no
//! channels; every input is an argument.

pub mod burn;
#[cfg(test)]
mod random_tests;
pub mod reserve;
pub mod retry;
