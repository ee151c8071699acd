//! dash-examples
