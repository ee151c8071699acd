//! The disk as a recording goes on, and what of it a power cut leaves.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::record::Kind;
use super::{Dice, Op, Recording};

/// Bytes of rubbish in a `-shm` that a cut has left.
const SHM_BYTES: usize = 32_768;

/// A change of a file that no flush has covered.
#[derive(Debug, Clone)]
enum Change {
    /// Data of the journal was written at a place.
    Write(usize, Range<usize>),
    /// The file was cut or grown to so many bytes.
    Size(usize),
}

/// A change of the directory that no flush has covered.
#[derive(Debug, Clone)]
enum Naming {
    Made(String, usize),
    Removed(String),
    Renamed(String, String),
}

/// A file: what is certain to be on the disk, and what has changed since.
#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    changes: Vec<Change>,
    /// Changes that have become durable, ever.
    flushed: usize,
}

/// What a flush covers: up to which change of which file, or of the directory.
#[derive(Debug, Clone, Copy)]
enum Flush {
    File(usize, usize),
    Names(usize),
}

/// What happens to changes that no flush has covered.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    /// Those up to some point, and a torn one.
    Begun,
    /// Some of them.
    Some,
    /// Some of their sectors, of so many bytes.
    Torn(usize),
}

/// A disk while a recording is played to it.
#[derive(Debug)]
pub struct Disk<'a> {
    recording: &'a Recording,
    /// How the names of the database's files begin.
    database: &'a str,
    at: usize,
    files: Vec<File>,
    /// Inode to file; inodes are used again.
    inodes: BTreeMap<u64, usize>,
    directory: Option<u64>,
    /// Names that are certain to be on the disk.
    durable: BTreeMap<String, usize>,
    /// Names as the program sees them.
    names: BTreeMap<String, usize>,
    namings: Vec<Naming>,
    names_flushed: usize,
    flushes: BTreeMap<u64, Flush>,
}

impl<'a> Disk<'a> {
    /// An empty disk. Names of the database's files begin with `database`; other files are the
    /// world outside.
    #[must_use]
    pub const fn new(recording: &'a Recording, database: &'a str) -> Self {
        Self {
            recording,
            database,
            at: 0,
            files: Vec::new(),
            inodes: BTreeMap::new(),
            directory: None,
            durable: BTreeMap::new(),
            names: BTreeMap::new(),
            namings: Vec::new(),
            names_flushed: 0,
            flushes: BTreeMap::new(),
        }
    }

    /// Plays the recording up to a moment, which is not before the one it is at.
    pub fn run_to(&mut self, moment: usize) {
        assert!(moment >= self.at, "a disk does not go back");
        let recording = self.recording;
        for op in &recording.ops[self.at..moment] {
            self.play(op);
        }
        self.at = moment;
    }

    fn text(&self, op: &Op) -> String {
        String::from_utf8(self.recording.data(op).to_vec()).unwrap()
    }

    fn file(&mut self, op: &Op) -> &mut File {
        let index = self.inodes[&op.head.file];
        &mut self.files[index]
    }

    fn play(&mut self, op: &Op) {
        let at = op.head.at;
        let place = || usize::try_from(at).unwrap();
        match op.head.kind {
            Kind::Open if op.data.is_empty() => self.directory = Some(op.head.file),
            Kind::Open if at == 1 => {
                let index = self.files.len();
                self.files.push(File::default());
                self.inodes.insert(op.head.file, index);
                let name = self.text(op);
                self.names.insert(name.clone(), index);
                self.namings.push(Naming::Made(name, index));
            }
            Kind::Write => {
                let change = Change::Write(place(), op.data.clone());
                self.file(op).changes.push(change);
            }
            Kind::Truncate => self.file(op).changes.push(Change::Size(place())),
            Kind::SyncBegin => {
                let flush = if self.directory == Some(op.head.file) {
                    Flush::Names(self.names_flushed + self.namings.len())
                } else {
                    let index = self.inodes[&op.head.file];
                    let file = &self.files[index];
                    Flush::File(index, file.flushed + file.changes.len())
                };
                self.flushes.insert(at, flush);
            }
            Kind::SyncEnd => match self.flushes.remove(&at).expect("a flush that has begun") {
                Flush::Names(upto) => self.flush_names(upto),
                Flush::File(index, upto) => self.flush_file(index, upto),
            },
            Kind::Unlink => {
                let name = self.text(op);
                self.names.remove(&name);
                self.namings.push(Naming::Removed(name));
            }
            Kind::Rename => {
                let text = self.text(op);
                let (old, new) = text.split_once('\0').expect("two names");
                let change = Naming::Renamed(old.to_owned(), new.to_owned());
                apply(&mut self.names, &change);
                self.namings.push(change);
            }
            Kind::Open | Kind::Told | Kind::Fault => {}
        }
    }

