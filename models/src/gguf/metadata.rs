use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Map, Value as Json};

use super::cursor::{Cursor, Fault};
use crate::{Bytes, ModelError};

/// Most keys a file may have; published files have some dozens.
const MAX_KEYS: u64 = 1 << 16;
/// A key's length, its type and the smallest value.
const LEAST_ENTRY: usize = 8 + 4 + 1;

/// A file's keys and values. Strings and arrays stay in the file; they were walked through once, so that every length
/// in them is known to be good.
#[derive(Debug)]
pub struct GgufMetadata {
    label: String,
    bytes: Bytes,
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// Where the value begins.
    at: usize,
    /// Type and value in the file.
    range: Range<usize>,
    value: Stored,
}

#[derive(Debug, Clone)]
enum Stored {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    /// Type of the elements, their number, and where they begin.
    Array(Kind, u64, usize),
}

/// A value's type, by GGUF's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    U64,
    I64,
    F64,
}

impl Kind {
    fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Kind::U8,
            1 => Kind::I8,
            2 => Kind::U16,
            3 => Kind::I16,
            4 => Kind::U32,
            5 => Kind::I32,
            6 => Kind::F32,
            7 => Kind::Bool,
            8 => Kind::String,
            10 => Kind::U64,
            11 => Kind::I64,
            12 => Kind::F64,
            _ => return None,
        })
    }

    /// Bytes of one; of a string, its length only.
    fn size(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::String | Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }
}

const ARRAY: u32 = 9;

/// A value as it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

impl Value<'_> {
    /// An integer of either sign.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::Unsigned(number) => i64::try_from(number).ok(),
            Value::Signed(number) => Some(number),
            _ => None,
        }
    }

    fn to_json(&self, longest: usize) -> Json {
        match self {
            Value::Unsigned(number) => Json::from(*number),
            Value::Signed(number) => Json::from(*number),
            Value::Float(number) => Json::from(*number),
            Value::Bool(flag) => Json::from(*flag),
            Value::String(text) => Json::from(*text),
            Value::Array(array) if array.count_left() > longest => Json::Null,
            Value::Array(array) => array.clone().map(|value| value.to_json(longest)).collect(),
        }
    }

    /// Any number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::Unsigned(number) => Some(number as f64),
            Value::Signed(number) => Some(number as f64),
            Value::Float(number) => Some(number),
            _ => None,
        }
    }
}

/// Values of one type, read from the file as they are asked for.
#[derive(Debug, Clone)]
pub struct Array<'a> {
    cursor_at: usize,
    kind: Kind,
    left: u64,
    bytes: &'a [u8],
}

impl PartialEq for Array<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.clone().eq(other.clone())
    }
}

impl<'a> Array<'a> {
    /// How many values are left.
    pub fn count_left(&self) -> usize {
        self.left as usize
    }
}

/// Ends early where a string is not UTF-8; the reader of a whole array compares counts.
impl<'a> Iterator for Array<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut cursor = Cursor::starting_at(self.bytes, self.cursor_at);
        let stored = scalar(&mut cursor, self.kind).ok()?;
        self.cursor_at = cursor.at();
        resolve(self.bytes, &stored)
    }
}

impl GgufMetadata {
    /// Reads the keys and values that `cursor` stands before.
    pub(super) fn parse(
        label: &str,
        bytes: &Bytes,
        cursor: &mut Cursor<'_>,
        count: u64,
    ) -> Result<Self, ModelError> {
        let mut metadata = Self { label: label.into(), bytes: bytes.clone(), entries: HashMap::new() };
        let at_file = |fault: Fault| ModelError::File { file: label.into(), message: fault.to_string() };
        if count > MAX_KEYS {
            return Err(at_file(cursor.fault(format!("{count} keys, at most {MAX_KEYS} are accepted"))));
        }
        for _ in 0..count {
            let at = cursor.at();
            let key = cursor.name("a key's name").map_err(at_file)?;
            let in_key = |fault: Fault| metadata.error(key, fault.to_string());
            if metadata.entries.contains_key(key) {
                return Err(in_key(Fault { at, message: "appears twice".into() }));
            }
            let entry = entry(cursor).map_err(in_key)?;
            metadata.entries.insert(key.into(), entry);
        }
        Ok(metadata)
    }

    /// The least bytes an entry takes.
    pub(super) const LEAST: usize = LEAST_ENTRY;

