//! Power is cut at any moment of a run, and calls to the disk fail: nothing that was acknowledged is
//! lost.
//!
//! `DASH_CUTS=10000 cargo test --release -p dash-tests --test it power::` makes more cuts, and
//! `DASH_FAULTS=all` fails every call there is instead of some. A failure names the moment and the
//! seed of the cut, and keeps the recording.
//!
//! Only Linux has the shim. Elsewhere one test says so.
#![cfg(test)]

#[cfg(target_os = "linux")]
mod cuts;
#[cfg(target_os = "linux")]
mod failures;
#[cfg(target_os = "linux")]
mod rows;
#[cfg(target_os = "linux")]
mod shim;

#[cfg(not(target_os = "linux"))]
#[test]
fn power_cuts_are_not_tested_on_this_system() {
    eprintln!("power cuts and failing disks were NOT tested: the shim is for Linux");
}