    fn flush_file(&mut self, index: usize, upto: usize) {
        let file = &mut self.files[index];
        let count = upto.saturating_sub(file.flushed);
        for change in file.changes.drain(..count) {
            match change {
                Change::Write(at, data) => {
                    write(&mut file.durable, at, &self.recording.bytes[data], None);
                }
                Change::Size(len) => file.durable.resize(len, 0),
            }
        }
        file.flushed += count;
    }

    fn flush_names(&mut self, upto: usize) {
        let count = upto.saturating_sub(self.names_flushed);
        for change in self.namings.drain(..count) {
            apply(&mut self.durable, &change);
        }
        self.names_flushed += count;
    }

    /// Writes into an empty directory what the program saw there.
    pub fn save(&self, dir: &Path) {
        for (name, index) in &self.names {
            let bytes = self.contents(&self.files[*index], Fate::Kept, &mut Dice::new(0));
            std::fs::write(dir.join(name), bytes).unwrap();
        }
    }

    /// Writes into an empty directory what is there after a power cut. What the cut takes depends on
    /// nothing but the seed.
    pub fn lose_power(&self, seed: u64, dir: &Path) {
        let mut dice = Dice::new(seed);
        for (name, index) in &self.names {
            if !name.starts_with(self.database) {
                let bytes = self.contents(&self.files[*index], Fate::Kept, &mut dice);
                std::fs::write(dir.join(name), bytes).unwrap();
            }
        }
        let mut names = self.durable.clone();
        let fate = dice.below(3);
        for change in &self.namings {
            if fate == 1 || (fate == 2 && dice.coin()) {
                apply(&mut names, change);
            }
        }
        names.retain(|name, _| name.starts_with(self.database) && !name.ends_with("-shm"));
        let fate = match dice.below(8) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            2 | 3 => Fate::Begun,
            4 => Fate::Some,
            5 | 6 => Fate::Torn(512),
            _ => Fate::Torn(4_096),
        };
        for (name, index) in names {
            let bytes = self.contents(&self.files[index], fate, &mut dice);
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        if dice.coin() {
            let name = [self.database, "-shm"].concat();
            std::fs::write(dir.join(name), rubbish(&mut dice, SHM_BYTES)).unwrap();
        }
    }

    /// A file's bytes after a fate.
    fn contents(&self, file: &File, fate: Fate, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = file.durable.clone();
        let count = file.changes.len();
        let begun = dice.below(count + 1);
        for (number, change) in file.changes.iter().enumerate() {
            let sector = match fate {
                Fate::Lost => return bytes,
                Fate::Kept => None,
                Fate::Begun if number < begun => None,
                Fate::Begun if number > begun => return bytes,
                Fate::Begun => Some(512),
                Fate::Some if dice.coin() => None,
                Fate::Some => continue,
                Fate::Torn(sector) => Some(sector),
            };
            let gaps = (!matches!(fate, Fate::Kept)).then_some(&mut *dice);
            match (change, sector) {
                (Change::Write(at, data), None) => {
                    write(&mut bytes, *at, &self.recording.bytes[data.clone()], gaps);
                }
                (Change::Write(at, data), Some(sector)) => {
                    tear(
                        &mut bytes,
                        *at,
                        &self.recording.bytes[data.clone()],
                        sector,
                        dice,
                    );
                }
                (Change::Size(len), None) => bytes.resize(*len, 0),
                (Change::Size(len), Some(_)) if dice.coin() => bytes.resize(*len, 0),
                (Change::Size(_), Some(_)) => {}
            }
        }
        bytes
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Naming) {
    match change {
        Naming::Made(name, index) => {
            names.insert(name.clone(), *index);
        }
        Naming::Removed(name) => {
            names.remove(name);
        }
        Naming::Renamed(old, new) => {
            if let Some(index) = names.remove(old) {
                names.insert(new.clone(), index);
            }
        }
    }
}

fn rubbish(dice: &mut Dice, len: usize) -> Vec<u8> {
    let words = std::iter::repeat_with(|| dice.roll().to_le_bytes());
    words.take(len.div_ceil(8)).flatten().take(len).collect()
}

/// Writes, growing the file where needed. What lies between its old end and the write is zeros, or
/// what the dice say.
fn write(bytes: &mut Vec<u8>, at: usize, data: &[u8], gaps: Option<&mut Dice>) {
    if let Some(gap) = at.checked_sub(bytes.len()).filter(|gap| *gap > 0) {
        let fill = match gaps {
            Some(dice) => dice.coin().then(|| rubbish(dice, gap)),
            None => None,
        };
        bytes.extend(fill.unwrap_or_else(|| vec![0; gap]));
    }
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(data);
}

/// Writes some of the sectors that data covers.
fn tear(bytes: &mut Vec<u8>, at: usize, data: &[u8], sector: usize, dice: &mut Dice) {
    let mut done = 0;
    while done < data.len() {
        let next = (at + done) / sector * sector + sector - at;
        let next = next.min(data.len());
        if dice.coin() {
            write(bytes, at + done, &data[done..next], Some(dice));
        }
        done = next;
    }
}
