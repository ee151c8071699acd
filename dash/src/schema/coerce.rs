//! Makes a value fit where it is plain what was meant.

use serde_json::{Map, Number, Value};

use super::check::{Checker, item_rule};
use super::{DEPTH_MAX, Kind, branches, is_nullable, kinds_of, referred};

/// A copy of `value` in which what does not fit the schema is turned into what was evidently meant:
///
/// * a text that holds a number, `true`, `false` or `null` becomes it, where a text is not allowed;
/// * a number or truth value becomes a text, where only a text is allowed;
/// * a lone value becomes an array of one, where only an array is allowed;
/// * a field that is `null` goes, where it is optional and may not be `null`;
/// * `2.0` becomes `2` where an integer is wanted.
///
/// All else stays: a value that fits is unchanged but for the last. Check the result.
#[must_use]
pub fn coerce(schema: &Value, value: &Value) -> Value {
    let mut copy = value.clone();
    let mut coercer = Coercer {
        root: schema,
        checker: Checker::new(schema),
    };
    coercer.visit(schema, &mut copy, 0);
    copy
}

struct Coercer<'a> {
    root: &'a Value,
    checker: Checker<'a>,
}

impl<'a> Coercer<'a> {
    fn visit(&mut self, schema: &'a Value, value: &mut Value, depth: usize) {
        let nothing_to_do = !schema.is_object() || (value.is_null() && is_nullable(schema));
        if nothing_to_do || depth >= DEPTH_MAX || !self.checker.spend(1) {
            return;
        }
        if let Some(kinds) = kinds_of(schema) {
            convert(&kinds, value);
        }
        if let Some(target) = referred(self.root, schema) {
            self.visit(target, value, depth + 1);
        }
        for part in branches(schema, "allOf") {
            self.visit(part, value, depth + 1);
        }
        for keyword in ["anyOf", "oneOf"] {
            self.alternatives(branches(schema, keyword), value, depth);
        }
        match value {
            Value::Array(items) => {
                for (at, item) in items.iter_mut().enumerate() {
                    if let Some(rule) = item_rule(schema, at) {
                        self.visit(rule, item, depth + 1);
                    }
                }
            }
            Value::Object(fields) => self.fields(schema, fields, depth),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn fits(&mut self, schema: &'a Value, value: &Value, depth: usize) -> bool {
        self.checker.check(schema, value, depth + 1).is_empty()
    }

    /// Takes the first alternative that fits, as it is or coerced.
    fn alternatives(&mut self, list: &'a [Value], value: &mut Value, depth: usize) {
        if let Some(branch) = list.iter().find(|branch| self.fits(branch, value, depth)) {
            self.visit(branch, value, depth + 1);
            return;
        }
        for branch in list {
            if !self.checker.spend(weight(value)) {
                return;
            }
            let mut copy = value.clone();
            self.visit(branch, &mut copy, depth + 1);
            if self.fits(branch, &copy, depth) {
                *value = copy;
                return;
            }
        }
    }

    fn fields(&mut self, schema: &'a Value, fields: &mut Map<String, Value>, depth: usize) {
        let required = branches(schema, "required");
        fields.retain(|name, field| {
            let rules = self.checker.field_rules(schema, name);
            let is_required = required.iter().any(|one| one == name);
            if field.is_null() && !is_required {
                return rules.iter().all(|rule| self.fits(rule, field, depth));
            }
            for rule in rules {
                self.visit(rule, field, depth + 1);
            }
            true
        });
    }
}

/// How much work it is to copy a value: one for each value within it, and for each 64 bytes of text.
pub(super) fn weight(value: &Value) -> usize {
    let within: usize = match value {
        Value::String(text) => text.len() / 64,
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(fields) => fields.values().map(weight).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    within + 1
}

/// Turns a value that is of no allowed kind into one that is.
fn convert(kinds: &[Kind], value: &mut Value) {
    let wants = |kind: Kind| kinds.contains(&kind);
    if kinds.iter().any(|kind| kind.takes(value)) {
        if wants(Kind::Integer) && !wants(Kind::Number) {
            drop_fraction(value);
        }
        return;
    }
    let new = match &*value {
        Value::String(text) => from_text(kinds, text.trim()),
        Value::Number(number) if wants(Kind::String) => Some(Value::String(number.to_string())),
        Value::Bool(truth) if wants(Kind::String) => Some(Value::String(truth.to_string())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    };
    if let Some(new) = new {
        *value = new;
    } else if wants(Kind::Array) && !value.is_null() {
        *value = Value::Array(vec![value.take()]);
    }
}

fn from_text(kinds: &[Kind], text: &str) -> Option<Value> {
    let read = |kind: &Kind| {
        let wanted = match kind {
            Kind::Integer | Kind::Number => {
                let mut number = Value::Number(text.parse::<Number>().ok()?);
                if *kind == Kind::Integer {
                    drop_fraction(&mut number);
                }
                number
            }
            Kind::Boolean => Value::Bool(text.to_ascii_lowercase().parse().ok()?),
            Kind::Null if text.eq_ignore_ascii_case("null") => Value::Null,
            Kind::Null | Kind::String | Kind::Array | Kind::Object => return None,
        };
        kind.takes(&wanted).then_some(wanted)
    };
    kinds.iter().find_map(read)
}

/// `2.0` becomes `2`; numbers that are not whole, or beyond 64 bits, stay.
fn drop_fraction(value: &mut Value) {
    let whole = value
        .as_f64()
        .filter(|f| value.is_f64() && f.fract() == 0.0);
    if let Some(whole) = whole.and_then(|f| format!("{f:.0}").parse::<i64>().ok()) {
        *value = Value::from(whole);
    }
}
