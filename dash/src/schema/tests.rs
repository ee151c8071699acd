use pretty_assertions::assert_eq;
use proptest::prelude::*;
use serde_json::json;

use super::coerce::weight;
use super::*;

fn lines(schema: &Value, value: &Value) -> Vec<String> {
    let problems = check(schema, value);
    problems.iter().map(ToString::to_string).collect()
}

/// A schema, a value, and what is wrong with it.
type Case = (Value, Value, &'static [&'static str]);

fn assert_cases(cases: &[Case]) {
    for (schema, value, expected) in cases {
        assert_eq!(lines(schema, value), *expected, "{schema} with {value}");
    }
}

#[test]
fn kinds_are_told_apart() {
    assert_cases(&[
        (json!({"type": "string"}), json!("a"), &[]),
        (
            json!({"type": "string"}),
            json!(1),
            &["(root): must be string, not integer 1"],
        ),
        (
            json!({"type": "integer"}),
            json!(1.5),
            &["(root): must be integer, not number 1.5"],
        ),
        (json!({"type": "integer"}), json!(2.0), &[]),
        (json!({"type": "number"}), json!(2), &[]),
        (
            json!({"type": ["string", "null"]}),
            json!([1]),
            &["(root): must be string or null, not array"],
        ),
        (json!({"type": ["string", "null"]}), json!(null), &[]),
        (
            json!({"type": "string", "nullable": true}),
            json!(null),
            &[],
        ),
        (
            json!({"type": "string", "nullable": false}),
            json!(null),
            &["(root): must be string, not null"],
        ),
        (json!({"type": "decimal"}), json!(true), &[]),
        (json!({"type": ["string", "decimal"]}), json!(true), &[]),
    ]);
}

#[test]
fn fields_are_checked_by_path() {
    let schema = json!({
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}},
                "required": ["name"],
            }},
        },
        "required": ["items"],
        "additionalProperties": false,
    });
    assert_cases(&[
        (schema.clone(), json!({"items": [{"name": "a"}]}), &[]),
        (schema.clone(), json!({}), &["items: is required"]),
        (
            schema,
            json!({"items": [{"name": "a"}, {}, {"name": 3}], "a b": 1}),
            &[
                "items[1].name: is required",
                "items[2].name: must be string, not integer 3",
                "[\"a b\"]: is not a field of this object; it has items",
            ],
        ),
        (
            json!({"additionalProperties": {"type": "integer"}, "properties": {"a": true}}),
            json!({"a": "x", "b": "y"}),
            &["b: must be integer, not string \"y\""],
        ),
        (
            json!({"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": false}),
            json!({"x-a": 1, "x-b": "", "y": 1}),
            &[
                "x-b: must be integer, not string \"\"",
                "y: is not a field of this object, which has none",
            ],
        ),
        (
            json!({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}),
            json!(["a", 1, "b"]),
            &["[2]: must be integer, not string \"b\""],
        ),
        (
            json!({"prefixItems": [true], "items": false}),
            json!(["a", 1]),
            &["[1]: is not allowed here"],
        ),
    ]);
}