    /// The file's name, for messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// A string that is not UTF-8.
    pub(super) fn get(&self, key: &str) -> Result<Option<Value<'_>>, ModelError> {
        let Some(entry) = self.entries.get(key) else {
            return Ok(None);
        };
        match resolve(&self.bytes, &entry.value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(key, "is not UTF-8")),
        }
    }

    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// All keys and values; of arrays with more than `longest` elements, null.
    pub fn to_json(&self, longest: usize) -> Map<String, Json> {
        let mut keys: Vec<&String> = self.entries.keys().collect();
        keys.sort_unstable();
        let value = |key: &String| match self.get(key) {
            Ok(Some(value)) => value.to_json(longest),
            _ => Json::Null,
        };
        keys.into_iter().map(|key| (key.clone(), value(key))).collect()
    }

    /// Type and value of `key` as the file has them; nothing where it has none.
    pub(super) fn stored(&self, key: &str) -> &[u8] {
        let range = self.entries.get(key).map_or(0..0, |entry| entry.range.clone());
        self.bytes.get(range).unwrap_or_default()
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A text.
    ///
    /// # Errors
    /// A value of another type.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "is not a string")),
        }
    }

    /// An integer that is not negative.
    ///
    /// # Errors
    /// A value of another type.
    pub fn size(&self, key: &str) -> Result<Option<u64>, ModelError> {
        match self.get(key)? {
            None => Ok(None),
            Some(value) => match value.as_i64().map(u64::try_from) {
                Some(Ok(size)) => Ok(Some(size)),
                _ => Err(self.wrong(key, "is not a size")),
            },
        }
    }

    /// A finite number.
    ///
    /// # Errors
    /// A value of another type.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.get(key)? {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(key, "is not a finite number")),
            },
        }
    }

    /// A flag.
    ///
    /// # Errors
    /// A value of another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.get(key)? {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.wrong(key, "is not a bool")),
        }
    }

    /// A list, every value turned by `convert`.
    ///
    /// # Errors
    /// A value that is no array, or an element that `convert` has nothing for.
    pub(super) fn list<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, ModelError> {
        let Some(value) = self.get(key)? else {
            return Ok(None);
        };
        let Value::Array(array) = value else {
            return Err(self.wrong(key, &format!("is not an array of {expected}")));
        };
        let len = array.count_left();
        let list: Vec<T> = array.map_while(convert).collect();
        if list.len() != len {
            return Err(self.wrong(key, &format!("element {} is not one of {expected}", list.len())));
        }
        Ok(Some(list))
    }

    /// What is wrong with the value of `key`, with its place.
    pub(crate) fn wrong(&self, key: &str, message: &str) -> ModelError {
        match self.entries.get(key) {
            Some(entry) => self.error(key, format!("at byte {}: {message}", entry.at)),
            None => self.error(key, message.into()),
        }
    }

    fn error(&self, key: &str, message: String) -> ModelError {
        ModelError::Config { file: self.label.clone(), key: key.into(), message }
    }
}

fn entry(cursor: &mut Cursor<'_>) -> Result<Entry, Fault> {
    let at = cursor.at();
    let id = cursor.u32("the value's type")?;
    let start = cursor.at();
    let value = if id == ARRAY { array(cursor)? } else { scalar(cursor, kind(id, at)?)? };
    Ok(Entry { at: start, range: at..cursor.at(), value })
}

fn kind(id: u32, at: usize) -> Result<Kind, Fault> {
    let message = match id {
        ARRAY => "arrays within arrays are not supported".into(),
        _ => format!("value type {id} does not exist"),
    };
    Kind::from_id(id).ok_or(Fault { at, message })
}

fn array(cursor: &mut Cursor<'_>) -> Result<Stored, Fault> {
    let at = cursor.at();
    let kind = kind(cursor.u32("the elements' type")?, at)?;
    let count = cursor.count(kind.size(), "the number of elements")?;
    let start = cursor.at();
    if kind == Kind::String {
        for _ in 0..count {
            cursor.string("a string")?;
        }
    } else {
        // No overflow: `count` elements were found to fit into the file.
        cursor.skip(count * kind.size() as u64, "the array")?;
    }
    Ok(Stored::Array(kind, count, start))
}

fn scalar(cursor: &mut Cursor<'_>, kind: Kind) -> Result<Stored, Fault> {
    const WHAT: &str = "the value";
    Ok(match kind {
        Kind::U8 => Stored::Unsigned(cursor.u8(WHAT)?.into()),
        Kind::I8 => Stored::Signed((cursor.u8(WHAT)? as i8).into()),
        Kind::U16 => Stored::Unsigned(cursor.u16(WHAT)?.into()),
        Kind::I16 => Stored::Signed((cursor.u16(WHAT)? as i16).into()),
        Kind::U32 => Stored::Unsigned(cursor.u32(WHAT)?.into()),
        Kind::I32 => Stored::Signed((cursor.u32(WHAT)? as i32).into()),
        Kind::F32 => Stored::Float(f32::from_bits(cursor.u32(WHAT)?).into()),
        Kind::Bool => Stored::Bool(cursor.u8(WHAT)? != 0),
        Kind::String => Stored::String(cursor.string("a string")?),
        Kind::U64 => Stored::Unsigned(cursor.u64(WHAT)?),
        Kind::I64 => Stored::Signed(cursor.u64(WHAT)? as i64),
        Kind::F64 => Stored::Float(f64::from_bits(cursor.u64(WHAT)?)),
    })
}

/// `None` for a string that is not UTF-8.
fn resolve<'a>(bytes: &'a [u8], stored: &Stored) -> Option<Value<'a>> {
    Some(match stored {
        Stored::Unsigned(number) => Value::Unsigned(*number),
        Stored::Signed(number) => Value::Signed(*number),
        Stored::Float(number) => Value::Float(*number),
        Stored::Bool(flag) => Value::Bool(*flag),
        Stored::String(range) => Value::String(std::str::from_utf8(bytes.get(range.clone())?).ok()?),
        Stored::Array(kind, count, start) => {
            Value::Array(Array { cursor_at: *start, kind: *kind, left: *count, bytes })
        }
    })
}
