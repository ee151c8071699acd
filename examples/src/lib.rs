//! Programs that show one idea each; see `examples/*`. `cargo run --example swarm` works from the
//! root of the repository, offline, without a key.
