//! The safetensors format: eight bytes of header length, a JSON header, and the tensors' bytes.
//!
//! Source: <https://huggingface.co/docs/safetensors>. As the reference reader does, a file is refused
//! unless its tensors cover the data without holes or overlaps: what a header doesn't mention can't be
//! smuggled in. Nothing is allocated that the header's own length does not pay for.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use wharf_kernels::quant::Format;

use crate::{
    error::Malformed,
    tensor::{Dtype, TensorInfo, byte_len},
};

/// The reference reader's limit on the JSON header.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What stands in a repository cloned without its large files. As a header length it would be 10^18.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Reads the header of `file` (a whole safetensors file) and checks it against the file's length.
pub fn parse_header(file: &[u8]) -> Result<Vec<TensorInfo>, Malformed> {
    if file.starts_with(LFS_POINTER) {
        let reason = "is a Git LFS pointer, not the weights (`git lfs pull` fetches them)";
        return Err(Malformed::new("file", reason));
    }
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(Malformed::new("header", format!("the file has only {} bytes", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        let limit = MAX_HEADER_BYTES;
        return Err(Malformed::new(
            "header length",
            format!("{length} bytes, the limit is {limit}"),
        ));
    }
    let length = length as usize;
    let Some((header, data)) = rest.split_at_checked(length) else {
        let have = rest.len();
        return Err(Malformed::new(
            "header length",
            format!("{length} bytes, the file has {have} more"),
        ));
    };
    if header.first() != Some(&b'{') {
        return Err(Malformed::new("header", "does not begin with '{'"));
    }
    // A copy: the file may be mapped, and the parser checks a text's bytes once and then believes
    // them to be UTF-8, which another process could change in between.
    let header = header.to_vec();
    let Header(entries) =
        serde_json::from_slice(&header).map_err(|e| Malformed::new("header", e.to_string()))?;
    locate(entries, 8 + length, data.len())
}

/// Turns the header's entries into tensors of a file whose `data_len` bytes of data begin at `data_start`.
fn locate(
    entries: Vec<(String, Entry)>,
    data_start: usize,
    data_len: usize,
) -> Result<Vec<TensorInfo>, Malformed> {
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let dtype = dtype_of(&name, &entry.dtype)?;
        let need = byte_len(&name, dtype, &entry.shape)?;
        let [begin, end] = entry.data_offsets;
        if begin > end || end > data_len {
            let reason = format!("data_offsets [{begin}, {end}] of {data_len} bytes of data");
            return Err(Malformed::new(name, reason));
        }
        if end - begin != need {
            let reason = format!(
                "{} of shape {:?} is {need} bytes, data_offsets [{begin}, {end}] hold {}",
                entry.dtype,
                entry.shape,
                end - begin
            );
            return Err(Malformed::new(name, reason));
        }
        let bytes = data_start + begin..data_start + end;
        tensors.push(TensorInfo { name, dtype, shape: entry.shape, bytes });
    }
    check_cover(&mut tensors, data_start, data_len)?;
    Ok(tensors)
}

/// Sorts the tensors by place and checks that they cover the data exactly.
fn check_cover(
    tensors: &mut [TensorInfo],
    data_start: usize,
    data_len: usize,
) -> Result<(), Malformed> {
    tensors.sort_unstable_by_key(|tensor| (tensor.bytes.start, tensor.bytes.end));
    let mut covered = data_start;
    for tensor in tensors.iter() {
        if tensor.bytes.start != covered {
            let reason = format!(
                "begins at byte {} of the data where {} was expected (a hole or an overlap)",
                tensor.bytes.start - data_start,
                covered - data_start
            );
            return Err(Malformed::new(&tensor.name, reason));
        }
        covered = tensor.bytes.end;
    }
    if covered - data_start != data_len {
        let reason = format!(
            "the tensors are {} bytes, the file holds {data_len} bytes of data",
            covered - data_start
        );
        return Err(Malformed::new("header", reason));
    }
    Ok(())
}

fn dtype_of(name: &str, dtype: &str) -> Result<Dtype, Malformed> {
    match dtype {
        "F32" => Ok(Format::F32.into()),
        "F16" => Ok(Format::F16.into()),
        "BF16" => Ok(Format::Bf16.into()),
        "F8_E4M3" => Ok(Dtype::F8E4M3),
        "U8" => Ok(Dtype::U8),
        "I8" => Ok(Dtype::I8),
        "I32" => Ok(Dtype::I32),
        "I64" => Ok(Dtype::I64),
        other => {
            let known = "F32, F16, BF16, F8_E4M3, U8, I8, I32 and I64";
            let reason = format!("dtype {other:?} is not supported ({known} are)");
            Err(Malformed::new(name, reason))
        }
    }
}

/// One tensor as the header writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    /// Begin and end, counted from the beginning of the data.
    data_offsets: [usize; 2],
}

