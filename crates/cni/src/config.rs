//! Decoding of configurations, as Go's `encoding/json` does it.
//!
//! Users' files work with the reference plugins, so they must mean the same
//! here: keys of typed objects match in any letter case, a later duplicate
//! wins (objects merge field by field), `null` leaves a field at its default,
//! unknown keys are ignored, invalid UTF-8 and halves of surrogate pairs become
//! U+FFFD, and integers must be integer literals. Three differences: documents
//! nested deeper than 128 levels are refused (Go: 10,000), so that no input can
//! exhaust the stack; so are numbers that no double can hold, wherever they stand;
//! and of one key in two spellings the exact one counts as the last, wherever it
//! stands.
//!
//! [`parse`] reads a document into a [`Value`]; [`decode`] reads a typed
//! configuration from a value. A type that derives `Deserialize` needs
//! `#[serde(default)]` on it, and `#[serde(rename = "..")]` with the exact
//! JSON name where the field's name differs. Do not use `flatten`: it bypasses
//! the matching of keys.

mod fold;
mod surrogates;

pub use fold::ConfError;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Parses one JSON document; anything but white space behind it is an error.
///
/// # Errors
/// The decoder's text, with line and column.
pub fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let text = surrogates::replace_lone(String::from_utf8_lossy(bytes));
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let value = Merging.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Decodes a typed configuration from `value`; `null` counts as `{}`.
///
/// # Errors
/// Names the path of the culprit: `ipam.ranges[0][1].subnet: invalid CIDR
/// address: x`.
pub fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, ConfError> {
    T::deserialize(fold::Fold(value))
}

/// The value of `key` in any letter case, the last one that is not null; for
/// the few places that look at one key of a document that has no type.
pub fn get<'v>(object: &'v Value, key: &str) -> Option<&'v Value> {
    let object = object.as_object()?;
    match object.get(key) {
        Some(value) if !value.is_null() => Some(value),
        _ => object
            .iter()
            .rev()
            .find(|(k, v)| k.eq_ignore_ascii_case(key) && !v.is_null())
            .map(|(_, v)| v),
    }
}

/// Adds `later` to `earlier` as Go does for a repeated key: objects merge,
/// null changes nothing, anything else replaces.
fn merge(earlier: &mut Value, later: Value) {
    match (earlier, later) {
        (_, Value::Null) => {}
        (Value::Object(earlier), Value::Object(later)) => {
            for (key, value) in later {
                match earlier.get_mut(&key) {
                    Some(slot) => merge(slot, value),
                    None => _ = earlier.insert(key, value),
                }
            }
        }
        (earlier, later) => *earlier = later,
    }
}

/// Reads any JSON value; repeated keys are merged.
struct Merging;

impl<'de> DeserializeSeed<'de> for Merging {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merging {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element_seed(Merging)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Merging)?;
            match object.get_mut(&key) {
                Some(slot) => merge(slot, value),
                None => _ = object.insert(key, value),
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests;
