//! Whether a value fits a schema.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Number, Value};

use super::{
    DEPTH_MAX, Kind, PROBLEMS_MAX, Path, Problem, TEXT_CHARS_MAX, WORK_MAX, branches, cut,
    is_nullable, kinds_of, referred,
};

/// Bytes a compiled pattern may take; larger ones are ignored.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Characters of a value or a list that a message shows.
const SHOWN_CHARS_MAX: usize = 100;

/// What is wrong with `value`: at most [`PROBLEMS_MAX`] problems, none if it fits.
#[must_use]
pub fn check(schema: &Value, value: &Value) -> Vec<Problem> {
    Checker::new(schema).check(schema, value, 0)
}

/// A check under way.
pub(super) struct Checker<'a> {
    root: &'a Value,
    patterns: BTreeMap<&'a str, Option<Regex>>,
    work: usize,
}

/// Problems found at one value and below it.
#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    /// Whether one of them is about the value itself rather than something in it.
    here: bool,
}

impl Found {
    fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    fn here(&mut self, path: Path<'_>, message: impl AsRef<str>) {
        self.here = true;
        self.below(path, message);
    }

    fn below(&mut self, path: Path<'_>, message: impl AsRef<str>) {
        if !self.is_full() {
            self.problems.push(Problem {
                path: cut(&path.to_string(), TEXT_CHARS_MAX),
                message: cut(message.as_ref(), TEXT_CHARS_MAX),
            });
        }
    }

    fn add(&mut self, problems: Vec<Problem>) {
        let room = PROBLEMS_MAX.saturating_sub(self.problems.len());
        self.problems.extend(problems.into_iter().take(room));
    }
}

impl<'a> Checker<'a> {
    pub(super) const fn new(root: &'a Value) -> Self {
        Self {
            root,
            patterns: BTreeMap::new(),
            work: 0,
        }
    }

    /// Checks a value against a part of the schema.
    pub(super) fn check(&mut self, schema: &'a Value, value: &Value, depth: usize) -> Vec<Problem> {
        self.visit(schema, value, Path::Root, depth).problems
    }

    /// Counts more work; whether it is allowed.
    pub(super) const fn spend(&mut self, work: usize) -> bool {
        self.work = self.work.saturating_add(work);
        self.work <= WORK_MAX
    }

    fn visit(&mut self, schema: &'a Value, value: &Value, path: Path<'_>, depth: usize) -> Found {
        let mut found = Found::default();
        if schema == &Value::Bool(false) {
            found.here(path, "is not allowed here");
            return found;
        }
        if !schema.is_object() || (value.is_null() && is_nullable(schema)) {
            return found;
        }
        if depth >= DEPTH_MAX || !self.spend(1) {
            found.here(path, "is too deep or too large to check; send less");
            return found;
        }
        if let Some(kinds) = kinds_of(schema)
            && !kinds.iter().any(|kind| kind.takes(value))
        {
            found.here(path, wrong_kind(&kinds, value));
            return found;
        }
        check_listed(schema, value, path, &mut found);
        if let Some(target) = referred(self.root, schema) {
            self.merge(target, value, path, depth, &mut found);
        }
        for part in branches(schema, "allOf") {
            self.merge(part, value, path, depth, &mut found);
        }
        self.alternatives(schema, value, path, depth, &mut found);
        match value {
            Value::String(text) => self.string(schema, text, path, &mut found),
            Value::Number(number) => check_number(schema, number, path, &mut found),
            Value::Array(items) => self.array(schema, items, path, depth, &mut found),
            Value::Object(fields) => self.object(schema, fields, path, depth, &mut found),
            Value::Null | Value::Bool(_) => {}
        }
        found
    }

    /// Checks the same value against one more schema.
    fn merge(
        &mut self,
        schema: &'a Value,
        value: &Value,
        path: Path<'_>,
        depth: usize,
        found: &mut Found,
    ) {
        let more = self.visit(schema, value, path, depth + 1);
        found.here |= more.here;
        found.add(more.problems);
    }

