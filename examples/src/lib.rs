//! Programs that show one idea each; see `examples/*`. `cargo run --example swarm` works from the
//! root of the repository, offline, without a key.

// The Rust blocks of the documents are compiled, and where they can be, run, as doctests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../README.md")]
    mod readme {}

    #[doc = include_str!("../../docs/guide/getting-started.md")]
    mod getting_started {}

    #[doc = include_str!("../../docs/guide/tools.md")]
    mod tools {}

    #[doc = include_str!("../../docs/guide/providers.md")]
    mod providers {}

    #[doc = include_str!("../../docs/guide/agents.md")]
    mod agents {}

    #[doc = include_str!("../../docs/guide/seams.md")]
    mod seams {}
    #[doc = include_str!("../../docs/guide/proof.md")]
    mod proof {}
}
