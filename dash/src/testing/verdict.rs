//! What a conformance suite finds: the case, the rule of the contract that is broken, and how.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;

/// How long a case may take before it counts as hanging. Only what is broken waits that long.
pub(super) const HANG: Duration = Duration::from_secs(60);

/// A rule of a seam's contract that an implementation breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {suite} suite, case `{case}`: {what}\n  broken rule: {rule}")]
pub struct Broken {
    /// The suite: `store`, `provider`, `spawner` or `sink`.
    pub suite: &'static str,
    /// The case that found it, one of the suite's `CASES`.
    pub case: String,
    /// The rule, in the words of the seam's contract.
    pub rule: String,
    /// What was seen.
    pub what: String,
}

/// A rule that is broken, before it is known in which case.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) rule: &'static str,
    pub(super) what: String,
}

/// What a case ends with.
pub(super) type Verdict<T = ()> = Result<T, Fault>;

/// The fault of breaking `rule`.
pub(super) fn broken<T>(rule: &'static str, what: impl Into<String>) -> Verdict<T> {
    let what = what.into();
    Err(Fault { rule, what })
}

/// A fault, unless `holds`.
pub(super) fn ensure(holds: bool, rule: &'static str, what: impl Into<String>) -> Verdict {
    if holds { Ok(()) } else { broken(rule, what) }
}

/// Runs one case: a panic and a hang are findings too.
pub(super) async fn judge(
    suite: &'static str,
    case: &str,
    run: impl Future<Output = Verdict>,
) -> Result<(), Broken> {
    let run = AssertUnwindSafe(run).catch_unwind();
    let fault = match tokio::time::timeout(HANG, run).await {
        Ok(Ok(Ok(()))) => return Ok(()),
        Ok(Ok(Err(fault))) => fault,
        Ok(Err(panic)) => Fault {
            rule: "nothing panics, and each check of the case holds",
            what: crate::spawn::panic_message(panic.as_ref()),
        },
        Err(_elapsed) => Fault {
            rule: "nothing hangs",
            what: format!("no end within {HANG:?}"),
        },
    };
    Err(Broken {
        suite,
        case: case.to_owned(),
        rule: fault.rule.to_owned(),
        what: fault.what,
    })
}

/// The answer to a case that a suite does not have.
pub(super) fn unknown(suite: &'static str, case: &str, known: &[&str]) -> Broken {
    Broken {
        suite,
        case: case.to_owned(),
        rule: "a case is one of `CASES`".to_owned(),
        what: format!(
            "there is none of this name; there are: {}",
            known.join(", ")
        ),
    }
}
