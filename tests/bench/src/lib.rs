//! dash-bench