    fn alternatives(
        &mut self,
        schema: &'a Value,
        value: &Value,
        path: Path<'_>,
        depth: usize,
        found: &mut Found,
    ) {
        for (keyword, only_one) in [("anyOf", false), ("oneOf", true)] {
            let mut failed = Vec::new();
            let mut fitting = 0_usize;
            let list = branches(schema, keyword);
            for branch in list {
                let one = self.visit(branch, value, path, depth + 1);
                if one.problems.is_empty() {
                    fitting += 1;
                    if !only_one || fitting > 1 {
                        break;
                    }
                } else {
                    failed.push(one);
                }
            }
            if fitting > 1 {
                found.here(
                    path,
                    "fits more than one of the forms of which it must fit one",
                );
            } else if fitting == 0 && !list.is_empty() {
                none_fits(failed, path, found);
            }
        }
    }

    fn string(&mut self, schema: &'a Value, text: &str, path: Path<'_>, found: &mut Found) {
        if schema.get("minLength").is_some() || schema.get("maxLength").is_some() {
            let length = text.chars().count();
            check_count(
                schema,
                ["minLength", "maxLength"],
                length,
                "characters",
                path,
                found,
            );
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && !self.matches(pattern, text)
        {
            let pattern = cut(pattern, SHOWN_CHARS_MAX);
            found.here(path, format!("must match the pattern `{pattern}`"));
        }
    }

    /// Whether a text matches; everything matches a pattern that does not compile.
    fn matches(&mut self, pattern: &'a str, text: &str) -> bool {
        let compile = || {
            let mut builder = RegexBuilder::new(pattern);
            builder.size_limit(PATTERN_BYTES_MAX).build().ok()
        };
        let regex = self.patterns.entry(pattern).or_insert_with(compile);
        regex.as_ref().is_none_or(|regex| regex.is_match(text))
    }

    fn array(
        &mut self,
        schema: &'a Value,
        items: &[Value],
        path: Path<'_>,
        depth: usize,
        found: &mut Found,
    ) {
        check_count(
            schema,
            ["minItems", "maxItems"],
            items.len(),
            "items",
            path,
            found,
        );
        for (at, item) in items.iter().enumerate() {
            if found.is_full() {
                return;
            }
            if let Some(rule) = item_rule(schema, at) {
                let more = self.visit(rule, item, Path::Item(&path, at), depth + 1);
                found.add(more.problems);
            }
        }
    }

    fn object(
        &mut self,
        schema: &'a Value,
        fields: &Map<String, Value>,
        path: Path<'_>,
        depth: usize,
        found: &mut Found,
    ) {
        for name in branches(schema, "required")
            .iter()
            .filter_map(Value::as_str)
        {
            if !fields.contains_key(name) {
                found.below(Path::Field(&path, name), "is required");
            }
        }
        for (name, field) in fields {
            if found.is_full() {
                return;
            }
            for rule in self.field_rules(schema, name) {
                let at = Path::Field(&path, name);
                if rule == &Value::Bool(false) {
                    found.below(at, unknown_field(schema));
                } else {
                    let more = self.visit(rule, field, at, depth + 1);
                    found.add(more.problems);
                }
            }
        }
    }

    /// The schemas a field must fit.
    pub(super) fn field_rules(&mut self, schema: &'a Value, name: &str) -> Vec<&'a Value> {
        let mut rules = Vec::new();
        if let Some(rule) = schema.get("properties").and_then(|known| known.get(name)) {
            rules.push(rule);
        }
        if let Some(Value::Object(patterns)) = schema.get("patternProperties") {
            for (pattern, rule) in patterns {
                if self.matches(pattern, name) {
                    rules.push(rule);
                }
            }
        }
        if rules.is_empty() {
            rules.extend(schema.get("additionalProperties"));
        }
        rules
    }
}

/// The schema of an array's item.
pub(super) fn item_rule(schema: &Value, at: usize) -> Option<&Value> {
    let first = branches(schema, "prefixItems");
    // Until 2019 a list under `items` was what `prefixItems` is now.
    let first = if first.is_empty() {
        branches(schema, "items")
    } else {
        first
    };
    first
        .get(at)
        .or_else(|| schema.get("items").filter(|items| !items.is_array()))
}

fn wrong_kind(kinds: &[Kind], value: &Value) -> String {
    let wanted: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    let got = Kind::of(value);
    let shown = match value {
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
        scalar => format!(" {}", cut(&scalar.to_string(), SHOWN_CHARS_MAX)),
    };
    format!(
        "must be {}, not {}{shown}",
        wanted.join(" or "),
        got.as_str()
    )
}

fn unknown_field(schema: &Value) -> String {
    let known = schema.get("properties").and_then(Value::as_object);
    let names: Vec<&str> = known
        .into_iter()
        .flat_map(Map::keys)
        .map(String::as_str)
        .collect();
    if names.is_empty() {
        return "is not a field of this object, which has none".to_owned();
    }
    let names = cut(&names.join(", "), 2 * SHOWN_CHARS_MAX);
    format!("is not a field of this object; it has {names}")
}

/// `enum` and `const`.
fn check_listed(schema: &Value, value: &Value, path: Path<'_>, found: &mut Found) {
    if let Some(Value::Array(allowed)) = schema.get("enum")
        && !allowed.iter().any(|one| is_same(one, value))
    {
        let shown: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let shown = cut(&shown.join(", "), 2 * SHOWN_CHARS_MAX);
        found.here(path, format!("must be one of {shown}"));
    }
    if let Some(wanted) = schema.get("const")
        && !is_same(wanted, value)
    {
        let shown = cut(&wanted.to_string(), SHOWN_CHARS_MAX);
        found.here(path, format!("must be {shown}"));
    }
}

/// Equality of JSON: `1` is `1.0`, the order of fields does not count.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b) == Some(Ordering::Equal),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |(name, a)| b.get(name).is_some_and(|b| is_same(a, b));
            a.len() == b.len() && a.iter().all(same)
        }
        (a, b) => a == b,
    }
}

fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

fn check_number(schema: &Value, number: &Number, path: Path<'_>, found: &mut Found) {
    use Ordering::{Equal, Greater, Less};
    let bounds: [(&str, &[Ordering], &str); 4] = [
        ("minimum", &[Equal, Greater], "at least"),
        ("maximum", &[Equal, Less], "at most"),
        ("exclusiveMinimum", &[Greater], "more than"),
        ("exclusiveMaximum", &[Less], "less than"),
    ];
    for (keyword, allowed, words) in bounds {
        if let Some(Value::Number(bound)) = schema.get(keyword)
            && compare(number, bound).is_some_and(|order| !allowed.contains(&order))
        {
            found.here(path, format!("must be {words} {bound}, not {number}"));
        }
    }
}

fn check_count(
    schema: &Value,
    [min, max]: [&str; 2],
    count: usize,
    what: &str,
    path: Path<'_>,
    found: &mut Found,
) {
    let bound = |keyword| {
        let bound = schema.get(keyword).and_then(Value::as_u64);
        bound.and_then(|bound| usize::try_from(bound).ok())
    };
    if let Some(min) = bound(min).filter(|min| count < *min) {
        found.here(
            path,
            format!("must have at least {min} {what}, not {count}"),
        );
    }
    if let Some(max) = bound(max).filter(|max| count > *max) {
        found.here(path, format!("must have at most {max} {what}, not {count}"));
    }
}

/// What to say when no alternative fits: the fewest problems of one that takes the value itself
/// and only minds something in it, else what each of them wants.
fn none_fits(failed: Vec<Found>, path: Path<'_>, found: &mut Found) {
    let wants: Vec<String> = failed
        .iter()
        .filter_map(|one| one.problems.first())
        .map(|problem| problem.message.clone())
        .collect();
    let inside = failed.into_iter().filter(|one| !one.here);
    if let Some(nearest) = inside.min_by_key(|one| one.problems.len()) {
        found.add(nearest.problems);
        return;
    }
    found.here(path, wants.join(", or "));
}
