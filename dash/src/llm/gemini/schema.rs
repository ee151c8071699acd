//! JSON Schemas as Gemini reads them: it ignores `const`, so a one-value `enum` says the same.

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Value};

/// A schema, written with its keys in their order and every `const` as an `enum`.
pub(super) struct Schema<'a>(pub(super) &'a Value);

impl Serialize for Schema<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = match self.0 {
            Value::Object(fields) => fields,
            // `items` and the like may be a list of schemas.
            Value::Array(schemas) => return serializer.collect_seq(schemas.iter().map(Schema)),
            other => return other.serialize(serializer),
        };
        let has_const = fields.contains_key("const");
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in fields {
            match key.as_str() {
                "const" => map.serialize_entry("enum", &[value])?,
                "enum" if has_const => {}
                "properties" | "patternProperties" | "$defs" | "definitions"
                | "dependentSchemas" => match value {
                    Value::Object(named) => map.serialize_entry(key, &Named(named))?,
                    _ => map.serialize_entry(key, value)?,
                },
                "items"
                | "prefixItems"
                | "additionalItems"
                | "unevaluatedItems"
                | "contains"
                | "additionalProperties"
                | "unevaluatedProperties"
                | "propertyNames"
                | "anyOf"
                | "oneOf"
                | "allOf"
                | "not"
                | "if"
                | "then"
                | "else" => map.serialize_entry(key, &Schema(value))?,
                _ => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}

/// Schemas by name; a name is no keyword.
struct Named<'a>(&'a Map<String, Value>);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, schema)| (name, Schema(schema))))
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn written(schema: &str) -> String {
        let schema: Value = serde_json::from_str(schema).unwrap();
        serde_json::to_string(&Schema(&schema)).unwrap()
    }

    #[test]
    fn a_const_becomes_an_enum_wherever_a_schema_may_stand() {
        for (schema, expected) in [
            (
                r#"{"type":"string","const":"a"}"#,
                r#"{"type":"string","enum":["a"]}"#,
            ),
            (r#"{"const":null,"enum":[1,null]}"#, r#"{"enum":[null]}"#),
            (
                r#"{"anyOf":[{"const":1},true],"items":{"not":{"const":[2]}}}"#,
                r#"{"anyOf":[{"enum":[1]},true],"items":{"not":{"enum":[[2]]}}}"#,
            ),
            (
                r#"{"z":1,"properties":{"z":{"const":1},"a":{"properties":{"b":{"const":2}}}}}"#,
                r#"{"z":1,"properties":{"z":{"enum":[1]},"a":{"properties":{"b":{"enum":[2]}}}}}"#,
            ),
            (
                r#"{"$defs":{"d":{"const":3}},"additionalProperties":{"const":4}}"#,
                r#"{"$defs":{"d":{"enum":[3]}},"additionalProperties":{"enum":[4]}}"#,
            ),
        ] {
            assert_eq!(written(schema), expected);
        }
    }

    #[test]
    fn what_is_only_named_const_or_is_data_stays_as_it_is() {
        for schema in [
            r#"{"properties":{"const":{"type":"string"}},"required":["const"]}"#,
            r#"{"default":{"const":1},"enum":[{"const":2}],"examples":[{"const":3}]}"#,
            r#"{"properties":7,"items":true}"#,
            "true",
        ] {
            assert_eq!(written(schema), schema);
        }
    }
}