#[test]
fn lists_of_values_and_bounds_are_kept() {
    assert_cases(&[
        (json!({"enum": ["a", 1]}), json!(1.0), &[]),
        (
            json!({"enum": ["a", 1]}),
            json!("b"),
            &["(root): must be one of \"a\", 1"],
        ),
        (json!({"const": {"a": [1]}}), json!({"a": [1.0]}), &[]),
        (
            json!({"const": "x"}),
            json!("y"),
            &["(root): must be \"x\""],
        ),
        (
            json!({"minimum": 1, "maximum": 3}),
            json!(0.5),
            &["(root): must be at least 1, not 0.5"],
        ),
        (
            json!({"maximum": 18_446_744_073_709_551_614_u64}),
            json!(u64::MAX),
            &["(root): must be at most 18446744073709551614, not 18446744073709551615"],
        ),
        (
            json!({"exclusiveMinimum": 1, "exclusiveMaximum": 2}),
            json!(1),
            &["(root): must be more than 1, not 1"],
        ),
        (
            json!({"minLength": 2, "maxLength": 3}),
            json!("é"),
            &["(root): must have at least 2 characters, not 1"],
        ),
        (json!({"minLength": 2, "maxLength": 3}), json!("ééé"), &[]),
        (
            json!({"minItems": 1}),
            json!([]),
            &["(root): must have at least 1 items, not 0"],
        ),
        (
            json!({"maxItems": 1}),
            json!([1, 2]),
            &["(root): must have at most 1 items, not 2"],
        ),
        (
            json!({"pattern": "^a+$"}),
            json!("b"),
            &["(root): must match the pattern `^a+$`"],
        ),
        (json!({"pattern": "(?=x)"}), json!("b"), &[]),
        (json!({"pattern": "^a+$"}), json!(1), &[]),
    ]);
}

#[test]
fn forms_are_combined() {
    let either = json!({"anyOf": [
        {"type": "null"},
        {"type": "object", "properties": {"a": {"type": "integer"}}},
    ]});
    assert_cases(&[
        (either.clone(), json!(null), &[]),
        (
            either.clone(),
            json!({"a": "x"}),
            &["a: must be integer, not string \"x\""],
        ),
        (
            either,
            json!(3),
            &["(root): must be null, not integer 3, or must be object, not integer 3"],
        ),
        (
            json!({"anyOf": [{"$ref": "#/$defs/s"}, {"type": "null"}], "$defs": {"s": {"type": "string"}}}),
            json!(3),
            &["(root): must be string, not integer 3, or must be null, not integer 3"],
        ),
        (
            json!({"oneOf": [
                {"properties": {"kind": {"const": "a"}}, "required": ["kind", "x"]},
                {"properties": {"kind": {"const": "b"}}, "required": ["kind", "y"]},
            ]}),
            json!({"kind": "b"}),
            &["y: is required"],
        ),
        (
            json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
            json!(1),
            &["(root): fits more than one of the forms of which it must fit one"],
        ),
        (
            json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
            json!(1.5),
            &[],
        ),
        (
            json!({"allOf": [{"minimum": 1}, {"maximum": 3}]}),
            json!(4),
            &["(root): must be at most 3, not 4"],
        ),
        (json!(true), json!(1), &[]),
        (json!(false), json!(1), &["(root): is not allowed here"]),
        (json!({"if": {}, "then": false, "x": 1}), json!(1), &[]),
    ]);
}

#[test]
fn references_within_the_schema_are_followed() {
    let tree = json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["children"],
        }},
    });
    assert_cases(&[
        (tree.clone(), json!({"children": [{"children": []}]}), &[]),
        (
            tree,
            json!({"children": [{"children": [{}]}]}),
            &["children[0].children[0].children: is required"],
        ),
        (
            json!({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "null"}}}),
            json!(1),
            &["(root): must be null, not integer 1"],
        ),
        (json!({"$ref": "https://example.org/x"}), json!(1), &[]),
        (json!({"$ref": "#/$defs/none"}), json!(1), &[]),
    ]);
}

#[test]
fn a_schema_that_never_ends_does_not_pass() {
    let bomb = json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}], "anyOf": [{"$ref": "#"}]});
    assert_eq!(
        lines(&bomb, &json!(1))[0],
        "(root): is too deep or too large to check; send less"
    );
    assert_eq!(coerce(&bomb, &json!(1)), json!(1));
}

#[test]
fn copies_of_a_large_value_count_as_work() {
    let items: Vec<Value> = (0..1_000).map(Value::from).collect();
    let large = json!({"items": items, "text": "x".repeat(64_000)});
    assert_eq!(weight(&large), 1 + 1 + 1_000 + 1 + 1_000);
    // Without that, each of 500,000 steps would copy all of it.
    let bomb = json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}, false]});
    assert_eq!(coerce(&bomb, &large), large);
}

