//! The line gate: stands before the parser of events and hands it whole lines only.
//!
//! It drops byte order marks, bounds lines and events, takes time linear in the length of a line
//! that comes in pieces, and ends the last event of a body that ends without a blank line.

use bytes::Bytes;
use memchr::{memchr_iter, memrchr};

/// Bytes of one line or of the data of one event, at most.
pub(super) const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

/// A line or event is longer than the limit. Holds the whole lines before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LineTooLong(pub(crate) Bytes);

/// Holds bytes back until their line is whole.
#[derive(Debug)]
pub(crate) struct LineGate {
    held: Vec<u8>,
    event_bytes: usize,
    bytes_max: usize,
    is_first: bool,
}

impl LineGate {
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self {
            held: Vec::new(),
            event_bytes: 0,
            bytes_max,
            is_first: true,
        }
    }

    /// Takes bytes; returns the lines they make whole, possibly none.
    pub(crate) fn push(&mut self, chunk: &Bytes) -> Result<Bytes, LineTooLong> {
        let Some(last) = memrchr(b'\n', chunk) else {
            self.held.extend_from_slice(chunk);
            return self.checked(Bytes::new());
        };
        let (lines, rest) = (chunk.slice(..=last), chunk.slice(last + 1..));
        let (fits, is_too_long) = self.measure(&lines);
        let lines = lines.slice(..fits);
        let whole = if self.held.is_empty() || fits == 0 {
            lines
        } else {
            self.held.extend_from_slice(&lines);
            Bytes::from(std::mem::take(&mut self.held))
        };
        let whole = self.without_bom(whole);
        if is_too_long {
            return Err(LineTooLong(whole));
        }
        self.held.extend_from_slice(&rest);
        self.checked(whole)
    }

    /// The body ended: the last line, made whole, and a blank one so that the last event counts.
    /// Half a character at its end is dropped, since the parser would refuse the whole line.
    pub(crate) fn eof(&mut self) -> Bytes {
        let mut last = std::mem::take(&mut self.held);
        if let Err(err) = std::str::from_utf8(&last)
            && err.error_len().is_none()
        {
            last.truncate(err.valid_up_to());
        }
        last.extend_from_slice(b"\n\n");
        self.without_bom(Bytes::from(last))
    }

    /// Checks every line that ends in `lines`, and the event it adds to: the bytes of those that
    /// fit, and whether one does not.
    fn measure(&mut self, lines: &[u8]) -> (usize, bool) {
        let mut head = self.held.len();
        let mut fits = 0;
        let mut start = 0;
        // `lines` ends with a line's end.
        for end in memchr_iter(b'\n', lines) {
            let line = lines.get(start..=end).unwrap_or_default();
            start = end + 1;
            let is_blank = match head {
                0 => matches!(line, b"\n" | b"\r\n"),
                _ => self.held == b"\r" && line == b"\n",
            };
            self.event_bytes = if is_blank {
                0
            } else {
                self.event_bytes + head + line.len()
            };
            head = 0;
            if self.event_bytes > self.bytes_max {
                return (fits, true);
            }
            fits += line.len();
        }
        (fits, false)
    }

    /// Gives `lines` on if what is held fits. A carriage return may become a blank line, which
    /// never counts.
    fn checked(&self, lines: Bytes) -> Result<Bytes, LineTooLong> {
        let fits = self.event_bytes + self.held.len() <= self.bytes_max;
        if fits || self.held == b"\r" {
            Ok(lines)
        } else {
            Err(LineTooLong(lines))
        }
    }

    fn without_bom(&mut self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() || !std::mem::take(&mut self.is_first) {
            return bytes;
        }
        // A proxy may add a second one.
        let mut start = 0;
        while bytes.get(start..).is_some_and(|rest| rest.starts_with(BOM)) {
            start += BOM.len();
        }
        bytes.slice(start..)
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    /// What passes, or what passed before the line that was too long.
    fn pass(pieces: &[&[u8]], bytes_max: usize) -> Result<Vec<u8>, Vec<u8>> {
        let mut gate = LineGate::new(bytes_max);
        let mut out = Vec::new();
        for piece in pieces {
            let lines = match gate.push(&Bytes::copy_from_slice(piece)) {
                Ok(lines) => lines,
                Err(LineTooLong(lines)) => return Err([&out[..], &lines].concat()),
            };
            assert!(lines.is_empty() || lines.ends_with(b"\n"));
            out.extend_from_slice(&lines);
        }
        out.extend_from_slice(&gate.eof());
        Ok(out)
    }

    #[test]
    fn only_whole_lines_pass_however_the_bytes_are_cut() {
        let body = b"\xef\xbb\xbfdata: a\r\n\r\ndata: \xc3\xa9\n\n: c\n\ndata: last";
        for cut in 0..=body.len() {
            let (a, b) = body.split_at(cut);
            let out = pass(&[a, b], 64).unwrap();
            assert_eq!(out, [&body[3..], b"\n\n"].concat(), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(pass(&bytes, 64).unwrap(), [&body[3..], b"\n\n"].concat());
    }

    #[test]
    fn every_mark_at_the_beginning_is_removed() {
        let body = [BOM, BOM, b"data: a\n"].concat();
        assert_eq!(pass(&[&body], 64).unwrap(), b"data: a\n\n\n");
        assert_eq!(pass(&[BOM, BOM], 64).unwrap(), b"\n\n");
    }

    /// The capacity only grows by doubling: what is copied is at most twice the line, however
    /// small the pieces are.
    #[test]
    fn a_line_of_8_mib_in_small_pieces_is_copied_a_constant_number_of_times() {
        let piece = Bytes::from(vec![b'x'; 4_096]);
        let mut gate = LineGate::new(LINE_BYTES_MAX);
        let (mut moves, mut copied, mut capacity) = (0, 0, 0);
        let mut held = 0;
        while held + piece.len() < LINE_BYTES_MAX {
            assert!(gate.push(&piece).unwrap().is_empty());
            if gate.held.capacity() != capacity {
                (moves, copied, capacity) = (moves + 1, copied + held, gate.held.capacity());
            }
            held += piece.len();
        }
        assert!(moves < 16, "{moves}");
        assert!(copied < 2 * held, "{copied} of {held}");
        let line = gate.push(&Bytes::from_static(b"\n")).unwrap();
        assert_eq!(line.len(), held + 1);
    }

    #[test]
    fn a_line_or_event_over_the_limit_is_refused_however_it_is_cut() {
        let long = [b"data: ".as_slice(), &[b'x'; 64], b"\n\n"].concat();
        let event = b"data: 0123456789\n".repeat(5);
        for body in [long, event] {
            let whole = pass(&[&body], 64).unwrap_err();
            let bytes: Vec<&[u8]> = body.chunks(1).collect();
            assert_eq!(pass(&bytes, 64).unwrap_err(), whole);
        }
        assert!(pass(&[&b"data: 0123456789\r\n\r\n".repeat(50)], 64).is_ok());
    }

    #[test]
    fn lines_before_one_that_is_too_long_pass_however_it_is_cut() {
        let body = [b"data: a\n\ndata: ".as_slice(), &[b'x'; 64], b"\n\n"].concat();
        for cut in 0..=body.len() {
            let (a, b) = body.split_at(cut);
            assert_eq!(
                pass(&[a, b], 32),
                Err(b"data: a\n\n".to_vec()),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_blank_line_never_counts_however_it_is_cut() {
        let body = b"data: 01\n\r\ndata: 01\n\r\n";
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        let whole = pass(&[body], 9).unwrap();
        assert_eq!(pass(&bytes, 9).unwrap(), whole);
    }
}
