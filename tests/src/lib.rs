//! dash-tests
