//! A serde deserializer over a [`Value`] that matches the keys of structs in
//! any letter case and says where in the document an error is.

use super::merge;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// Why a configuration could not be decoded, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfError {
    path: String,
    msg: String,
}

impl ConfError {
    pub(crate) fn inside(mut self, outer: &str) -> ConfError {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{outer}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.path.is_empty() { "" } else { ": " };
        write!(f, "{}{colon}{}", self.path, self.msg)
    }
}

impl std::error::Error for ConfError {}

impl de::Error for ConfError {
    fn custom<T: fmt::Display>(msg: T) -> ConfError {
        ConfError { path: String::new(), msg: msg.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> ConfError {
        let found = match found {
            Unexpected::Map => Unexpected::Other("object"),
            Unexpected::Seq => Unexpected::Other("list"),
            Unexpected::Unit => Unexpected::Other("null"),
            other => other,
        };
        de::Error::custom(format_args!("invalid type: {found}, expected {}", plain(expected)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> ConfError {
        de::Error::custom(format_args!("invalid value: {found}, expected {}", plain(expected)))
    }
}

/// JSON's words for what serde calls by Rust's.
fn plain(expected: &dyn de::Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "i8" | "i16" | "i32" | "i64" => "a whole number".into(),
        "u8" | "u16" | "u32" | "u64" => "a whole number, not negative".into(),
        "a sequence" => "a list".into(),
        "a map" => "an object".into(),
        _ if text.starts_with("struct ") => "an object".into(),
        _ => text,
    }
}

pub(super) struct Fold<'v>(pub(super) &'v Value);

impl Fold<'_> {
    fn unexpected(&self) -> Unexpected<'_> {
        match self.0 {
            Value::Null => Unexpected::Unit,
            Value::Bool(b) => Unexpected::Bool(*b),
            Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
                (Some(i), ..) => Unexpected::Signed(i),
                (_, Some(u), _) => Unexpected::Unsigned(u),
                (.., Some(f)) => Unexpected::Float(f),
                _ => Unexpected::Other("number"),
            },
            Value::String(s) => Unexpected::Str(s),
            Value::Array(_) => Unexpected::Other("list"),
            Value::Object(_) => Unexpected::Other("object"),
        }
    }

    fn wrong_type(&self, expected: &dyn de::Expected) -> ConfError {
        de::Error::invalid_type(self.unexpected(), expected)
    }
}

/// Visits one entry of `fields` for each key of the object that is that field
/// in any letter case. An exact key counts as the last one, since the order in
/// the document is gone.
fn matching<'v>(object: &'v serde_json::Map<String, Value>, field: &str) -> Option<Cow<'v, Value>> {
    let mut found: Option<Cow<'v, Value>> = None;
    let folded = object.iter().filter(|(key, _)| *key != field && key.eq_ignore_ascii_case(field));
    for (_, value) in folded.chain(object.get_key_value(field)) {
        match &mut found {
            None if value.is_null() => {}
            None => found = Some(Cow::Borrowed(value)),
            Some(earlier) => merge(earlier.to_mut(), value.clone()),
        }
    }
    found
}

impl<'de> Deserializer<'de> for Fold<'_> {
    type Error = ConfError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Number(n) => match (n.as_u64(), n.as_i64()) {
                (Some(u), _) => visitor.visit_u64(u),
                (_, Some(i)) => visitor.visit_i64(i),
                _ => visitor.visit_f64(n.as_f64().unwrap_or(f64::INFINITY)),
            },
            Value::String(s) => visitor.visit_str(s),
            Value::Array(items) => {
                visitor.visit_seq(List { items: items.iter().enumerate(), at: 0 })
            }
            Value::Object(object) => {
                visitor.visit_map(Entries { entries: object.iter(), value: None })
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConfError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConfError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfError> {
        match self.0 {
            Value::Object(object) => {
                let fields = fields
                    .iter()
                    .filter_map(|f| Some((*f, matching(object, f)?)))
                    .collect::<Vec<_>>();
                visitor.visit_map(Fields { fields: fields.into_iter(), value: None })
            }
            Value::Null => {
                visitor.visit_map(Fields { fields: Vec::new().into_iter(), value: None })
            }
            _ => Err(self.wrong_type(&visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConfError> {
        match self.0 {
            Value::String(s) => {
                visitor.visit_enum(IntoDeserializer::<ConfError>::into_deserializer(s.as_str()))
            }
            _ => Err(self.wrong_type(&visitor)),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// A list; errors name the index.
struct List<'v> {
    items: std::iter::Enumerate<std::slice::Iter<'v, Value>>,
    at: usize,
}

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = ConfError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ConfError> {
        let Some((at, item)) = self.items.next() else { return Ok(None) };
        self.at = at;
        seed.deserialize(Fold(item)).map(Some).map_err(|e| e.inside(&format!("[{at}]")))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// An object as a generic map: keys as written.
struct Entries<'v> {
    entries: serde_json::map::Iter<'v>,
    value: Option<(&'v str, &'v Value)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = ConfError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ConfError> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key, value));
        let key: StrDeserializer<'_, ConfError> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ConfError> {
        let (key, value) = self.value.take().expect("serde asks for a key before its value");
        seed.deserialize(Fold(value)).map_err(|e| e.inside(key))
    }
}

/// An object as a struct: one entry per field that is given.
struct Fields<'v> {
    fields: std::vec::IntoIter<(&'static str, Cow<'v, Value>)>,
    value: Option<(&'static str, Cow<'v, Value>)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = ConfError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ConfError> {
        let Some((field, value)) = self.fields.next() else { return Ok(None) };
        self.value = Some((field, value));
        let field: StrDeserializer<'_, ConfError> = field.into_deserializer();
        seed.deserialize(field).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ConfError> {
        let (field, value) = self.value.take().expect("serde asks for a key before its value");
        seed.deserialize(Fold(&value)).map_err(|e| e.inside(field))
    }
}