#[test]
fn problems_are_bounded_in_number_and_length() {
    let many = Value::Array((0..1_000).map(|_| json!("x".repeat(10_000))).collect());
    let problems = check(&json!({"items": {"type": "integer"}}), &many);
    assert_eq!(problems.len(), PROBLEMS_MAX);
    let longest = problems
        .iter()
        .map(|problem| problem.message.chars().count());
    assert!(longest.max() <= Some(TEXT_CHARS_MAX + 1));
}

#[test]
fn the_explanation_repeats_what_was_received_up_to_a_limit() {
    let received = json!("é".repeat(2_000));
    let text = explain(&check(&json!({"type": "null"}), &received), &received);
    let (head, tail) = text.split_once("\nReceived: ").unwrap();
    assert!(head.starts_with("invalid arguments:\n(root): must be null, not string \"éé"));
    assert_eq!(tail.chars().count(), RECEIVED_CHARS_MAX + 1);
    assert!(tail.ends_with("é…"));
}

#[test]
fn what_was_evidently_meant_is_made_to_fit() {
    let integers = json!({"type": "array", "items": {"type": "integer"}});
    let optional = json!({"properties": {"a": {"type": "string"}, "b": {"type": ["string", "null"]}},
        "required": ["c"], "additionalProperties": {"type": "integer"}});
    let cases = [
        (json!({"type": "integer"}), json!("42"), json!(42)),
        (json!({"type": "integer"}), json!(" 42.0 "), json!(42)),
        (json!({"type": "integer"}), json!(42.0), json!(42)),
        (json!({"type": "integer"}), json!("4.5"), json!("4.5")),
        (json!({"type": "number"}), json!("-1e2"), json!(-100.0)),
        (json!({"type": "number"}), json!("NaN"), json!("NaN")),
        (json!({"type": "number"}), json!(42.0), json!(42.0)),
        (json!({"type": "boolean"}), json!("true"), json!(true)),
        (json!({"type": "boolean"}), json!("False"), json!(false)),
        (json!({"type": "boolean"}), json!("yes"), json!("yes")),
        (
            json!({"type": ["integer", "boolean"]}),
            json!("true"),
            json!(true),
        ),
        (
            json!({"type": ["integer", "null"]}),
            json!("null"),
            json!(null),
        ),
        (
            json!({"type": ["string", "null"]}),
            json!("null"),
            json!("null"),
        ),
        (
            json!({"type": ["integer", "string"]}),
            json!("42"),
            json!("42"),
        ),
        (json!({"type": "string"}), json!(42), json!("42")),
        (json!({"type": "string"}), json!(true), json!("true")),
        (json!({"type": "string"}), json!([1]), json!([1])),
        (json!({"type": "string"}), json!(null), json!(null)),
        (json!({}), json!("42"), json!("42")),
        (integers.clone(), json!("4"), json!([4])),
        (integers.clone(), json!(["4", 5]), json!([4, 5])),
        (integers.clone(), json!(null), json!(null)),
        (json!({"type": ["array", "integer"]}), json!("4"), json!(4)),
        (
            optional,
            json!({"a": null, "b": null, "c": null, "d": null, "e": "1"}),
            json!({"b": null, "c": null, "e": 1}),
        ),
        (
            json!({"anyOf": [{"type": "null"}, integers]}),
            json!("4"),
            json!([4]),
        ),
        (
            json!({"oneOf": [{"type": "boolean"}, {"type": "integer"}]}),
            json!("7"),
            json!(7),
        ),
        (
            json!({"allOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "integer"}}}),
            json!("7"),
            json!(7),
        ),
    ];
    for (schema, sent, meant) in cases {
        assert_eq!(coerce(&schema, &sent), meant, "{schema} with {sent}");
    }
}

/// A schema together with a value that fits it.
fn fitting() -> impl Strategy<Value = (Value, Value)> {
    let leaf = prop_oneof![
        "[a-z0-9]{0,6}".prop_map(|s| (json!({"type": "string", "maxLength": 6}), json!(s))),
        "[a-z]{0,6}".prop_map(|s| (json!({"type": ["integer", "string"]}), json!(s))),
        any::<i64>().prop_map(|n| (json!({"type": "integer", "minimum": i64::MIN}), json!(n))),
        any::<i32>().prop_map(|n| (json!({"type": "number"}), json!(f64::from(n) + 0.5))),
        any::<bool>().prop_map(|b| (json!({"type": "boolean"}), json!(b))),
        Just((json!({"type": "string", "nullable": true}), json!(null))),
        Just((json!({"enum": [1, "1", null]}), json!("1"))),
        Just((json!({"const": true}), json!(true))),
        Just((json!(true), json!({"any": ["thing"]}))),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let fields = prop::collection::btree_map("[a-d]{1,2}", (inner.clone(), 0..3_u8), 0..4);
        prop_oneof![
            (inner.clone(), 0..4_usize).prop_map(|((schema, value), count)| {
                let value = Value::Array(vec![value; count]);
                (
                    json!({"type": "array", "items": schema, "maxItems": 3}),
                    value,
                )
            }),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| {
                let (schemas, values): (Vec<_>, Vec<_>) = items.into_iter().unzip();
                (
                    json!({"prefixItems": schemas, "items": false}),
                    Value::Array(values),
                )
            }),
            fields.prop_map(|fields| {
                let (mut known, mut object, mut required) = (json!({}), json!({}), Vec::new());
                for (name, ((schema, value), presence)) in fields {
                    known[&name] = schema;
                    if presence > 0 {
                        object[&name] = value;
                    }
                    if presence > 1 {
                        required.push(name);
                    }
                }
                let schema = json!({"type": "object", "properties": known, "required": required,
                    "additionalProperties": false});
                (schema, object)
            }),
            (inner.clone(), inner.clone(), any::<bool>()).prop_map(|(a, b, first)| {
                let (schema, other) = (a.0, b.0);
                let list = if first {
                    [schema, other]
                } else {
                    [other, schema]
                };
                (json!({"anyOf": list}), a.1)
            }),
            inner.prop_map(|(schema, value)| (json!({"allOf": [schema, {}]}), value)),
        ]
    })
}

