//! What can be shown of JSON that is still being written: the arguments of a tool call while they
//! stream.
//!
//! For screens only; **never act on a preview**. The last word is the message's, read as a whole by
//! [`arguments`](super::arguments).
//!
//! ```
//! use dash::llm::preview::JsonPreview;
//! use serde_json::json;
//!
//! let mut preview = JsonPreview::new();
//! preview.push(r#"{"path": "src/ma"#);
//! assert_eq!(preview.value(), json!({"path": "src/ma"}));
//! preview.push(r#"in.rs", "line": 4"#);
//! assert_eq!(preview.value(), json!({"path": "src/main.rs"}));
//! preview.push("2}");
//! assert_eq!(preview.value(), json!({"path": "src/main.rs", "line": 42}));
//! ```

use serde_json::{Map, Value};

use text::Text;

#[cfg(test)]
mod tests;
mod text;

/// Arrays and objects within each other; what is deeper is not shown. As deep as `serde_json` reads.
const DEPTH_MAX: usize = 127;

/// A JSON text that grows, and what it shows so far.
///
/// Each character is looked at once, so reading a text costs the same however it is cut. Strings,
/// arrays and objects are shown while they are open; half escapes, half numbers and half literals
/// are held back, as are keys without a value. At the first error reading ends, and what was read
/// so far stays.
#[derive(Debug, Clone, Default)]
pub struct JsonPreview {
    /// The containers that are open, outermost first.
    open: Vec<Open>,
    state: State,
    /// The whole value, once it is there.
    done: Option<Value>,
    /// Steps taken, to show that reading is linear.
    #[cfg(test)]
    steps: usize,
}

#[derive(Debug, Clone)]
enum Open {
    Array(Vec<Value>),
    Object {
        fields: Map<String, Value>,
        /// The field whose value is being read.
        key: String,
    },
}

#[derive(Debug, Clone, Default)]
enum State {
    /// A value is next.
    #[default]
    Value,
    /// A value or the end of the array.
    ItemOrEnd,
    /// A key or the end of the object.
    KeyOrEnd,
    /// A key.
    Key,
    /// A colon.
    Colon,
    /// A comma or the end of the container; at the end of all, only space.
    Next,
    /// Within a key.
    InKey(Text),
    /// Within a string.
    InText(Text),
    /// Within a number or a literal.
    InToken(String),
    /// Something was wrong.
    Broken,
}

impl JsonPreview {
    /// A preview of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on.
    pub fn push(&mut self, fragment: &str) {
        for c in fragment.chars() {
            self.step(c);
        }
    }

    /// Says that no more comes: a number or literal at the very end is now known to be whole.
    pub fn finish(&mut self) {
        if matches!(self.state, State::InToken(_)) {
            self.step(' ');
        }
    }

    /// Whether a whole value has been read.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.done.is_some()
    }

    /// What can be shown so far; `null` if that is nothing. It copies all of it, so ask when
    /// something is drawn and not for every fragment.
    #[must_use]
    pub fn value(&self) -> Value {
        if let Some(done) = &self.done {
            return done.clone();
        }
        let mut inner = match &self.state {
            State::InText(text) => Some(Value::String(text.shown().to_owned())),
            State::Value
            | State::ItemOrEnd
            | State::KeyOrEnd
            | State::Key
            | State::Colon
            | State::Next
            | State::InKey(_)
            | State::InToken(_)
            | State::Broken => None,
        };
        for container in self.open.iter().rev() {
            let mut container = container.clone();
            if let Some(value) = inner {
                container.put(value);
            }
            inner = Some(container.close());
        }
        inner.unwrap_or_default()
    }

    fn step(&mut self, c: char) {
        #[cfg(test)]
        {
            self.steps += 1;
        }
        let is_space = matches!(c, ' ' | '\n' | '\r' | '\t');
        self.state = match std::mem::replace(&mut self.state, State::Broken) {
            State::InText(mut text) => {
                if text.push(c) {
                    return self.put(Value::String(text.take()));
                }
                State::InText(text)
            }
            State::InKey(mut text) => {
                if text.push(c) {
                    self.name(text.take());
                    State::Colon
                } else {
                    State::InKey(text)
                }
            }
            State::InToken(mut token) => {
                if c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.') {
                    token.push(c);
                    State::InToken(token)
                } else {
                    let Ok(value) = serde_json::from_str(&token) else {
                        return;
                    };
                    self.put(value);
                    return self.step(c);
                }
            }
            State::Broken => State::Broken,
            state if is_space => state,
            State::Value => return self.begin(c),
            State::ItemOrEnd if c == ']' => return self.close(c),
            State::ItemOrEnd => return self.begin(c),
            State::KeyOrEnd if c == '}' => return self.close(c),
            State::KeyOrEnd | State::Key if c == '"' => State::InKey(Text::default()),
            State::Colon if c == ':' => State::Value,
            State::Next => match (c, self.open.last()) {
                (',', Some(Open::Array(_))) => State::Value,
                (',', Some(Open::Object { .. })) => State::Key,
                _ => return self.close(c),
            },
            State::KeyOrEnd | State::Key | State::Colon => State::Broken,
        };
    }

    /// Begins a value.
    fn begin(&mut self, c: char) {
        let container = match c {
            '"' => {
                self.state = State::InText(Text::default());
                return;
            }
            '-' | '0'..='9' | 't' | 'f' | 'n' => {
                self.state = State::InToken(c.to_string());
                return;
            }
            '[' => Open::Array(Vec::new()),
            '{' => Open::Object {
                fields: Map::new(),
                key: String::new(),
            },
            _ => return,
        };
        if self.open.len() >= DEPTH_MAX {
            return;
        }
        self.state = match container {
            Open::Array(_) => State::ItemOrEnd,
            Open::Object { .. } => State::KeyOrEnd,
        };
        self.open.push(container);
    }

    /// Ends the innermost container, if this character does.
    fn close(&mut self, c: char) {
        let fits = matches!(
            (c, self.open.last()),
            (']', Some(Open::Array(_))) | ('}', Some(Open::Object { .. }))
        );
        if fits && let Some(container) = self.open.pop() {
            self.put(container.close());
        }
    }

    /// Puts a whole value where it belongs.
    fn put(&mut self, value: Value) {
        match self.open.last_mut() {
            Some(container) => container.put(value),
            None => self.done = Some(value),
        }
        self.state = State::Next;
    }

    /// Remembers the key of the value that is next.
    fn name(&mut self, name: String) {
        if let Some(Open::Object { key, .. }) = self.open.last_mut() {
            *key = name;
        }
    }
}

impl Open {
    fn put(&mut self, value: Value) {
        match self {
            Self::Array(items) => items.push(value),
            Self::Object { fields, key } => {
                fields.insert(std::mem::take(key), value);
            }
        }
    }

    fn close(self) -> Value {
        match self {
            Self::Array(items) => Value::Array(items),
            Self::Object { fields, .. } => Value::Object(fields),
        }
    }
}
