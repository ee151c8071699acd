//! A JSON string that is still being written.

/// What has been read of a string, after its opening quote.
#[derive(Debug, Clone, Default)]
pub(super) struct Text {
    shown: String,
    escape: Escape,
    /// The first half of a surrogate pair.
    high: Option<u32>,
}

#[derive(Debug, Clone, Default)]
enum Escape {
    #[default]
    None,
    /// After a backslash.
    Begun,
    /// Within `\u`, with so many digits read.
    Hex { digits: u8, code: u32 },
}

impl Text {
    /// What can be shown: all but an escape that is not whole yet.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The text, once it is whole.
    pub(super) fn take(self) -> String {
        self.shown
    }

    /// Reads one character; whether it ended the string.
    pub(super) fn push(&mut self, c: char) -> bool {
        match self.escape {
            Escape::None => match c {
                '"' => {
                    self.drop_half();
                    return true;
                }
                '\\' => self.escape = Escape::Begun,
                _ => self.add(c),
            },
            Escape::Begun => self.escaped(c),
            Escape::Hex { digits, code } => match c.to_digit(16) {
                Some(digit) if digits < 3 => {
                    self.escape = Escape::Hex {
                        digits: digits + 1,
                        code: code * 16 + digit,
                    };
                }
                Some(digit) => {
                    self.escape = Escape::None;
                    self.unit(code * 16 + digit);
                }
                None => {
                    // Not a valid escape: show that something was there.
                    self.escape = Escape::None;
                    self.add(char::REPLACEMENT_CHARACTER);
                    return self.push(c);
                }
            },
        }
        false
    }

    /// Reads the character after a backslash. One that means nothing there stays, with the
    /// backslash.
    fn escaped(&mut self, c: char) {
        self.escape = Escape::None;
        match c {
            'u' => self.escape = Escape::Hex { digits: 0, code: 0 },
            '"' | '\\' | '/' => self.add(c),
            'b' => self.add('\u{8}'),
            'f' => self.add('\u{c}'),
            'n' => self.add('\n'),
            'r' => self.add('\r'),
            't' => self.add('\t'),
            other => {
                self.add('\\');
                self.add(other);
            }
        }
    }

    /// Takes a UTF-16 code unit; the first half of a pair waits for the second.
    fn unit(&mut self, unit: u32) {
        match (self.high.take(), unit) {
            (Some(high), 0xDC00..=0xDFFF) => {
                let code = 0x1_0000 + ((high - 0xD800) << 10) + (unit - 0xDC00);
                self.add(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (before, 0xD800..=0xDBFF) => {
                if before.is_some() {
                    self.shown.push(char::REPLACEMENT_CHARACTER);
                }
                self.high = Some(unit);
            }
            (before, _) => {
                self.high = before;
                self.add(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
    }

    fn add(&mut self, c: char) {
        self.drop_half();
        self.shown.push(c);
    }

    /// Shows half a pair that nothing completed.
    fn drop_half(&mut self) {
        if self.high.take().is_some() {
            self.shown.push(char::REPLACEMENT_CHARACTER);
        }
    }
}
