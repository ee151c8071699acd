//! Every id of the engine: `Copy` newtypes over a private ULID, made by one macro.
//!
//! The wire form is the bare 26-character ULID (Crockford base32, no `I`, `L`, `O`, `U`). Ids are
//! minted only through [`IdSource`](crate::env::IdSource), never ambiently.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: expected 26 characters of Crockford base32 (a ULID)")]
pub struct ParseIdError {
    /// The kind of id that was expected, e.g. `AgentId`.
    pub kind: &'static str,
    /// What was given, cut to 64 characters.
    pub text: String,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// Wraps a raw 128-bit ULID.
            #[must_use]
            pub const fn from_u128(raw: u128) -> Self {
                Self(Ulid(raw))
            }

            /// The raw 128-bit ULID.
            #[must_use]
            pub const fn as_u128(self) -> u128 {
                self.0.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buf = [0; ulid::ULID_LEN];
                f.pad(self.0.array_to_str(&mut buf))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                match Ulid::from_string(text) {
                    Ok(ulid) => Ok(Self(ulid)),
                    Err(_) => Err(ParseIdError {
                        kind: stringify!($name),
                        text: text.chars().take(64).collect(),
                    }),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut buf = [0; ulid::ULID_LEN];
                serializer.serialize_str(self.0.array_to_str(&mut buf))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$",
                })
            }
        }
    )*};
}

// Alphabetical and append-only.
ids! {
    /// One worker of a swarm.
    AgentId;
    /// One budget node (of a project, swarm, agent or task).
    BudgetId;
    /// One node of a conversation tree.
    EntryId;
    /// One stored event. Cursors use `seq`, not this.
    EventId;
    /// The outermost namespace and budget.
    ProjectId;
    /// One held or settled reservation of money or tokens.
    ReservationId;
    /// One swarm.
    SwarmId;
    /// One unit of work in a swarm's plan.
    TaskId;
    /// One steering or follow-up message on its way to an agent.
    TicketId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_json() {
        let id = AgentId::from_u128(0x0190_0000_0000_0000_0000_0000_0000_002a);
        assert_eq!(id.to_string().len(), 26);
        assert_eq!(id.to_string().parse::<AgentId>(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<AgentId>(&json).unwrap(), id);
        assert!(format!("{id:?}").starts_with("AgentId("));
    }

    #[test]
    fn a_text_with_a_letter_outside_the_alphabet_is_refused_by_name() {
        let err = "01HKX8J3K2M4N5P6Q7R8S9T0UV".parse::<SwarmId>().unwrap_err();
        assert!(err.to_string().contains("SwarmId"), "{err}");
    }
}