/// Anything, but with keywords for names, so that much of it is a schema.
fn anything() -> impl Strategy<Value = Value> {
    const NAMES: [&str; 24] = [
        "type",
        "enum",
        "const",
        "required",
        "properties",
        "patternProperties",
        "additionalProperties",
        "items",
        "prefixItems",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "nullable",
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxItems",
        "$defs",
        "a",
        "b",
    ];
    const TEXTS: [&str; 14] = [
        "string",
        "integer",
        "number",
        "object",
        "array",
        "null",
        "boolean",
        "#",
        "#/properties/a",
        "#/$defs/b",
        "42",
        "true",
        "a",
        "[",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(TEXTS.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec((prop::sample::select(NAMES.to_vec()), inner), 0..6).prop_map(
                |fields| fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
            ),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_value_that_fits_is_left_alone((schema, value) in fitting(), by_reference in any::<bool>()) {
        let schema = if by_reference {
            json!({"$defs": {"x": schema}, "$ref": "#/$defs/x"})
        } else {
            schema
        };
        prop_assert_eq!(lines(&schema, &value), Vec::<String>::new());
        prop_assert_eq!(coerce(&schema, &value), value);
    }

    #[test]
    fn whatever_the_schema_the_check_ends((schema, value) in (anything(), anything())) {
        let problems = check(&schema, &value);
        prop_assert!(problems.len() <= PROBLEMS_MAX);
        let coerced = coerce(&schema, &value);
        if problems.is_empty() {
            prop_assert_eq!(check(&schema, &coerced), problems);
        }
        prop_assert!(explain(&check(&schema, &coerced), &value).starts_with("invalid arguments"));
    }
}
