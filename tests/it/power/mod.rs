//! Power is cut at any moment of a run, and calls to the disk fail: nothing that was acknowledged is
//! lost.
//!
//! `DASH_CUTS=10000 cargo test --release -p dash-tests --test it power::` makes more cuts, and
//! `DASH_FAULTS=all` fails every call there is instead of some. A failure names the moment and the
//! seed of the cut, and keeps the recording.
//!
//! The shim is for 64-bit Linux with the GNU C library. Elsewhere tests say that they did not run.
#![cfg(test)]

#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod cuts;
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod failures;
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod rows;
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod shim;

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
mod cuts {
    #[test]
    fn power_cuts_are_not_tested_on_this_system() {
        crate::crash_child::tell(
            "power cuts: did NOT run, the shim is for 64-bit Linux with glibc",
        );
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
mod failures {
    #[test]
    fn failing_disks_are_not_tested_on_this_system() {
        crate::crash_child::tell(
            "failing disks: did NOT run, the shim is for 64-bit Linux with glibc",
        );
    }
}
