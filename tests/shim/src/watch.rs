//! What is watched, and the journal.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::calls::kernel;
use crate::fault::{Call, How, Plan};
use crate::record::{Head, Kind};

/// Descriptors that can be watched; systems give programs 1,024 unless they ask for more.
const FDS_MAX: usize = 4_096;

/// Where a journal ends the program: it would be more than a test reads.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// Marks in a watched descriptor's word, above the inode's number.
const APPENDS: u64 = 1 << 63;
const MAY_FAIL: u64 = 1 << 62;

/// Per descriptor: 0, or the inode's number and the marks.
static FDS: [AtomicU64; FDS_MAX] = [const { AtomicU64::new(0) }; FDS_MAX];

/// A watched descriptor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    /// The inode's number.
    pub(crate) file: u64,
    /// Whether it always writes at the end.
    pub(crate) appends: bool,
    may_fail: bool,
}

/// The shim's state; there is one.
#[derive(Debug)]
pub(crate) struct Watch {
    dir: Vec<u8>,
    journal: Option<Mutex<Journal>>,
    fault: Option<Plan>,
    faulty: Vec<u8>,
    syncs: AtomicU64,
}

/// The file that records go to.
#[derive(Debug)]
pub(crate) struct Journal {
    fd: i32,
    bytes: u64,
}

/// The shim's state; `None` if nothing is watched.
pub(crate) fn watch() -> Option<&'static Watch> {
    static WATCH: OnceLock<Option<Watch>> = OnceLock::new();
    WATCH.get_or_init(Watch::from_environment).as_ref()
}

/// Ends the program.
pub(crate) fn give_up(why: &str) -> ! {
    let text = ["dash-shim: ", why, "\n"].concat();
    kernel::write(2, text.as_bytes());
    std::process::abort()
}

impl Watch {
    fn from_environment() -> Option<Self> {
        let dir = std::env::var_os("DASH_SHIM_DIR")?;
        let journal = std::env::var_os("DASH_SHIM_JOURNAL").map(|path| {
            let fd = kernel::create(&path);
            if fd < 0 {
                give_up("the journal cannot be made");
            }
            Mutex::new(Journal { fd, bytes: 0 })
        });
        let fault = std::env::var_os("DASH_SHIM_FAULT").map(|text| {
            let plan = text.to_str().and_then(Plan::parse);
            plan.unwrap_or_else(|| give_up("DASH_SHIM_FAULT is no plan"))
        });
        let faulty = std::env::var_os("DASH_SHIM_FAULTY").unwrap_or_default();
        Some(Self {
            dir: dir.as_bytes().to_vec(),
            journal,
            fault,
            faulty: faulty.as_bytes().to_vec(),
            syncs: AtomicU64::new(0),
        })
    }

    /// The name of a watched file; empty for the directory itself.
    pub(crate) fn name<'a>(&self, path: &'a CStr) -> Option<&'a [u8]> {
        let rest = path.to_bytes().strip_prefix(self.dir.as_slice())?;
        match rest.split_first() {
            None => Some(rest),
            Some((b'/', name)) if !name.contains(&b'/') => Some(name),
            Some(_) => None,
        }
    }

    /// Nobody else writes, and writes to the journal, until this is dropped.
    pub(crate) fn lock(&self) -> Option<MutexGuard<'_, Journal>> {
        let journal = self.journal.as_ref()?;
        Some(journal.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number for a flush.
    pub(crate) fn sync_number(&self) -> u64 {
        self.syncs.fetch_add(1, Ordering::SeqCst)
    }

    /// Counts a call to a file of this name; how it is to fail, if it is.
    pub(crate) fn fails_by_name(&self, name: &[u8], call: Call) -> Option<How> {
        if name.is_empty() || !name.starts_with(&self.faulty) {
            return None;
        }
        self.fails(call, 0, name)
    }

    /// The same for a descriptor.
    pub(crate) fn fails_by_fd(&self, fd: Watched, call: Call) -> Option<How> {
        if !fd.may_fail {
            return None;
        }
        self.fails(call, fd.file, &[])
    }

    fn fails(&self, call: Call, file: u64, name: &[u8]) -> Option<How> {
        let plan = self.fault.as_ref()?;
        let how = plan.count(call)?;
        if let Some(mut journal) = self.lock() {
            journal.note(Kind::Fault, file, 0, name);
        }
        Some(how)
    }

    /// Watches a descriptor from now on.
    pub(crate) fn add(&self, fd: i32, name: &[u8], appends: bool) -> u64 {
        let Some(file) = kernel::inode(fd) else {
            give_up("a file has no inode");
        };
        if file & (APPENDS | MAY_FAIL) != 0 {
            give_up("an inode's number is too large");
        }
        let mut word = file;
        if appends {
            word |= APPENDS;
        }
        if !name.is_empty() && name.starts_with(&self.faulty) {
            word |= MAY_FAIL;
        }
        match slot(fd) {
            Some(slot) => slot.store(word, Ordering::SeqCst),
            None => give_up("a descriptor's number is too large"),
        }
        file
    }
}

fn slot(fd: i32) -> Option<&'static AtomicU64> {
    FDS.get(usize::try_from(fd).ok()?)
}

/// What is known of a descriptor; `None` if it is not watched.
pub(crate) fn watched(fd: i32) -> Option<Watched> {
    let word = slot(fd)?.load(Ordering::SeqCst);
    (word != 0).then_some(Watched {
        file: word & !(APPENDS | MAY_FAIL),
        appends: word & APPENDS != 0,
        may_fail: word & MAY_FAIL != 0,
    })
}

/// A descriptor is closed.
pub(crate) fn forget(fd: i32) {
    if let Some(slot) = slot(fd) {
        slot.store(0, Ordering::SeqCst);
    }
}

impl Journal {
    /// Writes a record.
    pub(crate) fn note(&mut self, kind: Kind, file: u64, at: u64, data: &[u8]) {
        let len = data.len() as u64;
        let head = Head {
            kind,
            file,
            at,
            len,
        };
        self.bytes += len + 32;
        if self.bytes > JOURNAL_BYTES_MAX {
            give_up("the journal is too long");
        }
        for mut rest in [head.encode().as_slice(), data] {
            while !rest.is_empty() {
                let written = usize::try_from(kernel::write(self.fd, rest)).unwrap_or(0);
                match rest.get(written..) {
                    Some(left) if written > 0 => rest = left,
                    _ => give_up("the journal cannot be written to"),
                }
            }
        }
    }
}

/// The bytes of a path of the environment, ended as C wants it; `None` if it holds a zero.
pub(crate) fn c_path(path: &OsStr) -> Option<std::ffi::CString> {
    std::ffi::CString::new(path.as_bytes()).ok()
}
