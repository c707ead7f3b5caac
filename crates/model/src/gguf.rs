//! The GGUF format, versions 2 and 3, little endian: metadata, tensor list, tensors.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Parsing borrows from the file:
//! a count or a length is believed only as far as the bytes that are left could pay for it, so a hostile
//! file can't make us allocate more than a few times its own size. What the metadata *means* is
//! `metadata`'s business.

mod metadata;
mod reader;

use std::collections::{BTreeMap, HashSet};

pub use metadata::{chat_template, config, vocabulary};
use reader::Reader;
pub use reader::{Array, Value};
use wharf_kernels::quant::Format;

use crate::{
    error::Malformed,
    tensor::{TensorInfo, byte_len, check_disjoint},
};

/// What a GGUF file begins with.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// ggml's own limit on dimensions.
const MAX_DIMS: u32 = 4;

/// Past this, "alignment" is padding to blow a file up with.
const MAX_ALIGNMENT: u32 = 1 << 20;

/// A parsed GGUF file; its values borrow from the file's bytes.
#[derive(Debug)]
pub struct Gguf<'a> {
    metadata: BTreeMap<String, Value<'a>>,
    /// In the file's order.
    pub tensors: Vec<TensorInfo>,
}

impl<'a> Gguf<'a> {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.metadata.get(key)
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }
}

/// Parses a whole GGUF file and checks that its tensors lie in it.
pub fn parse(file: &[u8]) -> Result<Gguf<'_>, Malformed> {
    let mut reader = Reader::new(file);
    let (tensor_count, pair_count) = header(&mut reader)?;

    let mut metadata = BTreeMap::new();
    for _ in 0..pair_count {
        let key = reader.text("metadata key")?;
        let kind = reader.u32(&key)?;
        let value = reader.value(&key, kind)?;
        if metadata.contains_key(&key) {
            return Err(Malformed::new(key, "is given twice"));
        }
        metadata.insert(key, value);
    }

    let alignment = alignment(metadata.get("general.alignment"))?;
    // Offsets are counted from the end of the list, so they are resolved after it.
    let mut tensors = Vec::with_capacity(tensor_count);
    for _ in 0..tensor_count {
        tensors.push(tensor(&mut reader)?);
    }
    let data_start = reader
        .position()
        .checked_next_multiple_of(alignment)
        .filter(|start| *start <= file.len() || tensors.is_empty())
        .ok_or_else(|| Malformed::new("tensor data", "the file ends before it"))?;
    place(&mut tensors, data_start, file.len(), alignment)?;
    Ok(Gguf { metadata, tensors })
}

/// Reads magic, version and counts: (tensors, metadata pairs).
fn header(reader: &mut Reader<'_>) -> Result<(usize, usize), Malformed> {
    if reader.bytes("magic", 4)? != MAGIC {
        return Err(Malformed::new("magic", "is not \"GGUF\""));
    }
    match reader.u32("version")? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 => {
            return Err(Malformed::new(
                "version",
                "the file is big endian, which is not supported",
            ));
        }
        version => {
            let reason = format!("{version} is not supported (2 and 3 are)");
            return Err(Malformed::new("version", reason));
        }
    }
    // A tensor is at least a name's length, the number of dimensions, a type and an offset; a pair at
    // least a key's length, a type and one byte.
    let tensors = reader.count("tensor count", 8 + 4 + 4 + 8)?;
    let pairs = reader.count("metadata count", 8 + 4 + 1)?;
    Ok((tensors, pairs))
}

fn alignment(value: Option<&Value<'_>>) -> Result<usize, Malformed> {
    match value {
        None => Ok(32),
        Some(Value::U32(bytes)) if bytes.is_power_of_two() && *bytes <= MAX_ALIGNMENT => {
            Ok(*bytes as usize)
        }
        Some(_) => {
            let reason = format!("must be a power of two of at most {MAX_ALIGNMENT}, as u32");
            Err(Malformed::new("general.alignment", reason))
        }
    }
}

/// Reads one entry of the tensor list; its range is counted from the beginning of the data.
fn tensor(reader: &mut Reader<'_>) -> Result<TensorInfo, Malformed> {
    let name = reader.text("tensor name")?;
    let dims = reader.u32(&name)?;
    if dims > MAX_DIMS {
        return Err(Malformed::new(name, format!("{dims} dimensions, the limit is {MAX_DIMS}")));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        let dim = reader.u64(&name)?;
        let dim = usize::try_from(dim)
            .map_err(|_| Malformed::new(&name, format!("a dimension of {dim}")))?;
        shape.push(dim);
    }
    // GGUF lists the innermost dimension first.
    shape.reverse();
    let dtype = format_of(&name, reader.u32(&name)?)?.into();
    let offset = reader.u64(&name)?;
    let length = byte_len(&name, dtype, &shape)?;
    let bytes = usize::try_from(offset)
        .ok()
        .and_then(|offset| Some(offset..offset.checked_add(length)?))
        .ok_or_else(|| Malformed::new(&name, format!("offset {offset} is out of range")))?;
    Ok(TensorInfo { name, dtype, shape, bytes })
}

/// Moves the tensors' ranges to the data's place in the file, and checks them.
fn place(
    tensors: &mut [TensorInfo],
    data_start: usize,
    file_len: usize,
    alignment: usize,
) -> Result<(), Malformed> {
    let mut names = HashSet::with_capacity(tensors.len());
    for tensor in tensors.iter_mut() {
        let offset = tensor.bytes.start;
        if offset % alignment != 0 {
            let reason = format!("offset {offset} is not a multiple of {alignment}");
            return Err(Malformed::new(&tensor.name, reason));
        }
        let end = data_start.checked_add(tensor.bytes.end).filter(|end| *end <= file_len);
        let Some(end) = end else {
            let reason = format!(
                "its {} bytes at offset {offset} of the data reach past the end of the file",
                tensor.bytes.len()
            );
            return Err(Malformed::new(&tensor.name, reason));
        };
        tensor.bytes = data_start + offset..end;
    }
    for tensor in tensors.iter() {
        if !names.insert(tensor.name.as_str()) {
            return Err(Malformed::new(&tensor.name, "is listed twice"));
        }
    }
    check_disjoint(tensors)
}

/// The storage format of a `ggml_type`.
fn format_of(name: &str, kind: u32) -> Result<Format, Malformed> {
    let other = match kind {
        0 => return Ok(Format::F32),
        1 => return Ok(Format::F16),
        2 => return Ok(Format::Q4_0),
        3 => return Ok(Format::Q4_1),
        6 => return Ok(Format::Q5_0),
        7 => return Ok(Format::Q5_1),
        8 => return Ok(Format::Q8_0),
        12 => return Ok(Format::Q4K),
        13 => return Ok(Format::Q5K),
        14 => return Ok(Format::Q6K),
        30 => return Ok(Format::Bf16),
        39 => return Ok(Format::Mxfp4),
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16..=23 | 29 => "IQ",
        24..=27 => "integers",
        28 => "F64",
        34 | 35 => "ternary",
        _ => "unknown",
    };
    let reason = format!(
        "type {kind} ({other}) is not supported \
         (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, MXFP4 are)"
    );
    Err(Malformed::new(name, reason))
}

#[cfg(test)]
pub(crate) mod tests;
