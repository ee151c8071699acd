//! How many random cases a test runs.

use proptest::test_runner::Config;

/// This many cases, so that a test takes seconds; more if `PROPTEST_CASES` asks for more.
pub(crate) fn cases(count: u32) -> Config {
    let config = Config::default();
    // The default of the library, unless the variable says something else.
    let is_asked = config.cases != 256;
    let cases = if is_asked {
        config.cases.max(count)
    } else {
        count
    };
    Config { cases, ..config }
}