/// The header in the file's order. Not a map: serde's would let a repeated name win in silence.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                let mut names = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        // Free text of whoever wrote the file; only its type is fixed.
                        map.next_value::<std::collections::BTreeMap<String, String>>()?;
                        continue;
                    }
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name}: named twice")));
                    }
                    let entry =
                        map.next_value().map_err(|e| A::Error::custom(format!("{name}: {e}")))?;
                    entries.push((name, entry));
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Reads `model.safetensors.index.json`: (tensor, shard's file name) in the file's order.
///
/// A shard's name must be a plain file name: a downloaded index must not reach outside its folder.
pub fn parse_index(json: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: serde_json::Map<String, serde_json::Value>,
    }
    let index: Index =
        serde_json::from_slice(json).map_err(|e| Malformed::new("index", e.to_string()))?;
    let mut shards = Vec::with_capacity(index.weight_map.len());
    for (name, file) in index.weight_map {
        let field = format!("weight_map.{name}");
        let serde_json::Value::String(file) = file else {
            return Err(Malformed::new(field, "must be a file name"));
        };
        let plain = !file.is_empty()
            && !file.starts_with('.')
            && file.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !plain {
            return Err(Malformed::new(field, format!("{file:?} is not a plain file name")));
        }
        shards.push((name, file));
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn fault(header: &str, data: &[u8]) -> String {
        parse_header(&file(header, data)).unwrap_err().to_string()
    }

    #[test]
    fn reads_tensors_in_the_order_of_their_bytes() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},
            "a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
        let tensors = parse_header(&file(header, &[0; 22])).unwrap();
        let start = 8 + header.len();
        assert_eq!(tensors[0].name, "a");
        assert_eq!(tensors[0].shape, [2, 2]);
        assert_eq!(tensors[0].bytes, start..start + 16);
        assert_eq!(tensors[1].dtype, Format::Bf16.into());
    }

    #[test]
    fn a_scalar_is_one_weight_and_an_empty_tensor_none() {
        let header = r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
            "e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]}}"#;
        assert_eq!(parse_header(&file(header, &[0; 4])).unwrap().len(), 2);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        assert!(parse_header(b"").is_err());
        assert!(parse_header(&[0; 8]).is_err());
        assert!(parse_header(&u64::MAX.to_le_bytes()).is_err());
        let mut long = file("{}", b"");
        long[0] = 3;
        assert!(parse_header(&long).unwrap_err().field.contains("header length"));
        assert!(parse_header(&(MAX_HEADER_BYTES + 1).to_le_bytes()).is_err());
    }

    #[test]
    fn a_file_that_was_not_fetched_says_so() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        assert!(parse_header(pointer).unwrap_err().reason.contains("Git LFS"));
    }

    #[test]
    fn faults_name_the_tensor() {
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        assert!(fault(&one("F64", "[1]", "[0,8]"), &[0; 8]).starts_with("w: dtype \"F64\""));
        assert!(fault(&one("F32", "[2]", "[0,4]"), &[0; 4]).starts_with("w: F32 of shape"));
        assert!(fault(&one("F32", "[1]", "[4,0]"), &[0; 4]).starts_with("w: data_offsets"));
        assert!(fault(&one("F32", "[1]", "[4,8]"), &[0; 8]).starts_with("w: begins at byte 4"));
        assert!(fault(&one("F32", "[1]", "[0,4]"), &[0; 5]).contains("holds 5 bytes"));
        let huge = "[4611686018427387904,4611686018427387904]";
        assert!(fault(&one("F32", huge, "[0,4]"), &[0; 4]).starts_with("w: "));
        assert!(fault(&one("F32", "[-1]", "[0,4]"), &[0; 4]).contains("w: "));
    }

    #[test]
    fn overlaps_and_repeated_names_are_refused() {
        let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
        assert!(fault(overlap, &[0; 8]).starts_with("b: begins"));
        let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
            "a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
        assert!(fault(twice, &[0; 8]).contains("named twice"));
        assert!(fault("[]", b"").contains("'{'"));
        assert!(fault("{", b"").starts_with("header"));
        let deep = format!("{{\"__metadata__\":{}", "[".repeat(100_000));
        assert!(fault(&deep, b"").starts_with("header"));
    }

    #[test]
    fn an_index_names_plain_files_only() {
        let map = |file: &str| format!(r#"{{"weight_map":{{"w":{file}}}}}"#);
        let good = parse_index(map("\"model-00001-of-00002.safetensors\"").as_bytes()).unwrap();
        assert_eq!(good[0].1, "model-00001-of-00002.safetensors");
        for bad in ["\"../x\"", "\"/etc/passwd\"", "\"a/b\"", "\"\"", "\"..\"", "3", "\"a\\\\b\""] {
            let fault = parse_index(map(bad).as_bytes()).unwrap_err();
            assert_eq!(fault.field, "weight_map.w", "{bad}");
        }
        assert!(parse_index(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_header(&bytes);
            let _ = parse_index(&bytes);
        }

        #[test]
        fn any_header_text_gives_tensors_inside_the_file(
            dtype in prop::sample::select(vec!["F32", "F16", "BF16", "F8_E4M3", "I32", "F64"]),
            shape in proptest::collection::vec(any::<u32>().prop_map(|n| n % 9), 0..4),
            begin in 0usize..40,
            length in 0usize..40,
            data in 0usize..80,
        ) {
            let end = begin + length;
            let header = format!(
                r#"{{"w":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}}}"#
            );
            let bytes = file(&header, &vec![0; data]);
            if let Ok(tensors) = parse_header(&bytes) {
                prop_assert!(bytes.get(tensors[0].bytes.clone()).is_some());
            }
        }

        #[test]
        fn a_good_file_changed_in_one_byte_gives_an_answer(at in 0usize..200, to in any::<u8>()) {
            let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
            let mut bytes = file(header, &[0; 16]);
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(tensors) = parse_header(&bytes) {
                for tensor in tensors {
                    prop_assert!(bytes.get(tensor.bytes).is_some());
                }
            }
        }
    }
}
