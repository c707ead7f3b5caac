//! Reading GGUF's numbers, texts and metadata values off a slice, with every length checked.
//!
//! Each function takes the name of the field it reads, for the error.
//!
//! The slice may be a mapped file, whose bytes another process can change between two looks. So no
//! `&str` into it is ever kept: a text is bytes, copied first and checked as UTF-8 then, each time
//! it is asked for. Bytes that have changed since parsing are values that are not there.

use crate::error::Malformed;

/// A metadata value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Type 0.
    U8(u8),
    /// Type 1.
    I8(i8),
    /// Type 2.
    U16(u16),
    /// Type 3.
    I16(i16),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8: UTF-8 when it was parsed.
    Text(&'a [u8]),
    /// Type 9.
    Array(Array<'a>),
    /// Type 10.
    U64(u64),
    /// Type 11.
    I64(i64),
    /// Type 12.
    F64(f64),
}

impl<'a> Value<'a> {
    /// The value as a whole number of at least 0, whichever integer type holds it.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::U64(n) => Some(n),
            Self::I8(n) => n.try_into().ok(),
            Self::I16(n) => n.try_into().ok(),
            Self::I32(n) => n.try_into().ok(),
            Self::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(n) => Some(n.into()),
            Self::F64(n) => Some(n),
            _ => self.as_u64().map(|n| n as f64),
        }
    }

    /// A copy of the text, if it is one.
    pub fn as_text(&self) -> Option<String> {
        match *self {
            Self::Text(bytes) => String::from_utf8(bytes.to_vec()).ok(),
            _ => None,
        }
    }
}

/// An array of one element type, still in the file's bytes, which have been checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    kind: u32,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, read one by one.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let kind = self.kind;
        let mut reader = Reader::new(self.bytes);
        // Every element was read once by `Reader::array`, so none fails here (were the file to
        // change meanwhile, the list would end early).
        (0..self.len).map_while(move |_| reader.value("element", kind).ok())
    }
}

/// A place in a slice that moves forward.
pub(super) struct Reader<'a> {
    all: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(all: &'a [u8]) -> Self {
        Self { all, position: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    fn remaining(&self) -> usize {
        self.all.len() - self.position
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, field: &str, count: usize) -> Result<&'a [u8], Malformed> {
        if count > self.remaining() {
            let reason =
                format!("needs {count} bytes where the file has {} left", self.remaining());
            return Err(Malformed::new(field, reason));
        }
        let bytes = &self.all[self.position..self.position + count];
        self.position += count;
        Ok(bytes)
    }

    fn chunk<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Malformed> {
        let mut chunk = [0; N];
        chunk.copy_from_slice(self.bytes(field, N)?);
        Ok(chunk)
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, Malformed> {
        self.chunk(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64, Malformed> {
        self.chunk(field).map(u64::from_le_bytes)
    }

    /// A count of things of at least `least_bytes` each, which the remaining bytes must be able to hold.
    pub(super) fn count(&mut self, field: &str, least_bytes: usize) -> Result<usize, Malformed> {
        let count = self.u64(field)?;
        let most = self.remaining() / least_bytes;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => {
                let reason = format!("{count}, but the rest of the file holds at most {most}");
                Err(Malformed::new(field, reason))
            }
        }
    }

    /// A text: its length, and UTF-8.
    pub(super) fn text(&mut self, field: &str) -> Result<String, Malformed> {
        let length = self.count(field, 1)?;
        let bytes = self.bytes(field, length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::new(field, "is not UTF-8"))
    }

    /// A text's bytes, which are UTF-8 at this moment.
    fn text_bytes(&mut self, field: &str) -> Result<&'a [u8], Malformed> {
        let length = self.count(field, 1)?;
        let bytes = self.bytes(field, length)?;
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(bytes),
            Err(_) => Err(Malformed::new(field, "is not UTF-8")),
        }
    }

    /// A metadata value of type `kind`.
    pub(super) fn value(&mut self, key: &str, kind: u32) -> Result<Value<'a>, Malformed> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.chunk(key)?)),
            1 => Value::I8(i8::from_le_bytes(self.chunk(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.chunk(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.chunk(key)?)),
            4 => Value::U32(u32::from_le_bytes(self.chunk(key)?)),
            5 => Value::I32(i32::from_le_bytes(self.chunk(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.chunk(key)?)),
            7 => match self.chunk(key)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    return Err(Malformed::new(key, format!("{other} is not a truth value")));
                }
            },
            8 => Value::Text(self.text_bytes(key)?),
            9 => Value::Array(self.array(key)?),
            10 => Value::U64(u64::from_le_bytes(self.chunk(key)?)),
            11 => Value::I64(i64::from_le_bytes(self.chunk(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.chunk(key)?)),
            other => return Err(Malformed::new(key, format!("unknown value type {other}"))),
        })
    }

    /// An array: element type, count, elements. Arrays of arrays are refused, as ggml does.
    fn array(&mut self, key: &str) -> Result<Array<'a>, Malformed> {
        let kind = self.u32(key)?;
        let least_bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(Malformed::new(key, "arrays of arrays are not supported")),
            other => return Err(Malformed::new(key, format!("unknown element type {other}"))),
        };
        let len = self.count(key, least_bytes)?;
        let start = self.position;
        for _ in 0..len {
            self.value(key, kind)?;
        }
        Ok(Array { kind, len, bytes: &self.all[start..self.position] })
    }
}
