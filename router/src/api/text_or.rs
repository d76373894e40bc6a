//! A field that is a text or a list.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// Read by hand, so that what is wrong with an element is told. (`Serialize` gives the schema its form.)
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum TextOr<T> {
    Text(String),
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOr<T>;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("a string or an array")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TextOr<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(TextOr::List)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_element_is_told() {
        let read = |text: &str| serde_json::from_str::<TextOr<u8>>(text);
        assert!(matches!(read("\"a\""), Ok(TextOr::Text(text)) if text == "a"));
        assert!(matches!(read("[1, 2]"), Ok(TextOr::List(list)) if list == [1, 2]));
        let message = |text: &str| read(text).unwrap_err().to_string();
        assert!(message("[1, 256]").starts_with("invalid value: integer `256`, expected u8"));
        assert!(message("{}").starts_with("invalid type: map, expected a string or an array"));
    }
}
